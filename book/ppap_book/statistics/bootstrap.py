"""Intervals of means over images: the percentile bootstrap (Efron 1979), expanded.

Differences between methods are taken per image first, on the same seeds, so that what all
methods share cancels: `mean(correct_a - correct_b)`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ppap_book.errors import StudyError

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A mean, and the ends of the interval that covers it at the level asked for.

    A format is that of each number: `f"{estimate:+.2f}"` is "+0.12 [+0.08, +0.16]".
    """

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes zero, else 0: cannot be told."""
        return (self.low > 0) - (self.high < 0)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        mean, low, high = (format(value, spec) for value in self)
        return f"{mean} [{low}, {high}]"


def mean(
    values: Tensor | Sequence[float], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the mean of `values` [N], one per image, with its bootstrap interval over images.

    The percentiles are those at which N normal values have Student's interval: the plain ones are
    too narrow for few values and far tails ("expanded", Hesterberg 2015). Values that are all alike
    have an interval of no width, which says nothing of what is rarer than one in N.
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    return _between(float(values.mean()), _means(values, resamples, seed), level, len(values))


def _means(values: Tensor, resamples: int, seed: int) -> Tensor:
    """The mean of each resample of float64 values [N]: [resamples]."""
    if values.ndim != 1 or len(values) < 2:
        raise StudyError(
            f"expected at least two values [N], one per image, not {list(values.shape)}"
        )
    if broken := int((~values.isfinite()).sum()):
        raise StudyError(f"{broken} of {len(values)} values are NaN or infinite")
    n = len(values)
    # In single precision where that loses nothing: zero is an end of an interval, or it is not.
    exact = values.float() if torch.equal(values.float().double(), values) else values
    counts = _counts(n, resamples, seed).split(500)
    return torch.cat([part.to(exact.dtype) @ exact for part in counts]).double() / n


def _between(value: float, resampled: Tensor, level: float, n: int) -> Estimate:
    """A value of n images with the expanded percentiles of what resamples of them gave."""
    from scipy.special import ndtr, stdtrit

    if not 0 < level < 1:
        raise StudyError(f"a level lies between 0 and 1, not {level}")
    tail = float(ndtr((n / (n - 1)) ** 0.5 * stdtrit(n - 1, (1 - level) / 2)))
    tails = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = resampled.quantile(tails).tolist()
    return Estimate(value, low, high)


@lru_cache(maxsize=2)  # a table compares many methods on as many images
def _counts(n: int, resamples: int, seed: int) -> Tensor:
    """How often each of n values is drawn in every resample: uint8 [resamples, n]."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(resamples, n, dtype=torch.uint8)
    for part in counts.split(500):
        indices = torch.randint(n, part.shape, generator=generator)
        part.scatter_add_(1, indices, torch.ones_like(part))
    return counts


def difference(a: Tensor | Sequence[float], b: Tensor | Sequence[float], **options) -> Estimate:
    """Return the mean of a - b [N], image by image; `options` are those of `mean`."""
    a, b = _paired(a, b)
    return mean(a - b, **options)


def bonferroni(comparisons: int) -> dict[str, float | int]:
    """Return options of `mean` with which so many intervals together cover at 95 % (Bonferroni).

    So the choice of the most extreme of them makes no effect. Far tails ask for more resamples.
    """
    if comparisons == 1:
        return {}
    return {"level": 1 - 0.05 / comparisons, "resamples": 20_000}


def ratio(
    part: Tensor | Sequence[float],
    whole: Tensor | Sequence[float],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return mean(part) / mean(whole), image by image, with its interval over images.

    The percentiles are those of the ratio in every resample; `StudyError` where the whole's
    mean has another sign in some: a share of what may be nothing has no interval.
    """
    part, whole = _paired(part, whole)
    parts, wholes = (_means(values, resamples, seed) for values in (part, whole))
    value, against = float(part.mean()), float(whole.mean())
    if against == 0 or not bool((wholes / against > 0).all()):
        raise StudyError(
            f"the whole has mean {against:.3g}, and in some resamples none or one of the other "
            f"sign: no share of it can be given"
        )
    return _between(value / against, parts / wholes, level, len(part))


def ratio_difference(
    part: Tensor | Sequence[float],
    whole: Tensor | Sequence[float],
    other_part: Tensor | Sequence[float],
    other_whole: Tensor | Sequence[float],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return mean(part) / mean(whole) less that of two others, image by image, with its interval.

    All four are of the same images; the wholes are positive. Percentiles as those of `ratio`.
    """
    ratios = []
    for one, all_of_it in ((part, whole), (other_part, other_whole)):
        one, all_of_it = _paired(one, all_of_it)
        if not bool((all_of_it > 0).all()):
            raise StudyError("a share is one of something positive: some image's whole is not")
        means = [_means(values, resamples, seed) for values in (one, all_of_it)]
        ratios.append((float(one.mean() / all_of_it.mean()), means[0] / means[1], len(one)))
    (a, as_drawn, n), (b, bs_drawn, others) = ratios
    if n != others:
        raise StudyError(f"pairing needs the same images on both sides: {n} and {others}")
    return _between(a - b, as_drawn - bs_drawn, level, n)


def _paired(a: Tensor | Sequence[float], b: Tensor | Sequence[float]) -> tuple[Tensor, Tensor]:
    """Both as float64, if there is one value for every image in each."""
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    if a.shape != b.shape:
        raise StudyError(
            f"pairing needs the same images on both sides: {list(a.shape)} and {list(b.shape)}"
        )
    return a, b
