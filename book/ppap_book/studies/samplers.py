"""The sampler study: how good is every solver at the same number of evaluations, with guidance too?

One row per solver, budget of function evaluations, method of guidance and block of seeds. At each
budget a solver takes the largest number of steps that fits. All rows of a block share their noise
and labels, so that solvers are compared image by image: a row keeps what every image contributes.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ppap_book import study
from ppap_book.measures import distances
from ppap_book.studies import methods, quality
from ppap_book.studies.guidance import judged
from ppap_book.studies.methods import PUBLISHED_SCALE, Guided
from ppap_lib import zoo
from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.diffusion.levels import CLEAN, Level
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import ContinuousSchedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import param, suggestion
from ppap_lib.samplers import (
    SOLVERS,
    Step,
    adaptive,
    analytic_ddim,
    count_evaluations,
    finest_grid,
    karras_grid,
    log_snr_grid,
    quadratic_grid,
    solver,
    uniform_grid,
)
from ppap_lib.samplers.draw import draw as draw_samples
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier as preset

STUDY = "samplers"
GRIDS = MappingProxyType(
    {
        "uniform": uniform_grid,
        "quadratic": quadratic_grid,
        "log_snr": log_snr_grid,
        "karras": karras_grid,
    }
)
ESTIMATION_IMAGES = 50  # on which A-DDIM estimates its variance
ESTIMATION_SEED = 2**31  # of their noise, far from every block


FIXED = (*(one.name for one in SOLVERS.values() if one.same_as is None), "analytic_ddim")
"""Every solver that keeps to a grid, once: of several names for one, the first."""

FOLLOWED = ("ddim", "dpmpp_2m", "f_pndm", "unipc_2")
"""Solvers followed from few to many evaluations."""

ETAS = {
    "0": "ddim",
    "0.2": "ddim_0.2",
    "0.5": "ddim_0.5",
    "1": "ddim_1",
    "sigma_hat": "ddim_sigma_hat",
}
"""DDIM's eta, as the published table writes it, and the solver."""

TITLES: Mapping[str, str] = {name: one.title for name, one in SOLVERS.items()} | {
    "analytic_ddim": "A-DDIM",
    "pf": "adaptive Runge-Kutta",
}
"""Solvers in print: the catalogue's, and the two that need more than a schedule."""

TOLERANCES = (0.1, 0.03, 0.01)
"""Of "pf", the adaptive solver."""


def extrapolates(name: str) -> bool:
    """Whether a solver's runs differ by `lower_final`."""
    return name in SOLVERS and SOLVERS[name].extrapolates


@dataclass(frozen=True)
class Sampling(Guided):
    """One run: which solver, what it may spend, what guides it, from which seeds.

    `budget` bounds the evaluations of the denoiser; the adaptive "pf" has none, but a
    `tolerance`, relative and absolute. Solvers that extrapolate end at low order, as their
    public codes do, unless `lower_final` is off.
    """

    solver: str
    budget: int | None = param(10, low=2)
    tolerance: float | None = param(None, low=0.0)
    grid: Literal["uniform", "quadratic", "log_snr", "karras"] = "uniform"
    lower_final: bool = True
    _: KW_ONLY
    method: methods.MethodName = "none"
    n: int = param(100, low=distances.COMPONENTS + 2)

    def __post_init__(self):
        super().__post_init__()
        if self.solver not in TITLES:
            known = (*FIXED, "pf")
            raise InputError(f"no solver {self.solver!r}: {suggestion(self.solver, known)}")
        if self.solver in SOLVERS and (same := SOLVERS[self.solver].same_as):
            raise InputError(f"{self.solver} is {same} by another name: run {same!r}")
        if (self.solver == "pf") != (self.tolerance is not None) or (
            (self.solver == "pf") != (self.budget is None)
        ):
            raise InputError(
                "pf, which chooses its steps, takes a tolerance and no budget; every other solver "
                f"a budget and no tolerance: {self.solver} got {self.budget}, {self.tolerance}"
            )

    @property
    def form(self) -> Literal["score"]:
        """Of guidance: the only one that all solvers take."""
        return "score"

    @property
    def label(self) -> str:
        """The run in one line."""
        limit = f"to {self.tolerance:g}" if self.budget is None else f"within {self.budget}"
        how = methods.title(self.method)
        return f"{self.solver} {limit}, {how}, seeds from {self.first_seed}"

    def recorded(self) -> dict[str, Any]:
        """`lower_final` only where it is on and the solver knows it, so that rows without it are
        of full order to the end."""
        made = super().recorded()
        if not (self.lower_final and extrapolates(self.solver)):
            del made["lower_final"]
        return made


def plan(
    solvers: Iterable[str] = FIXED,
    budgets: Iterable[int] = (10,),
    method: str = "none",
    guide: str = "resnet18",
    scale: float = PUBLISHED_SCALE,
    n: int = 100,
    blocks: int = 1,
    tier: str = "fashion",
    grid: str = "uniform",
    tolerances: Iterable[float] = TOLERANCES,
) -> list[Sampling]:
    """The runs of a study, block by block, so that an interrupted one compares equals.

    Every solver at every budget, but "pf" at every tolerance.
    """
    names = list(solvers)
    limits = [dict(budget=budget, tolerance=None) for budget in budgets]
    limits += [dict(budget=None, tolerance=tolerance) for tolerance in tolerances]
    given = dict(method=method, guide=guide, scale=scale, n=n, tier=tier, grid=grid)
    return [
        Sampling(solver=name, **limit, first_seed=block * n, **given)
        for block in range(blocks)
        for limit in limits
        for name in names
        if (name == "pf") == (limit["budget"] is None)
    ]


def levels(params: Sampling) -> Sequence[Level]:
    """The run's grid: the finest within its budget, or `InputError`: see `reason_against`."""
    schedule = preset(params.tier).schedule()
    if params.solver == "pf":
        return schedule.at(schedule.T - 1), schedule.at(0), CLEAN
    build = partial(GRIDS[params.grid], schedule)
    if params.solver == "analytic_ddim":
        return build(params.budget)  # one evaluation a step
    one = solver(params.solver)
    return finest_grid(params.budget, one.make(schedule), build, one.fewest)


@cache
def _least(name: str) -> int:
    """Evaluations of the fewest steps that count, on any schedule."""
    if name == "analytic_ddim":
        return 2
    smooth, one = ContinuousSchedule(), solver(name)
    return count_evaluations(one.make(smooth), uniform_grid(smooth, one.fewest, smooth.T, 1))


def reason_against(params: Sampling) -> str | None:
    """Why the run cannot be, or None: not even the fewest steps fit its budget."""
    if params.budget is None or params.budget >= _least(params.solver):
        return None
    return f"{params.solver} needs at least {_least(params.solver)} evaluations"


def _step(params: Sampling, grid: Sequence[Level], device: torch.device | str) -> Step:
    schedule = preset(params.tier).schedule()
    if params.solver == "pf":
        return adaptive(schedule, params.tolerance, params.tolerance)
    if params.solver == "analytic_ddim":
        # The unguided denoiser's variance, with guidance too: the data have no guide.
        denoise = zoo.load(preset(params.tier).named("denoiser"), device).clipped().denoise
        found = datasets.test_images(params.tier)
        x0 = found.images(distances.balanced(found.labels, ESTIMATION_IMAGES)).double()
        eps = Noise(range(ESTIMATION_SEED, ESTIMATION_SEED + len(x0)), found.shape)()
        return analytic_ddim(denoise, x0.to(device), eps.to(device), grid)
    return solver(params.solver).make(schedule, grid if params.lower_final else None)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images [n, C, H, W] in [-1, 1] on the CPU, and what each cost: steps, calls, seconds.

    Seconds are the process's own on a CPU, so that a busy machine does not count.
    """

    images: Tensor
    steps: int
    evaluations: float
    gradients: float
    seconds: float


def draw(params: Sampling, device: torch.device | str = "cpu", images: int | None = None) -> Drawn:
    """The run's images, or only its first `images`."""
    asked, grid = params.seeds[:images], levels(params)
    step = _step(params, grid, device)
    towards = methods.steering(
        params.method, params.guide, params.scale, params.form, params.tier, device
    )
    spent: Counter[str] = Counter()

    def counted(part: Sequence[int]) -> Diffusion:
        model, own = towards(part), len(set(part))  # some are copies, to fill the batch

        def count(x_t: Tensor, level: Level) -> Prediction:
            prediction = model.denoise(x_t, level)
            spent["evaluations"] += own
            spent["gradients"] += own * prediction.gradients
            return prediction

        return replace(model, denoise=count)

    clock = time.process_time if torch.device(device).type == "cpu" else time.perf_counter
    began = clock()
    drawn = draw_samples(counted, asked, step, grid=grid)
    seconds = clock() - began
    each = {name: spent[name] / len(asked) for name in ("evaluations", "gradients")}
    return Drawn(drawn, len(grid) - 1, **each, seconds=seconds / len(asked))


def measure(params: Sampling, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The protocol's columns, what every image contributes to them, and what it cost.

    The seconds are those of sampling alone.
    """
    drawn = draw(params, device)
    results = quality.measured(drawn.images, params.tier, params.extractor, device)
    results |= judged(params, drawn.images, device)
    results |= {name: getattr(drawn, name) for name in ("steps", "evaluations", "gradients")}
    return results | {"seconds": drawn.seconds * params.n}


def in_words(params: Sampling, results: Mapping[str, Any]) -> str:
    """A row in one line."""
    return (
        f"{params.label}: {results['steps']} steps, {results['evaluations']:g} evaluations, "
        f"KID {results['kid']:.4f}, FD64 {results['fd64']:.1f}, "
        f"judge {sum(results['judge_correct']) / params.n:.2f}"
    )


record = partial(study.record, STUDY, measure=measure, words=in_words)
"""Run what the ledger does not hold yet, one row after the other."""
