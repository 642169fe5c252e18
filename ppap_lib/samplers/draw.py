"""Images from seeds: to rounding the same pictures for any batch size and device."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.noise import Noise
from ppap_lib.errors import InputError
from ppap_lib.samplers import Step, sample


def batches(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The seeds in consecutive batches of `size`, the last one shorter."""
    if size < 1:
        raise InputError(f"a batch has at least one image, not {size}")
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


def usual_batch(device: torch.device | str, shape: Sequence[int]) -> int:
    """Images of `shape` (C, H, W) at a time: what a CPU's caches hold, or enough for a GPU."""
    if torch.device(device).type == "cpu":
        return 32
    return max(1, min(256, 64 * 256**2 // (shape[-2] * shape[-1])))


def generate(
    denoise: Denoise | Callable[[Sequence[int]], Denoise],
    shape: tuple[int, int, int],
    seeds: Sequence[int],
    grid: Sequence[Level],
    step: Step,
    *,
    steered: bool = False,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    done: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """One image per seed: float32 [len(seeds), *shape], clamped to [-1, 1], on the CPU.

    With `steered`, `denoise` is a function from a batch's seeds to its denoiser, as guidance
    towards labels needs. `batch` images are drawn at a time (default: by the device), and `done`
    hears their number after every batch.
    """
    parts = []
    for part in batches(seeds, usual_batch(device, shape) if batch is None else batch):
        noise = Noise(part, shape, device=device)
        steering = denoise(part) if steered else denoise
        x0 = sample(steering, noise(), grid, step, noise)
        parts.append(x0.clamp(-1, 1).float().cpu())
        done(len(part))
    if not parts:
        raise InputError("no seeds: give one per image")
    return torch.cat(parts)
