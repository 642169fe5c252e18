"""Cost of networks: parameters, multiply-accumulates, and the peak rates of devices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {
    "H200": {"bf16": 989.4e12, "fp32": 66.9e12},
    "H100 PCIe": {"bf16": 756.5e12, "fp32": 51.2e12},
    "H100 NVL": {"bf16": 835.5e12, "fp32": 60.0e12},
    "H100": {"bf16": 989.4e12, "fp32": 66.9e12},
    "A100": {"bf16": 311.9e12, "fp32": 19.5e12},
}
"""NVIDIA's dense peaks in FLOP/s (bf16 on tensor cores, fp32 without), by part of the name.

The first part that occurs in the device's name counts: the plain H100 is the SXM module.
"""


@dataclass(frozen=True)
class Size:
    """`parameters` (a count) and `gmac`, 10^9 multiply-accumulates of one image's forward."""

    parameters: int
    gmac: float


def size(
    network: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], shape: Sequence[int]
) -> Size:
    """Return the size of a network called as `forward(x, t)` on images of `shape` (C, H, W).

    On the network's own device, which may be "meta": counting then costs neither time nor memory.
    """
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward(torch.zeros(1, *shape, device=device), torch.zeros(1, device=device))
    parameters = sum(p.numel() for p in network.parameters())
    return Size(parameters, counter.get_total_flops() / 2e9)  # two per multiply-accumulate


def datasheet_peak(name: str, precision: str) -> float | None:
    """Return the maker's peak for a device of this name in FLOP/s, or None where not listed."""
    for part, peaks in PEAKS.items():
        if part.lower() in name.lower():
            return peaks[precision]
    return None
