"""What the sampler study's rows say: blocks pooled, solvers compared image by image."""

from collections.abc import Iterable, Mapping
from math import exp, log
from typing import Any, NamedTuple

from ppap_book import ledger, paper_tables
from ppap_book.ledger import Row
from ppap_book.statistics.comparisons import (
    COLUMNS,
    Comparison,
    Pooled,
    matching,
    of_one_length,
    pool,
)
from ppap_book.studies import methods
from ppap_book.studies.samplers import (
    ETAS,
    FIXED,
    FOLLOWED,
    PUBLISHED_SCALE,
    STUDY,
    TOLERANCES,
    Sampling,
    extrapolates,
    plan,
    reason_against,
)


class Standing(Pooled):
    """One solver at one budget, guided one way; its `seconds` are those of sampling."""

    @property
    def solver(self) -> str:
        return self.params["solver"]


def standings(
    rows: Iterable[Row], tier: str = "fashion", lower_final: bool = True
) -> list[Standing]:
    """The rows made by the weights that ship now, blocks gathered.

    Of the solvers that extrapolate those that end at low order, or those that do not; the others
    are there in both.
    """

    def asked(p: Mapping[str, Any]) -> bool:
        as_asked = not extrapolates(p["solver"]) or p.get("lower_final", False) == lower_final
        return p["tier"] == tier and methods.is_current(p) and as_asked

    return pool(rows, asked, Standing)


def comparable(
    found: Iterable[Standing],
    budget: int | None,
    method: str = "none",
    guide: str = "resnet18",
    scale: float = PUBLISHED_SCALE,
    grid: str = "uniform",
    extractor: str = "lite2",
) -> list[Standing]:
    """Those that differ in the solver only, and in the length of their blocks.

    Without guidance, guide and scale do not matter; the adaptive solver is at budget None.
    """
    if method == "none":
        guide, scale = "none", 0.0
    alike = {"guide": guide, "scale": scale, "grid": grid, "extractor": extractor}
    return matching(found, budget=budget, method=method, **alike)


def chosen(found: Iterable[Standing], budget: int, **options: Any) -> dict[str, Standing]:
    """By solver, the standings that are `comparable`, all with blocks of one length."""
    return {s.solver: s for s in of_one_length(comparable(found, budget, **options))}


class Lead(NamedTuple):
    """The best by one column, and the others whose difference from it has an unsure sign."""

    best: Standing
    rivals: list[Standing]


def lead(found: Iterable[Standing], column: str) -> Lead:
    """Who leads, and who cannot be told from the leader: at the 95 % level for all together.

    The lead is that on the blocks of seeds which all share, as far as there are such. One that
    shares none with the leader cannot be told from it.
    """
    sign = 1 if COLUMNS[column].lower_is_better else -1
    first, *rest = everyone = list(found)
    blocks = first.shared(*rest) or None
    best, *others = sorted(everyone, key=lambda s: sign * s.mean(column, blocks))
    many = len(others)

    def behind(one: Standing) -> bool:
        shared = blocks or one.shared(best)
        return bool(shared) and Comparison(best, one, column, shared).gain(many).sign == 1

    return Lead(best, [one for one in others if not behind(one)])


def pick(found: Iterable[Standing]) -> Lead:
    """For users of guidance: first the class, then the picture.

    Of the leader in judge accuracy and all that cannot be told from it, who leads by KID.
    """
    best, rivals = lead(found, "judge")
    return lead([best, *rivals], "kid")


IMAGES = {"none": 200, "ppap5": 100}
"""In every block of the full study, by method of guidance."""

BESIDE_PNDM: Mapping[int, tuple[str, ...]] = {
    11: ("s_pndm",),
    19: ("f_pndm", "fon"),
    21: ("s_pndm",),
    29: ("f_pndm", "fon"),
    50: ("s_pndm", "fon"),
}
"""By budget, what else the PNDM table compares: as many steps as DDIM's, 10 and 20, and 50
evaluations."""


def asked(method: str = "none", blocks: int = 3, tier: str = "fashion") -> list[Sampling]:
    """Every run of the full study that can be: all solvers at 10 and 20, some from 5 to 100.

    Without guidance also what is published, by PNDM's authors and of the adaptive solver.
    """
    given = dict(method=method, n=IMAGES[method], blocks=blocks, tier=tier)
    runs = plan(FIXED, (10, 20), **given) + plan(FOLLOWED, (5, 50, 100), **given)
    if method == "none":
        for budget, solvers in BESIDE_PNDM.items():
            runs += plan(solvers, (budget,), **given)
        runs += plan(("pf",), tolerances=TOLERANCES, **given)
    return [params for params in runs if reason_against(params) is None]


def missing(runs: Iterable[Sampling]) -> list[Sampling]:
    """Those that the ledger does not hold."""
    return [params for params in runs if ledger.find(STUDY, params.recorded()) is None]


def published_etas(dataset: str, steps: int) -> dict[str, float]:
    """FID by solver at this many steps, from the DDIM table."""
    return {
        ETAS[_eta(row["eta"])]: row["fid"]
        for row in paper_tables.rows("ddim_eta")
        if row["dataset"] == dataset and row["steps"] == steps
    }


def _eta(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


WARM_UP = {"ddim": 0, "s_pndm": 1, "f_pndm": 9, "fon": 9}
"""Evaluations beyond one a step, of the solvers in the PNDM table."""


def published_pndm(
    dataset: str, schedule: str, *, steps: int | None = None, budget: int | None = None
) -> dict[str, float]:
    """FID by solver from the PNDM table, at equal steps or at equal evaluations.

    Between the evaluations in the table log FID is a line in their logarithm; beyond them there
    is no value.
    """
    found: dict[str, float] = {}
    rows = [
        r for r in paper_tables.rows("pndm") if (r["dataset"], r["schedule"]) == (dataset, schedule)
    ]
    for solver, extra in WARM_UP.items():
        own = sorted((r["steps"] + extra, r["fid"]) for r in rows if r["method"] == solver)
        at = budget if steps is None else steps + extra
        for (a, fid_a), (b, fid_b) in zip(own, own[1:], strict=False):
            if a <= at <= b:
                share = log(at / a) / log(b / a)
                found[solver] = exp((1 - share) * log(fid_a) + share * log(fid_b))
    return found
