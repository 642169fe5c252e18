"""One noise stream per sample: batch size, device count and resuming change no draw.

Every sample owns a generator, seeded with its own seed. Draws are made on the CPU in float64 and
moved, so that every device sees the same numbers.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from ppap_lib.errors import InputError, PpapError
from ppap_lib.parameters import whole

SEEDS = 2**32  # torch's CPU generator reads 32 bits: seed + 2**32 would repeat the stream


def _whole_numbers(name: str, values: Iterable[int], low: int | None = None) -> list[int]:
    if isinstance(values, str | bytes):
        raise InputError(f"{name} is a whole number, one in a sequence, not {values!r}")
    try:
        values = list(values)
    except TypeError:
        raise InputError(
            f"{name} is a whole number, one in a sequence, not {values!r} alone"
        ) from None
    return [whole(name, value, low) for value in values]


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return seeds as whole numbers, if samples can be drawn from them.

    Parameters
    ----------
    seeds
        One a sample, in [0, 2^32), each once.

    Raises
    ------
    InputError
        If there is no seed, one occurs twice, is not whole or is out of range.
    """
    if isinstance(seeds, Integral):
        raise InputError(f"seeds are a sequence, one a sample: range({seeds}) has {seeds}")
    seeds = _whole_numbers("a seed", seeds)
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
        If there is no class, or a number is not whole.
    """
    if whole("num_classes", num_classes) < 1:
        raise InputError(f"labels need at least one class, not {num_classes}")
    return (
        torch.tensor(_whole_numbers("a seed", seeds), dtype=torch.int64, device="cpu") % num_classes
    )


def check_labels(
    labels: Tensor | Sequence[int] | int,
    count: int,
    num_classes: int,
    error: type[PpapError] = InputError,
) -> Tensor:
    """Return class labels as a tensor, if each is the index of a class.

    Parameters
    ----------
    labels
        Class indices, whole numbers [B]: a tensor, an array or a list; or one for all samples.
    count
        Number of samples B.
    num_classes
        Number of classes K. Indices are compared with it where they lie on the CPU: reading a
        GPU's would wait for it.
    error
        Class of the error that is raised.

    Returns
    -------
    Tensor
        int64 [B], where the labels are.

    Raises
    ------
    PpapError
        Of the class `error`, for labels of another kind or number, or not in [0, K).
    """
    try:
        on = None if isinstance(labels, Tensor) else "cpu"
        labels = torch.as_tensor(labels, device=on)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise error(
            f"expected class indices, such as 9 or torch.tensor([9, 0]), not {labels!r}"
        ) from reason
    labels = labels if labels.ndim else labels.expand(count)
    inexact = labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    if labels.shape != (count,) or (inexact and count):
        raise error(
            f"expected one class index per image, int64 [{count}], not {labels.dtype} "
            f"{list(labels.shape)}"
        )
    labels = labels.long()
    here = labels.device.type == "cpu" and count
    if here and not (labels.min() >= 0 and labels.max() < num_classes):
        raise error(
            f"class indices must be in [0, {num_classes}), not "
            f"[{int(labels.min())}, {int(labels.max())}]"
        )
    return labels


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
        By `check_seeds`, and for a shape that is not of whole numbers, or no floating dtype.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        self.shape = tuple(_whole_numbers("a length of the shape", shape, 0))
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"noise is floating, such as torch.float32, not {dtype!r}")
        self.dtype, self.device = dtype, device
        self._streams = [torch.Generator("cpu").manual_seed(seed) for seed in check_seeds(seeds)]

    def __len__(self) -> int:
        return len(self._streams)

    def __call__(self) -> Tensor:
        draws = [
            torch.randn(self.shape, generator=stream, dtype=torch.float64, device="cpu")
            for stream in self._streams
        ]
        return torch.stack(draws).to(self.device, self.dtype)
