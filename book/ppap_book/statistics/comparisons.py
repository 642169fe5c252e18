"""Ledger rows that differ in their seeds only, pooled: means with intervals, paired differences."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.ledger import Row
from ppap_book.statistics import bootstrap
from ppap_book.statistics.bootstrap import Estimate


class Column(NamedTuple):
    """By which result of a row every image contributes to a column, and how much.

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
    "guide": Column("guide_correct"),
    "grain": Column("noise_left"),
}
"""Columns that have an interval over images; "judge" and "guide" are accuracies, "grain" is the
noise left on images (`spectrum.noise_left`)."""


MIN_Z, MIN_Z_INEXACT = 5, 10
"""Standard errors that a gain is worth before shares of it are. The second is of columns that are
no exact means over images, as distances: their errors leave out that of the real images."""

ENOUGH_BLOCKS = 3
"""Blocks of seeds from which on a comparison is more than provisional."""


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
        """In all blocks."""
        return self.params["n"] * len(self.rows)

    @property
    def seconds(self) -> float:
        """What a row took, per image."""
        return sum(row["seconds"] for row in self.rows.values()) / self.images

    def mean(self, column: str, blocks: Sequence[int] | None = None) -> float:
        """The mean over blocks of a column: as rows hold it, or else of what images contribute."""
        blocks = sorted(self.rows) if blocks is None else blocks
        parts = [self.rows[b]["results"] for b in blocks]
        if column in COLUMNS and COLUMNS[column].exact and column not in parts[0]:
            return float(self.by_image(column, blocks).mean())
        return sum(part[column] for part in parts) / len(parts)

    def get(self, column: str) -> float | None:
        """The same over all blocks; None where one lacks it, as too short ones lack distances."""
        try:
            return self.mean(column)
        except KeyError:
            return None

    def by_image(self, column: str, blocks: Sequence[int] | None = None) -> Tensor:
        """Per generated image, numbers whose mean moves with them as the column does: [images]."""
        about = COLUMNS[column]
        return about.factor * self._results(about.by_image, blocks).flatten()

    def by_real(self, column: str, blocks: Sequence[int] | None = None) -> Tensor:
        """The same per real image, averaged over blocks, since all blocks ask of the same: [n]."""
        return self._results(COLUMNS[column].of_real, blocks).mean(0)

    def _results(self, name: str, blocks: Sequence[int] | None) -> Tensor:
        blocks = sorted(self.rows) if blocks is None else blocks
        parts = [self.rows[block]["results"][name] for block in blocks]
        return torch.tensor(parts, dtype=torch.float64)

    def estimate(self, column: str) -> Estimate:
        """The column with its bootstrap interval over generated images.

        The real ones count as fixed, but where the column is a share of them (recall).
        """
        found = bootstrap.mean(self.by_image(column))
        if not COLUMNS[column].exact:
            found = _around(self.mean(column), found)
        if COLUMNS[column].of_real is None:
            return found
        return _widened(found, bootstrap.mean(self.by_real(column)))

    def shared(self, *others: "Pooled") -> list[int]:
        """The blocks of seeds that all have, by their first; none if their lengths differ."""
        if any(other.params["n"] != self.params["n"] for other in others):
            return []
        return sorted(set(self.rows).intersection(*(other.rows for other in others)))

    def minus(
        self,
        other: "Pooled",
        column: str,
        of_many: int = 1,
        blocks: Sequence[int] | None = None,
    ) -> Estimate:
        """The difference to another, image by image, on the blocks that both have or `blocks`.

        The interval covers at 95 % all of so many such comparisons together (Bonferroni), and the
        real images count as fixed as in `estimate`: it is about these n of them.
        """
        if not (blocks := self.shared(other) if blocks is None else blocks):
            raise StudyError(
                f"{dict(self.params)} and {dict(other.params)} share no block of seeds of the "
                f"same length"
            )
        sides = self, other
        level = bootstrap.bonferroni(of_many)
        found = bootstrap.difference(*(side.by_image(column, blocks) for side in sides), **level)
        if not COLUMNS[column].exact:
            found = _around(self.mean(column, blocks) - other.mean(column, blocks), found)
        if COLUMNS[column].of_real is None:
            return found
        real = bootstrap.difference(*(side.by_real(column, blocks) for side in sides), **level)
        return _widened(found, real)


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
    """What `part` gains over `none`, as a share of what `whole` gains, on the seeds of all three.

    None where `whole` gains less than `MIN_Z` or `MIN_Z_INEXACT` standard errors: a share of what may
    be next to nothing has no interval to speak of.
    """
    blocks = none.shared(part, whole)
    sign = -1 if COLUMNS[column].lower_is_better else 1

    def gained(one: Pooled) -> Tensor:
        each = one.by_image(column, blocks) - none.by_image(column, blocks)
        value = one.mean(column, blocks) - none.mean(column, blocks)
        return sign * (each - each.mean() + value)

    everything = gained(whole)
    needed = MIN_Z if COLUMNS[column].exact else MIN_Z_INEXACT
    if everything.mean() <= needed * everything.std() / len(everything) ** 0.5:
        return None
    return bootstrap.ratio(gained(part), everything)


Kind = TypeVar("Kind", bound=Pooled)


def pool(
    rows: Iterable[Row],
    keep: Callable[[Mapping[str, Any]], bool],
    kind: type[Kind] = Pooled,
) -> list[Kind]:
    """The rows whose parameters are to `keep`, blocks gathered."""
    found: dict[str, tuple[dict, dict[int, Row]]] = {}
    for row in rows:
        params = dict(row["params"])
        if keep(params):
            first_seed = params.pop("first_seed")
            found.setdefault(ledger.digest(params), (params, {}))[1][first_seed] = row
    return [kind(params, blocks) for params, blocks in found.values()]


def aligned(*sides: Iterable[Kind]) -> tuple[Kind, ...] | None:
    """One of each side, such that all share blocks of one length.

    If there are such, at least `ENOUGH_BLOCKS` of them; and then of most shared images. The
    candidates of a side differ in the length of their blocks and in nothing else, or it is an
    error. None if nothing is shared.
    """
    candidates = [list(side) for side in sides]
    by_length = [{one.params["n"]: one for one in side} for side in candidates]
    for side, lengths in zip(candidates, by_length, strict=True):
        if len(side) > len(lengths):
            raise StudyError(
                f"settings that differ in more than length: {[o.params for o in side]}"
            )
    best: tuple[tuple[bool, int], tuple[Kind, ...]] = (False, 0), ()
    for n in set.intersection(*(set(side) for side in by_length)):
        first, *others = chosen = tuple(side[n] for side in by_length)
        blocks = len(first.shared(*others))
        rank = blocks >= ENOUGH_BLOCKS, n * blocks
        best = max(best, (rank, chosen), key=lambda found: found[0])
    return best[1] or None


def of_one_length(found: Iterable[Kind]) -> list[Kind]:
    """Those with blocks of the length at which most settings were run; of equals the longest."""
    by_length: dict[int, list[Kind]] = {}
    for one in found:
        by_length.setdefault(one.params["n"], []).append(one)
    return max(by_length.items(), key=lambda item: (len(item[1]), item[0]), default=(0, []))[1]


def matching(found: Iterable[Kind], **wanted: Any) -> list[Kind]:
    """Those whose parameters are as `wanted`: the candidates of a side of `aligned`."""
    return [o for o in found if all(o.params[name] == v for name, v in wanted.items())]
