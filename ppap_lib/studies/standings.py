"""What the sampler study's rows say: blocks pooled, solvers compared image by image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppap_lib import bootstrap, ledger, published
from ppap_lib.bootstrap import Estimate
from ppap_lib.ledger import Row
from ppap_lib.studies import methods
from ppap_lib.studies.samplers import ETAS, FIXED, FOLLOWED, STUDY, Sampling, plan, reason_against

TITLES = {
    "ddim": "DDIM",
    "heun": "Heun",
    "k_lms": "K-LMS",
    "prk": "PRK",
    "plms": "PLMS",
    "s_pndm": "S-PNDM",
    "f_pndm": "F-PNDM",
    "rk4": "RK4",
    "fon": "FON",
    "dpm_solver_2": "DPM-Solver-2",
    "dpm_solver_3": "DPM-Solver-3",
    "dpmpp_2s": "DPM-Solver++(2S)",
    "dpmpp_3s": "DPM-Solver++(3S)",
    "dpmpp_2m": "DPM-Solver++(2M)",
    "dpmpp_3m": "DPM-Solver++(3M)",
    "dpmpp_3m_halved": "DPM-Solver++(3M, public)",
    "deis_2": "DEIS-2",
    "deis_3": "DEIS-3",
    "deis_3_time": "DEIS-3 (in t)",
    "unipc_1": "UniPC-1",
    "unipc_2": "UniPC-2",
    "unipc_3": "UniPC-3",
    "unipc_2_bh1": "UniPC-2 (B1)",
    "ddim_0.2": "DDIM (eta 0.2)",
    "ddim_0.5": "DDIM (eta 0.5)",
    "ddim_1": "DDIM (eta 1)",
    "ddim_sigma_hat": "DDIM (sigma-hat)",
    "dpm2_ancestral": "DPM2 ancestral",
    "karras": "stochastic Karras",
    "analytic_ddim": "A-DDIM",
    "pf": "adaptive Runge-Kutta",
}
"""Solvers in print."""

LOWER_IS_BETTER = {"kid": True, "judge": False, "guide": False}
"""Columns that have an interval over images."""


@dataclass(frozen=True, eq=False)
class Standing:
    """One solver at one budget, guided one way: `params` but for seeds, and a row per block."""

    params: Mapping[str, Any]
    rows: Mapping[int, Row]

    @property
    def solver(self) -> str:
        return self.params["solver"]

    @property
    def images(self) -> int:
        """In all blocks."""
        return self.params["n"] * len(self.rows)

    @property
    def seconds(self) -> float:
        """Of sampling, per image."""
        return sum(row["seconds"] for row in self.rows.values()) / self.images

    def mean(self, column: str, blocks: Sequence[int] | None = None) -> float:
        """The mean over blocks of a result; "judge" and "guide" are accuracies."""
        blocks = sorted(self.rows) if blocks is None else blocks
        if column in ("judge", "guide"):
            return float(self._pulls(column, blocks).mean())
        return sum(self.rows[b]["results"][column] for b in blocks) / len(blocks)

    def _pulls(self, column: str, blocks: Sequence[int]) -> Tensor:
        """Per image, numbers whose mean moves with the images as the column does: [images]."""
        name, factor = ("witness", 2) if column == "kid" else (f"{column}_correct", 1)
        parts = [self.rows[block]["results"][name] for block in blocks]
        return factor * torch.tensor(parts, dtype=torch.float64).flatten()

    def estimate(self, column: str) -> Estimate:
        """The column with its bootstrap interval over images, the real ones fixed."""
        blocks = sorted(self.rows)
        return _around(self.mean(column), bootstrap.mean(self._pulls(column, blocks)))

    def minus(self, other: "Standing", column: str) -> Estimate:
        """The difference to another on the blocks that both have, image by image."""
        blocks = sorted(self.rows.keys() & other.rows.keys())
        if not blocks or self.params["n"] != other.params["n"]:
            raise bootstrap.BootstrapError(
                f"{self.solver} and {other.solver} share no block of seeds of the same length"
            )
        pulls = [side._pulls(column, blocks) for side in (self, other)]
        value = self.mean(column, blocks) - other.mean(column, blocks)
        return _around(value, bootstrap.difference(*pulls))


def _around(value: float, estimate: Estimate) -> Estimate:
    """The estimate's interval, moved to `value`: KID is not the mean of its pulls, but moves so."""
    moved = value - estimate.mean
    return Estimate(value, estimate.low + moved, estimate.high + moved)


def standings(rows: Iterable[Row], tier: str = "fashion") -> list[Standing]:
    """The rows made by the weights that ship now, blocks gathered."""
    found: dict[str, tuple[dict, dict[int, Row]]] = {}
    for row in rows:
        params = dict(row["params"])
        if params["tier"] != tier or not methods.is_current(params):
            continue
        first_seed = params.pop("first_seed")
        found.setdefault(ledger.digest(params), (params, {}))[1][first_seed] = row
    return [Standing(params, blocks) for params, blocks in found.values()]


def chosen(found: Iterable[Standing], **wanted: Any) -> dict[str, Standing]:
    """By solver, the standing whose parameters are as `wanted`; of several, that of most images."""
    best: dict[str, Standing] = {}
    for standing in sorted(found, key=lambda s: s.images):
        if all(standing.params[name] == value for name, value in wanted.items()):
            best[standing.solver] = standing
    return best


class Lead(NamedTuple):
    """The best by one column, and the others whose difference from it has an unsure sign."""

    best: Standing
    rivals: list[Standing]


def lead(found: Iterable[Standing], column: str) -> Lead:
    """Who leads, and who cannot be told from the leader at the 95 % level, one by one."""
    sign = 1 if LOWER_IS_BETTER[column] else -1
    ordered = sorted(found, key=lambda s: sign * s.mean(column))
    best, *others = ordered
    return Lead(best, [other for other in others if other.minus(best, column).sign == 0])


def pick(found: Iterable[Standing]) -> Lead:
    """For users of guidance: first the class, then the picture.

    Of the leader in judge accuracy and all that cannot be told from it, who leads by KID.
    """
    best, rivals = lead(found, "judge")
    return lead([best, *rivals], "kid")


def asked(
    method: str = "none", n: int = 100, blocks: int = 3, tier: str = "fashion", **options: Any
) -> list[Sampling]:
    """Every run of the full study that can be: all solvers at 10 and 20, some from 5 to 100."""
    given = dict(method=method, n=n, blocks=blocks, tier=tier, **options)
    runs = plan(FIXED, (10, 20), **given) + plan(FOLLOWED, (5, 50, 100), **given)
    return [params for params in runs if reason_against(params) is None]


def missing(runs: Iterable[Sampling]) -> list[Sampling]:
    """Those that the ledger does not hold."""
    return [params for params in runs if ledger.find(STUDY, params.recorded()) is None]


class Agreement(NamedTuple):
    """Spearman's rank correlation of two orders of the same solvers, best first."""

    correlation: float
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Agreement | None:
    """How two tables order what both hold, lower is better; None for fewer than three."""
    from scipy.stats import spearmanr

    both = [name for name in ours if name in theirs]
    if len(both) < 3:
        return None
    found = spearmanr([ours[name] for name in both], [theirs[name] for name in both])
    orders = (tuple(sorted(both, key=side.get)) for side in (ours, theirs))
    return Agreement(float(found.statistic), *orders)


def published_etas(dataset: str, steps: int) -> dict[str, float]:
    """FID by solver at this many steps, from the DDIM table."""
    return {
        ETAS[_eta(row["eta"])]: row["fid"]
        for row in published.rows("ddim_eta")
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
        r for r in published.rows("pndm") if (r["dataset"], r["schedule"]) == (dataset, schedule)
    ]
    for solver, extra in WARM_UP.items():
        own = sorted((r["steps"] + extra, r["fid"]) for r in rows if r["method"] == solver)
        at = budget if steps is None else steps + extra
        for (a, fid_a), (b, fid_b) in zip(own, own[1:], strict=False):
            if a <= at <= b:
                share = log(at / a) / log(b / a)
                found[solver] = exp((1 - share) * log(fid_a) + share * log(fid_b))
    return found
