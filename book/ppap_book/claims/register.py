"""The register of claims: a YAML file, checked entry by entry."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ppap_book.claims.measures import MEASURES
from ppap_book.errors import StudyError
from ppap_book.statistics.bootstrap import Estimate

Answer = Literal["holds", "does not hold", "undecided"]

ENOUGH = 50
"""Images from which on a verdict is given, unless the claim says `at_least`."""


_OURS_ALONE = ("column", "unclipped", "steps")
"""Arguments of a metric that no published table is looked up by."""


class Verdict(NamedTuple):
    """An answer to a claim, and the numbers that decide it.

    `provisional`: by fewer trainings, or images, than the protocol asks for. `beyond`, "more"
    or "less", is on which side of two bounds the number lies where the claim does not hold.
    """

    answer: Answer
    words: str = ""
    provisional: bool = False
    beyond: str = ""

    @property
    def summary(self) -> str:
        """The answer, and on which side it missed."""
        return f"{self.answer} ({self.beyond})" if self.beyond else self.answer


@dataclass(frozen=True)
class Claim:
    """One entry: see the package for its fields."""

    id: str
    claim: str
    page: str
    metric: str
    source: str = ""
    where: str = ""
    rows: Mapping[str, Any] = field(default_factory=dict)
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    above: float | None = None
    below: float | None = None
    at_least: int = ENOUGH
    published: Mapping[str, float] = field(default_factory=dict)
    lookup: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in MEASURES:
            raise StudyError(f"{self.id}: no metric {self.metric!r}: {', '.join(MEASURES)}")
        bounds = [bound for bound in (self.above, self.below) if bound is not None]
        numbers = all(type(bound) in (int, float) and isfinite(bound) for bound in bounds)
        if not bounds or not numbers or bounds != sorted(set(bounds)):
            raise StudyError(
                f"{self.id}: a claim says `above` a number, `below` one, or between two; "
                f"not above {self.above} and below {self.below}"
            )
        given = {name: getattr(self, name) for name in ("rows", "readings", "published", "lookup")}
        if isinstance(self.readings, Mapping):
            given |= self.readings
        for name, entries in given.items():
            if not isinstance(entries, Mapping):
                raise StudyError(
                    f"{self.id}: {name} is a mapping of names to values, not {entries}"
                )
        if not self.readings:
            raise StudyError(f"{self.id}: readings are empty: leave them out, or name one")
        if bool(self.source or self.published) != bool(self.where):
            raise StudyError(
                f"{self.id}: `where` names the section, table or figure in which a source says so, "
                f"and a claim of this book has neither"
            )
        measure = MEASURES[self.metric]
        for label in self.readings:
            _fits(self.id, measure.ours, self.arguments(label))
        if unknown := self.published.keys() - self.readings.keys():
            raise StudyError(f"{self.id}: published of no reading: {', '.join(sorted(unknown))}")
        if self.published and measure.theirs is None:
            raise StudyError(f"{self.id}: {self.metric} has no published table to look up")
        for label in self.published:
            _fits(self.id, measure.theirs, self.looked_up(label))

    @property
    def counted(self) -> str:
        """The label of the reading that decides the claim: the first."""
        return next(iter(self.readings))

    def arguments(self, reading: str) -> dict[str, Any]:
        """Return the metric's arguments for a reading."""
        return {**self.rows, **self.readings[reading]}

    def looked_up(self, reading: str) -> dict[str, Any]:
        """Return the arguments by which a reading's number is found in the published table.

        The column is ours alone: the table's is the one nearest to it.
        """
        ours = {k: v for k, v in self.arguments(reading).items() if k not in _OURS_ALONE}
        return {**ours, **self.lookup}

    @property
    def rule(self) -> str:
        """Where the metric has to lie, in words."""
        ends = (("above", self.above), ("below", self.below))
        return " and ".join(f"{side} {bound:g}" for side, bound in ends if bound is not None)

    def decide(self, estimate: Estimate) -> Verdict:
        """Return the verdict by an interval, or by a number without one."""
        above = float("-inf") if self.above is None else self.above
        below = float("inf") if self.below is None else self.below
        if above < estimate.low and estimate.high < below:
            return Verdict("holds")
        if above <= estimate.high and estimate.low <= below:
            return Verdict("undecided")
        if None in (self.above, self.below):
            return Verdict("does not hold")
        return Verdict("does not hold", beyond="more" if below < estimate.low else "less")


def _fits(name: str, function: Any, arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise StudyError(
            f"{name}: {dict(arguments)} is not what the metric takes: {error}"
        ) from None


def load(path: str | Path) -> list[Claim]:
    """Read the claims of a YAML file, in its order; `StudyError` names the entry at fault."""
    import yaml

    known = {f.name for f in fields(Claim)}
    claims: list[Claim] = []
    for i, entry in enumerate(yaml.safe_load(Path(path).read_text("utf8")) or [], 1):
        if not isinstance(entry, dict) or not {"id", "claim", "page", "metric"} <= entry.keys():
            raise StudyError(f"{path}: entry {i} needs at least id, claim, page and metric")
        if unknown := entry.keys() - known:
            raise StudyError(
                f"{entry['id']}: no field {', '.join(sorted(unknown))}; there are "
                f"{', '.join(sorted(known))}"
            )
        if entry["id"] in {claim.id for claim in claims}:
            raise StudyError(f"{path}: {entry['id']} is there twice")
        claims.append(Claim(**entry))
    return claims
