"""The sampler study: how good is every solver at the same number of evaluations, with guidance too?

One row per solver, budget of function evaluations, method of guidance and block of seeds. At each
budget a solver takes the largest number of steps that fits. All rows of a block share their noise
and labels, so that solvers are compared image by image: a row keeps what every image contributes.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_book.measures import distances, protocol
from ppap_book.studies import methods
from ppap_book.studies.guidance import judged
from ppap_book.studies.methods import PUBLISHED_SCALE, Guided, MethodName
from ppap_book.study import Study
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
from ppap_lib.samplers.draw import usual_batch
from ppap_lib.zoo import datasets, tiers
from ppap_lib.zoo.tiers import GuideName, TierName

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

TITLES: Mapping[str, str] = {name: one.title for name, one in SOLVERS.items()} | {
    "analytic_ddim": "A-DDIM",
    "pf": "adaptive Runge-Kutta",
}
"""Solvers in print: the catalogue's, and the two that need more than a schedule."""

TOLERANCES = (0.1, 0.03, 0.01)
"""Tolerances of "pf", the adaptive solver."""

GridName = Literal["uniform", "quadratic", "log_snr", "karras"]

IMAGES: Mapping[str, int] = MappingProxyType({"none": 200, "ppap5": 100})
"""In a block of the full study, by method of guidance."""

BESIDE_PNDM: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        11: ("s_pndm",),
        19: ("f_pndm", "fon"),
        21: ("s_pndm",),
        29: ("f_pndm", "fon"),
        50: ("s_pndm", "fon"),
    }
)
"""By budget, what else the PNDM table compares: as many steps as DDIM's, 10 and 20, and 50
evaluations."""


PNDM = ("ddim", "s_pndm", "f_pndm")
"""Solvers that PNDM's authors compare, whose code clips no x0 (`transfer` in runner/method.py)."""


def extrapolates(name: str) -> bool:
    """Return whether a solver's runs differ by `lower_final`."""
    return name in SOLVERS and SOLVERS[name].extrapolates


@dataclass(frozen=True)
class Sampling(Guided):
    """One run: which solver, what it may spend, what guides it, from which seeds.

    `budget` bounds the evaluations of the denoiser; the adaptive "pf" has none, but a
    `tolerance`, relative and absolute. Solvers that extrapolate end at low order, as their
    public codes do, unless `lower_final` is off. The predicted x0 is clipped; without guidance it
    may be `unclipped`.
    """

    solver: str
    budget: int | None = param(10, low=2)
    tolerance: float | None = param(None, low=0.0)
    grid: GridName = "uniform"
    lower_final: bool = True
    unclipped: bool = False
    _: KW_ONLY
    method: MethodName = "none"
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
        if self.unclipped and (self.method != "none" or self.solver == "analytic_ddim"):
            raise InputError(
                f"x0 is left unclipped without guidance only, and not for analytic_ddim: "
                f"{self.solver}, method {self.method!r}, is clipped"
            )

    @property
    def form(self) -> Literal["score"]:
        """The form of guidance: the only one that all solvers take."""
        return "score"

    @property
    def label(self) -> str:
        """The run in one line."""
        limit = f"to {self.tolerance:g}" if self.budget is None else f"within {self.budget}"
        how = methods.title(self.method)
        return f"{self.solver} {limit}, {how}, seeds from {self.first_seed}"

    def recorded(self) -> dict[str, Any]:
        """Name `lower_final` only where it is on and the solver knows it, `unclipped` if it is on.

        So rows without them are of full order to the end, and clipped.
        """
        params = super().recorded()
        if not self.unclipped:
            del params["unclipped"]
        if not (self.lower_final and extrapolates(self.solver)):
            del params["lower_final"]
        return params


def grid(
    solvers: tuple[str, ...] | None = None,
    budgets: tuple[int, ...] | None = None,
    tolerances: tuple[float, ...] | None = None,
    method: MethodName = "none",
    guide: GuideName | None = None,
    scale: float | None = None,
    n: int = 100,
    blocks: int = 1,
    tier: TierName = "fashion",
    grid: GridName | None = None,
    unclipped: bool = False,
    full_order: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Sampling]:
    """Return every solver at every budget that it can keep to, block by block.

    Raises `StudyError` for what would be ignored: a guide without a method, a budget of "pf".

    Parameters
    ----------
    solvers : tuple[str, ...]
        The names of solvers; pf is the adaptive one (all but pf if not given).
    budgets : tuple[int, ...]
        The largest numbers of evaluations of the denoiser (10 if not given).
    tolerances : tuple[float, ...]
        The tolerances of pf, relative and absolute (0.1, 0.03 and 0.01 if not given).
    method : MethodName
        The method of guidance.
    guide : GuideName
        The network that guides, with a method (resnet18 if not given).
    scale : float
        The scale of guidance, with a method (the published 7.5 if not given).
    n : int
        The number of images in a block of seeds.
    blocks : int
        The number of blocks of seeds.
    tier : TierName
        The tier whose images are drawn.
    grid : GridName
        The spacing of the steps of all solvers but pf (uniform if not given).
    unclipped : bool
        The predicted x0 is not clipped; without guidance only.
    full_order : bool
        Solvers that extrapolate do not end at low order.
    tell : Callable[[str], None]
        Hears which runs are left blank, and why.
    """
    solvers = FIXED if solvers is None else solvers
    pf, others = "pf" in solvers, set(solvers) != {"pf"}
    _refuse_ignored("nothing guides: give a --method", method != "none", guide=guide, scale=scale)
    _refuse_ignored("the solver pf is not among --solvers", pf, tolerances=tolerances)
    _refuse_ignored("the solver pf chooses its steps itself", others, budgets=budgets, grid=grid)
    limits = [(budget, None) for budget in budgets or (10,)]
    limits += [(None, tolerance) for tolerance in tolerances or TOLERANCES]
    runs = [
        Sampling(
            solver=name,
            budget=budget,
            tolerance=tolerance,
            grid=grid or "uniform",
            unclipped=unclipped,
            lower_final=not full_order,
            method=method,
            guide=guide or "resnet18",
            scale=PUBLISHED_SCALE if scale is None else scale,
            n=n,
            first_seed=block * n,
            tier=tier,
        )
        for block in range(blocks)
        for budget, tolerance in limits
        for name in solvers
        if (name == "pf") == (budget is None)
    ]
    reasons = {run: reason_against(run) for run in runs}
    for run, reason in reasons.items():
        if reason:
            tell(f"{run.label}: left blank, {reason}")
    return [run for run, reason in reasons.items() if not reason]


def _refuse_ignored(reason: str, used: bool, **options: Any) -> None:
    for name, value in options.items():
        if value is not None and not used:
            raise StudyError(f"--{name} would be ignored: {reason}")


def whole(method: str = "none", blocks: int = 3, tier_name: str = "fashion") -> list[Sampling]:
    """Return every run of the full study: all solvers at 10 and 20, some from 5 to 100.

    Without guidance also what is published, by PNDM's authors, clipped and not, and of the adaptive
    solver; and what a verdict could hang on, 2M of full order to the end.
    """
    shared = dict(method=method, n=IMAGES[method], blocks=blocks, tier=tier_name)
    runs = grid(FIXED, (10, 20), **shared) + grid(FOLLOWED, (5, 50, 100), **shared)
    if method == "none":
        for budget, solvers in BESIDE_PNDM.items():
            runs += grid(solvers, (budget,), **shared)
        runs += grid(PNDM, (20,), unclipped=True, **shared)
        runs += grid(("dpmpp_2m",), (10,), full_order=True, **shared)
        runs += grid(("pf",), tolerances=TOLERANCES, **shared)
    return runs


def levels(params: Sampling) -> Sequence[Level]:
    """Return the run's levels: the finest grid within its budget.

    Raises `InputError` where there is none; see `reason_against`.
    """
    schedule = tiers.tier(params.tier).schedule()
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
    """Return why the run cannot be: not even the fewest steps fit its budget. Else None."""
    if params.budget is None or params.budget >= _least(params.solver):
        return None
    return f"{params.solver} needs at least {_least(params.solver)} evaluations"


def _step(params: Sampling, run_levels: Sequence[Level], device: torch.device | str) -> Step:
    schedule = tiers.tier(params.tier).schedule()
    if params.solver == "pf":
        return adaptive(schedule, params.tolerance, params.tolerance)
    if params.solver == "analytic_ddim":
        # The unguided denoiser's variance, with guidance too: the data have no guide.
        denoise = methods.unguided(params.tier, device).denoise
        real = datasets.test_images(params.tier)
        x0 = real.images(distances.balanced(real.labels, ESTIMATION_IMAGES)).double()
        eps = Noise(range(ESTIMATION_SEED, ESTIMATION_SEED + len(x0)), real.shape)()
        return analytic_ddim(denoise, x0.to(device), eps.to(device), run_levels)
    return solver(params.solver).make(schedule, run_levels if params.lower_final else None)


def _steering(params: Sampling, device: torch.device | str) -> Callable[[Sequence[int]], Diffusion]:
    if params.unclipped:
        plain = zoo.load(tiers.tier(params.tier).named("denoiser"), device)
        return lambda part: plain
    return methods.steering(
        params.method, params.guide, params.scale, params.form, params.tier, device
    )


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


def draw(
    params: Sampling,
    device: torch.device | str = "cpu",
    images: int | None = None,
    batch: int | None = None,
) -> Drawn:
    """Return the run's images, or only its first `images`, and their cost.

    `batch` images are drawn at a time, the study's number by default. Seconds are those of an image
    in a full batch: copies that fill up the last one count as images, too.
    """
    seeds = params.seeds[:images]
    batch = batch or usual_batch(device, tiers.tier(params.tier).shape)
    run_levels = levels(params)
    step = _step(params, run_levels, device)
    steering = _steering(params, device)
    spent: Counter[str] = Counter()

    def counting(part: Sequence[int]) -> Diffusion:
        model, own = steering(part), len(set(part))  # some are copies, to fill the batch

        def counted(x_t: Tensor, level: Level) -> Prediction:
            prediction = model.denoise(x_t, level)
            spent["evaluations"] += own
            spent["gradients"] += own * prediction.gradients
            return prediction

        return replace(model, denoise=counted)

    clock = time.process_time if torch.device(device).type == "cpu" else time.perf_counter
    began = clock()
    drawn = draw_samples(counting, seeds, step, grid=run_levels, batch=batch)
    seconds = (clock() - began) / (math.ceil(len(seeds) / batch) * batch)
    each = {name: spent[name] / len(seeds) for name in ("evaluations", "gradients")}
    return Drawn(drawn, len(run_levels) - 1, **each, seconds=seconds)


def measure(params: Sampling, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the protocol's columns, what every image contributes to them, and what it cost.

    The seconds are those of sampling alone.
    """
    drawn = draw(params, device)
    results = protocol.measured(drawn.images, params.tier, params.extractor, device)
    results |= judged(params, drawn.images, device)
    results |= {name: getattr(drawn, name) for name in ("steps", "evaluations", "gradients")}
    return results | {"seconds": drawn.seconds * params.n}


def in_words(params: Sampling, results: Mapping[str, Any]) -> str:
    """Return a row in one line."""
    return (
        f"{params.label}: {results['steps']} steps, {results['evaluations']:g} evaluations, "
        f"KID {results['kid']:.4f}, FD64 {results['fd64']:.1f}, "
        f"judge {sum(results['judge_correct']) / params.n:.2f}"
    )


STUDY = Study(
    "samplers",
    "How good is every solver at the same number of evaluations?",
    Sampling,
    grid,
    measure,
    in_words,
)
