"""Standings of the sampler study: blocks pooled, solvers compared image by image."""

from collections.abc import Iterable, Mapping
from typing import Any

from ppap_book.ledger import Row
from ppap_book.statistics.comparisons import Lead, Pooled, lead, matching, of_one_length, pool
from ppap_book.studies import methods
from ppap_book.studies.samplers import PUBLISHED_SCALE, extrapolates


class Standing(Pooled):
    """One solver at one budget, guided one way; its `seconds` are those of sampling."""

    @property
    def solver(self) -> str:
        return self.params["solver"]


def standings(
    rows: Iterable[Row],
    tier_name: str = "fashion",
    lower_final: bool = True,
    unclipped: bool = False,
) -> list[Standing]:
    """Return the rows made by the weights that ship now, blocks gathered: clipped ones, or not.

    Of the solvers that extrapolate those that end at low order, or those that do not; the others
    are there in both.
    """

    current = methods.current()

    def wanted(params: Mapping[str, Any]) -> bool:
        ends = params.get("lower_final", False) == lower_final
        known = params["tier"] == tier_name and params.get("unclipped", False) == unclipped
        return known and current(params) and (ends or not extrapolates(params["solver"]))

    return pool(rows, wanted, Standing)


def comparable(
    pooled: Iterable[Standing],
    budget: int | None,
    method: str = "none",
    guide_name: str = "resnet18",
    scale: float = PUBLISHED_SCALE,
    grid: str = "uniform",
    extractor: str = "lite2",
) -> list[Standing]:
    """Return those that differ in the solver only, and in the length of their blocks.

    Without guidance, guide and scale do not matter; the adaptive solver is at budget None.
    """
    setting = methods.settings(method, guide_name, scale)
    return matching(pooled, budget=budget, grid=grid, extractor=extractor, **setting)


def chosen(pooled: Iterable[Standing], budget: int, **options: Any) -> dict[str, Standing]:
    """Return, by solver, the standings that are `comparable`, all with blocks of one length."""
    return {s.solver: s for s in of_one_length(comparable(pooled, budget, **options))}


def pick(pooled: Iterable[Standing]) -> Lead[Standing]:
    """Return the solver for users of guidance: first the class, then the picture.

    Of the leader in judge accuracy and all that cannot be told from it, who leads by KID.
    """
    best, rivals = lead(pooled, "judge")
    return lead([best, *rivals], "kid")
