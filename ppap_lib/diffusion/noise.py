"""One noise stream per sample: batch size, device count and resuming change no draw.

Every sample owns a generator, seeded with its own seed. Draws are made on the CPU in float64 and
moved, so that every device sees the same numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppap_lib.errors import InputError

SEEDS = 2**32  # torch's CPU generator reads 32 bits: seed + 2**32 would repeat the stream


def _integers(seeds: Sequence[int]) -> list[int]:
    return [int(seed) for seed in seeds]  # elements of an array or a tensor do not compare


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return seeds as whole numbers, if samples can be drawn from them.

    Parameters
    ----------
    seeds
        One a sample, in [0, 2^32), each once.

    Raises
    ------
    InputError
        If there is no seed, one occurs twice, or one is out of range.
    """
    if isinstance(seeds, int):
        raise InputError(f"seeds are a sequence, one a sample: range({seeds}) has {seeds}")
    seeds = _integers(seeds)
    if not seeds:
        raise InputError("no seeds: give one per sample")
    if len(set(seeds)) != len(seeds):
        raise InputError("a seed occurs twice: two samples would share their noise")
    if not 0 <= min(seeds) <= max(seeds) < SEEDS:
        raise InputError(
            f"seeds must be in [0, 2^32), not [{min(seeds)}, {max(seeds)}]: a generator reads no "
            f"more bits"
        )
    return seeds


def seed_labels(seeds: Sequence[int], num_classes: int) -> Tensor:
    """Return the class labels of seeds, seed modulo classes, so that any block is balanced.

    Parameters
    ----------
    seeds
        Whole numbers, B of them.
    num_classes
        At least 1.

    Returns
    -------
    Tensor
        int64 [B].

    Raises
    ------
    InputError
        If there is no class.
    """
    if num_classes < 1:
        raise InputError(f"labels need at least one class, not {num_classes}")
    return torch.tensor(_integers(seeds), dtype=torch.int64) % num_classes


class Noise:
    """Standard normal draws [B, *shape], sample i from a stream that `seeds[i]` alone decides.

    Call it for the next draw. The first is the starting noise x_T, by convention: give the sampler
    the same object, for a new one of the same seeds would repeat x_T as the first step's noise.

    Parameters
    ----------
    seeds
        One a sample: see `check_seeds`, which refuses what cannot be drawn from.
    shape
        Shape of one sample, such as (C, H, W), (C, L) or (D,).
    dtype, device
        What draws are rounded and moved to.

    Raises
    ------
    InputError
        By `check_seeds`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self._streams = [torch.Generator().manual_seed(seed) for seed in check_seeds(seeds)]

    def __len__(self) -> int:
        return len(self._streams)

    def __call__(self) -> Tensor:
        draws = [
            torch.randn(self.shape, generator=stream, dtype=torch.float64)
            for stream in self._streams
        ]
        return torch.stack(draws).to(self.device, self.dtype)
