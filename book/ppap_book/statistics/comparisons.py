"""Settings with their blocks of seeds pooled, and two of them compared image by image.

A `Pooled` setting gathers the ledger rows that differ in their seeds only. A `Comparison` takes two
on the blocks that both have: tables and claims read the same differences.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_book.ledger import Row
from ppap_book.statistics import bootstrap
from ppap_book.statistics.bootstrap import Estimate


class Column(NamedTuple):
    """A column of tables: by which result of a row every image contributes to it, and how much.

    `exact`: the column is the mean of what images contribute; else it only moves as that does.
    `of_real`: real images contribute by this result, too; they are the same in every block.
    """

    by_image: str
    factor: int = 1
    exact: bool = True
    of_real: str | None = None
    lower_is_better: bool = False


COLUMNS = {
    "kid": Column("witness", 2, exact=False, lower_is_better=True),
    "precision": Column("precise"),
    "recall": Column("recalled", exact=False, of_real="covered"),
    "judge": Column("judge_correct"),
    "second_judge": Column("second_judge_correct"),
    "guide": Column("guide_correct"),
    "grain": Column("noise_left"),
}
"""Columns that have an interval over images; "judge" and "guide" are accuracies, "grain" is the
noise on images (`spectrum.noise_sigma_mad`)."""

MIN_Z, MIN_Z_INEXACT = 5, 10
"""Standard errors that a gain is worth before shares of it are. The second is of columns that are
no exact means over images, as distances: their errors leave out that of the real images."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """One setting: `params` but for the seeds, and a row per block of seeds, by its first seed."""

    params: Mapping[str, Any]
    rows: Mapping[int, Row]

    def __post_init__(self) -> None:
        firsts = sorted(self.rows)
        for one, other in zip(firsts, firsts[1:], strict=False):
            if other - one < self.params["n"]:
                raise StudyError(
                    f"blocks of {self.params['n']} seeds from {one} and from {other} overlap: "
                    f"their images are not independent; {dict(self.params)}"
                )

    @property
    def images(self) -> int:
        """How many there are in all blocks."""
        return self.params["n"] * len(self.rows)

    @property
    def seconds(self) -> float:
        """Seconds that rows took, per image."""
        return sum(row["seconds"] for row in self.rows.values()) / self.images

    def mean(self, column: str, blocks: Sequence[int] | None = None) -> float:
        """Mean over blocks of a column: as rows hold it, or else of what images contribute."""
        blocks = sorted(self.rows) if blocks is None else blocks
        parts = [self.rows[b]["results"] for b in blocks]
        if column in COLUMNS and COLUMNS[column].exact and column not in parts[0]:
            return float(self.by_image(column, blocks).mean())
        return sum(part[column] for part in parts) / len(parts)

    def get(self, column: str) -> float | None:
        """Mean over all blocks; None where one lacks it, as too short ones lack distances."""
        try:
            return self.mean(column)
        except KeyError:
            return None

    def by_image(self, column: str, blocks: Sequence[int] | None = None) -> Tensor:
        """Per generated image, numbers whose mean moves with them as the column does: [images]."""
        about = COLUMNS[column]
        return about.factor * self._results(about.by_image, blocks).flatten()

    def by_real(self, column: str, blocks: Sequence[int] | None = None) -> Tensor:
        """Per real image, such numbers averaged over blocks, which share the real images: [n]."""
        return self._results(COLUMNS[column].of_real, blocks).mean(0)

    def _results(self, name: str, blocks: Sequence[int] | None) -> Tensor:
        blocks = sorted(self.rows) if blocks is None else blocks
        parts = [self.rows[block]["results"][name] for block in blocks]
        return torch.tensor(parts, dtype=torch.float64)

    def estimate(self, column: str) -> Estimate:
        """The column with its bootstrap interval over generated images.

        The real ones count as fixed, but where the column is a share of them (recall).
        """
        estimate = bootstrap.mean(self.by_image(column))
        if not COLUMNS[column].exact:
            estimate = _around(self.mean(column), estimate)
        if COLUMNS[column].of_real is None:
            return estimate
        return _widened(estimate, bootstrap.mean(self.by_real(column)))

    def shared(self, *others: "Pooled") -> list[int]:
        """The blocks of seeds that all have, by their first; none if their lengths differ."""
        if any(other.params["n"] != self.params["n"] for other in others):
            return []
        return sorted(set(self.rows).intersection(*(other.rows for other in others)))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two settings in one column, image by image, on the seeds that both have.

    The real images count as fixed, as in `Pooled.estimate`: differences are about these n of them.

    Parameters
    ----------
    a, b : Pooled
        The settings, with blocks of one length.
    column : str
        A key of `COLUMNS`.
    blocks : sequence of int, optional
        Blocks that both have, by their first seed; by default all of these.

    Raises
    ------
    StudyError
        If they share no block.
    """

    a: Pooled
    b: Pooled
    column: str
    blocks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.blocks is None:
            object.__setattr__(self, "blocks", self.a.shared(self.b))
        if not self.blocks:
            raise StudyError(
                f"{dict(self.a.params)} and {dict(self.b.params)} share no block of seeds of the "
                f"same length"
            )

    @classmethod
    def of(cls, a: Iterable[Pooled], b: Iterable[Pooled], column: str) -> Self | None:
        """Compare those of two sides that `aligned` pairs; None if no block is shared."""
        pair = aligned(a, b)
        return pair and cls(*pair, column)

    @property
    def images(self) -> int:
        """How many images are compared."""
        return self.a.params["n"] * len(self.blocks)

    @property
    def recorded(self) -> bool:
        """Whether all rows of both have the column: too short blocks lack distances."""
        return all(one.get(self.column) is not None for one in (self.a, self.b))

    def difference(self, comparisons: int = 1) -> Estimate:
        """a - b, with an interval that covers at 95 % all of so many differences together."""
        about, level = COLUMNS[self.column], bootstrap.bonferroni(comparisons)

        def paired(values: Callable[[Pooled], Tensor]) -> Estimate:
            return bootstrap.difference(values(self.a), values(self.b), **level)

        estimate = paired(lambda one: one.by_image(self.column, self.blocks))
        if not about.exact:
            estimate = _around(self._change(), estimate)
        if about.of_real is None:
            return estimate
        return _widened(estimate, paired(lambda one: one.by_real(self.column, self.blocks)))

    def gain(self, comparisons: int = 1) -> Estimate:
        """By how much a is better than b: their difference, or b - a where lower is better."""
        if COLUMNS[self.column].lower_is_better:
            return Comparison(self.b, self.a, self.column, self.blocks).difference(comparisons)
        return self.difference(comparisons)

    def gains(self) -> Tensor:
        """Per image, numbers whose mean is that gain: float64 [images]."""
        each = self.a.by_image(self.column, self.blocks) - self.b.by_image(self.column, self.blocks)
        sign = -1 if COLUMNS[self.column].lower_is_better else 1
        return sign * (each - each.mean() + self._change())

    def _change(self) -> float:
        """The column's own mean of a minus that of b."""
        return self.a.mean(self.column, self.blocks) - self.b.mean(self.column, self.blocks)


def _around(value: float, estimate: Estimate) -> Estimate:
    """The estimate's interval, moved to `value`: KID is not the mean of its pulls, but moves so."""
    moved = value - estimate.mean
    return Estimate(value, estimate.low + moved, estimate.high + moved)


def _widened(one: Estimate, other: Estimate) -> Estimate:
    """The first with its interval widened by the second's: two independent sources of error."""
    low = math.hypot(one.mean - one.low, other.mean - other.low)
    high = math.hypot(one.high - one.mean, other.high - other.mean)
    return Estimate(one.mean, one.mean - low, one.mean + high)


def recovered_fraction(
    part: Pooled, whole: Pooled, none: Pooled, column: str = "judge"
) -> Estimate | None:
    """Gain of `part` over `none` as a fraction of the gain of `whole`, on the seeds of all three.

    None where `whole` gains less than `MIN_Z` or `MIN_Z_INEXACT` standard errors: a fraction of
    what may be next to nothing has no interval to speak of.
    """
    blocks = none.shared(part, whole)
    gained, possible = (Comparison(one, none, column, blocks).gains() for one in (part, whole))
    needed = MIN_Z if COLUMNS[column].exact else MIN_Z_INEXACT
    if possible.mean() <= needed * possible.std() / len(possible) ** 0.5:
        return None
    return bootstrap.ratio(gained, possible)


Setting = TypeVar("Setting", bound=Pooled)


def pool(
    rows: Iterable[Row],
    keep: Callable[[Mapping[str, Any]], bool],
    kind: type[Setting] = Pooled,
) -> list[Setting]:
    """Gather the rows whose parameters are to `keep` into settings with their blocks."""
    blocks: dict[str, tuple[dict, dict[int, Row]]] = {}
    for row in rows:
        params = dict(row["params"])
        if keep(params):
            first_seed = params.pop("first_seed")
            # The parameters as text: a digest of them for every row would take most of the time.
            setting = repr(sorted(params.items()))
            blocks.setdefault(setting, (params, {}))[1][first_seed] = row
    return [kind(params, by_seed) for params, by_seed in blocks.values()]


def aligned(*sides: Iterable[Setting]) -> tuple[Setting, ...] | None:
    """Choose one setting of each side, such that all share blocks of one length.

    Of all such the one of most shared images: seeds are independent, however they are blocked.
    None if nothing is shared.

    Parameters
    ----------
    *sides
        Candidates, which within a side differ in the length of their blocks and in nothing else.

    Raises
    ------
    StudyError
        If they differ in more.
    """
    candidates = [list(side) for side in sides]
    by_length = [{one.params["n"]: one for one in side} for side in candidates]
    for side, lengths in zip(candidates, by_length, strict=True):
        if len(side) > len(lengths):
            raise StudyError(
                f"settings that differ in more than length: {[o.params for o in side]}"
            )
    by_images: dict[int, tuple[Setting, ...]] = {}
    for n in sorted(set.intersection(*(set(side) for side in by_length))):
        first, *others = settings = tuple(side[n] for side in by_length)
        by_images[n * len(first.shared(*others))] = settings
    return by_images[most] if (most := max(by_images, default=0)) else None


def of_one_length(settings: Iterable[Setting]) -> list[Setting]:
    """Those with blocks of the length at which most settings were run; of equals of most images."""
    by_length: dict[int, list[Setting]] = {}
    for one in settings:
        by_length.setdefault(one.params["n"], []).append(one)

    def size(alike: list[Setting]) -> tuple[int, int]:
        return len(alike), sum(one.images for one in alike)

    return max(by_length.values(), key=size, default=[])


def matching(settings: Iterable[Setting], **params: Any) -> list[Setting]:
    """Those with these parameters: the candidates of a side of `aligned`."""
    return [one for one in settings if all(one.params[key] == v for key, v in params.items())]


class Lead(NamedTuple, Generic[Setting]):
    """The best by one column, and the others whose difference from it has an unsure sign."""

    best: Setting
    rivals: list[Setting]


def lead(settings: Iterable[Setting], column: str) -> Lead[Setting]:
    """Find who leads, and who cannot be told from the leader at the 95 % level for all together.

    The lead is that on the blocks of seeds which all share, as far as there are such. One that
    shares none with the leader cannot be told from it.
    """
    sign = 1 if COLUMNS[column].lower_is_better else -1
    first, *rest = everyone = list(settings)
    blocks = first.shared(*rest) or None
    best, *others = sorted(everyone, key=lambda one: sign * one.mean(column, blocks))

    def behind(one: Setting) -> bool:
        shared = blocks or one.shared(best)
        return bool(shared) and Comparison(best, one, column, shared).gain(len(others)).sign == 1

    return Lead(best, [one for one in others if not behind(one)])
