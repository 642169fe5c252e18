"""One noise stream per image: batch size, device count and resuming change no image.

Each image owns a generator seeded with its own seed. Draws are made on the CPU in float64
and moved, so that every device sees the same numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class SeedError(ValueError):
    """Seeds that cannot give every image its own noise."""


def labels(seeds: Sequence[int], num_classes: int) -> Tensor:
    """Class labels [B] of the seeds: seed modulo classes, so any block of seeds is balanced."""
    return torch.tensor(list(seeds)) % num_classes


class Noise:
    """Standard normal draws [B, *shape], image i from a stream that only `seeds[i]` decides.

    Call it for the next draw. The first draw is the starting noise x_T, by convention.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        seeds = list(seeds)
        if not seeds:
            raise SeedError("no seeds: give one per image")
        if len(set(seeds)) != len(seeds):
            raise SeedError("a seed occurs twice: two images would share their noise")
        if any(seed < 0 for seed in seeds):
            raise SeedError(f"seeds are not negative; the smallest is {min(seeds)}")
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._streams)

    def __call__(self) -> Tensor:
        draws = [
            torch.randn(self.shape, generator=stream, dtype=torch.float64)
            for stream in self._streams
        ]
        return torch.stack(draws).to(self.device, self.dtype)
