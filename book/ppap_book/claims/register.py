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


class Verdict(NamedTuple):
    """An answer to a claim, and the numbers that decide it.

    `provisional`: by fewer blocks of seeds, or images, than the protocol asks for. `beyond`, "more"
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
    rows: Mapping[str, Any] = field(default_factory=dict)
    above: float | None = None
    below: float | None = None
    at_least: int = ENOUGH
    published: Mapping[str, Any] | None = None
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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
        given = {"rows": self.rows, "also": self.also}
        if isinstance(self.also, Mapping):
            given |= self.also
        for name, entries in given.items():
            if not isinstance(entries, Mapping):
                raise StudyError(
                    f"{self.id}: {name} is a mapping of names to values, not {entries}"
                )
        measure = MEASURES[self.metric]
        for rows in self.readings.values():
            _fits(self.id, measure.ours, rows)
        if self.published is not None:
            has_value = isinstance(self.published, Mapping) and "value" in self.published
            if measure.theirs is None or not has_value:
                raise StudyError(
                    f"{self.id}: `published` is the metric's value in a published table, and how "
                    f"to look it up; {self.metric} was not published or there is no `value`"
                )
            _fits(self.id, measure.theirs, self.lookup)

    @property
    def readings(self) -> dict[str, dict[str, Any]]:
        """Arguments of the metric by label: "" for the claim itself, and each of `also`."""
        return {"": dict(self.rows)} | {k: {**self.rows, **more} for k, more in self.also.items()}

    @property
    def lookup(self) -> dict[str, Any]:
        """Arguments of the metric of the published table."""
        return {**self.rows, **{k: v for k, v in (self.published or {}).items() if k != "value"}}

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
