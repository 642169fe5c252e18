"""Effects: a claim's number with its interval, and how many images and trainings it rests on."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ppap_book.statistics import bootstrap
from ppap_book.statistics.bootstrap import Estimate
from ppap_book.statistics.comparisons import Comparison, Pooled

Side = Iterable[Pooled]
"""Settings that differ in the length of their blocks alone."""

TRAININGS = 1
"""How often each network was trained that rows of today compare."""


class Effect(NamedTuple):
    """A number with its 95 % interval, what it is, and over how many images it was taken.

    `blocks` of seeds, None where no seeds are drawn in blocks. `unit` is empty where the metric's
    title says all. `trainings` of each network that the number compares, None where it compares
    no trained networks, but what one does. `second` is what the second judge says of the same
    images, None where it was not asked.
    """

    estimate: Estimate
    images: int
    blocks: int | None = None
    unit: str = ""
    trainings: int | None = None
    second: Estimate | None = None


class NoEffect(NamedTuple):
    """Why there is no effect to speak of, in words."""

    reason: str = "nothing to compare yet"


def gain_of(
    column: str, a: Side, b: Side, unit: str = "", trainings: int | None = None
) -> Effect | NoEffect:
    """By how much one of `a` is better than one of `b`."""
    return _effect(Comparison.of(a, b, column), Comparison.gain, unit, trainings)


def change_of(column: str, a: Side, b: Side, unit: str = "") -> Effect | NoEffect:
    """One of `a` minus one of `b`."""
    return _effect(Comparison.of(a, b, column), Comparison.difference, unit)


def _effect(
    pair: Comparison | None,
    estimate: Callable[[Comparison], Estimate],
    unit: str,
    trainings: int | None = None,
) -> Effect | NoEffect:
    if pair is None:
        return NoEffect()
    if not pair.recorded:
        return NoEffect(f"rows of {pair.a.params['n']} images have no {pair.column}")
    other = Comparison(pair.a, pair.b, "second_judge", pair.blocks)
    second = estimate(other) if pair.column == "judge" and other.recorded else None
    return Effect(estimate(pair), pair.images, len(pair.blocks), unit, trainings, second)


def extreme_of(a: Sequence[float], b: Sequence[float], pairs: int) -> Estimate:
    """The paired difference a - b, which was chosen as the extreme one of so many."""
    return bootstrap.difference(a, b, **bootstrap.bonferroni(pairs))
