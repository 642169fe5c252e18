"""How fast training is, and how much of the device that uses.

Floating-point operations are counted as two per multiply-add, on both sides of every ratio.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ppap_lib.data.pixels import from_bytes
from ppap_lib.device import device_title
from ppap_lib.training.objectives import Objective

DATASHEET = {
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
class Speed:
    """What one training image costs, and what the device can do at the precision in use.

    `peak` is the matrix-multiplication rate measured here, `datasheet` the maker's figure
    (None where not known); FLOP and FLOP/s.
    """

    flops_per_image: float
    peak: float
    datasheet: float | None
    precision: str
    device: str

    def share(self, images_per_second: float) -> float:
        """The share of the measured peak that this rate of training uses."""
        return images_per_second * self.flops_per_image / self.peak

    def __str__(self) -> str:
        known = "" if self.datasheet is None else f" (datasheet {self.datasheet / 1e12:.4g})"
        return (
            f"{self.flops_per_image / 1e9:.3f} GFLOP per training image; {self.device} multiplies "
            f"{self.precision} matrices at {self.peak / 1e12:.4g} TFLOP/s{known}"
        )


@dataclass(frozen=True)
class Size:
    """`parameters` (a count) and `gmac`, 10^9 multiply-accumulates of one image's forward."""

    parameters: int
    gmac: float


def size(
    network: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], shape: Sequence[int]
) -> Size:
    """Size of a network called as `forward(x, t)` on images of `shape` (C, H, W).

    On the network's own device, which may be "meta": counting then costs neither time nor memory.
    """
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward(torch.zeros(1, *shape, device=device), torch.zeros(1, device=device))
    parameters = sum(p.numel() for p in network.parameters())
    return Size(parameters, counter.get_total_flops() / 2e9)


def measured(
    network: nn.Module,
    objective: Objective,
    data: Tensor,
    labels: Tensor,
    batch: int,
    bf16: bool = False,
) -> Speed:
    """The speed figures of training `network` on uint8 `data` [N, C, H, W], on its device.

    In steps of `batch` images, of which one is taken.
    """
    device = next(network.parameters()).device
    dtype = torch.bfloat16 if bf16 else torch.float32
    precision = "bf16" if bf16 else "fp32"
    name = device_title(device)
    return Speed(
        flops_per_image=flops_per_image(network, objective, data, labels, batch, bf16),
        peak=matmul_rate(device, dtype),
        datasheet=datasheet_peak(name, precision),
        precision=precision,
        device=name,
    )


def flops_per_image(
    network: nn.Module,
    objective: Objective,
    data: Tensor,
    labels: Tensor,
    batch: int,
    bf16: bool = False,
) -> float:
    """FLOP of one image's forward and backward pass; leaves the network as it was.

    Counted in a whole step of `batch` images, as training takes it: what is computed once a step,
    such as the product of low-rank factors, is shared by all of them.
    """
    device = next(network.parameters()).device
    trial = copy.deepcopy(network).train()
    chosen = torch.arange(batch) % len(data)
    images = from_bytes(data[chosen.to(data.device)].to(device))
    generator = torch.Generator(device).manual_seed(0)
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        FlopCounterMode(display=False) as counter,
    ):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = objective(trial, images, labels[chosen.to(labels.device)].to(device), generator)
        loss.backward()
    return counter.get_total_flops() / batch


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of the fastest of `repeats` runs of square matrix products.

    On a CPU by the processor time of the threads in use, so that what else the machine is
    doing lowers the share of the peak that training reaches, and not the peak.
    """
    on_gpu = device.type == "cuda"
    size, products = (8192, 10) if on_gpu else (1024, 1)
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(size, size, device=device, dtype=dtype, generator=generator)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter() if on_gpu else time.process_time()
        for _ in range(products):
            a @ a
        if on_gpu:
            torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
        else:
            best = min(best, (time.process_time() - start) / torch.get_num_threads())
    return products * 2 * size**3 / best


def datasheet_peak(name: str, precision: str) -> float | None:
    """The maker's peak for a device of this name in FLOP/s, or None where not listed."""
    for part, peaks in DATASHEET.items():
        if part.lower() in name.lower():
            return peaks[precision]
    return None
