"""Cost: sizes are counted, peaks are looked up."""

import pytest
import torch
from torch import Tensor, nn

from ppap_book.measures.cost import datasheet_peak, size


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_macs_and_parameters_of_a_convolution_are_counted(device):
    with torch.device(device):
        convolution = nn.Conv2d(3, 8, 3, padding=1)

    def forward(x: Tensor, t: Tensor) -> Tensor:
        return convolution(x)

    counted = size(convolution, forward, (3, 16, 16))
    assert counted.parameters == 8 * (27 + 1)
    assert counted.gmac == pytest.approx(8 * 27 * 16 * 16 / 1e9)


def test_peaks_go_by_the_devices_name():
    assert datasheet_peak("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert datasheet_peak("NVIDIA H100 PCIe", "bf16") == 756.5e12
    assert datasheet_peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert datasheet_peak("x86_64 CPU with 1 thread(s)", "fp32") is None
