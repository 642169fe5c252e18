"""Every solver by name, with its facts; what one costs, and the finest grid that it can afford."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ppap_lib.diffusion.denoisers import Prediction, check_function
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.schedules import AnySchedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import suggestion, whole
from ppap_lib.samplers.exponential import (
    deis,
    dpm2,
    dpm_solver,
    dpmpp_multistep,
    dpmpp_singlestep,
    k_lms,
    unipc,
)
from ppap_lib.samplers.loop import Step, trajectory
from ppap_lib.samplers.pndm import f_pndm, fon, heun, plms, prk, rk4, s_pndm
from ppap_lib.samplers.stochastic import (
    ddim,
    ddim_sigma_hat,
    ddpm,
    dpm2_ancestral,
    euler,
    euler_ancestral,
    karras,
    large_variance,
    small_variance,
)


@dataclass(frozen=True)
class Solver:
    """A solver of the catalogue: its names, how its step is made, and its facts.

    Parameters
    ----------
    name
        The key in `SOLVERS`.
    title
        The name in print.
    order
        Global order on the probability flow, once the first steps have stopped to matter; None for
        solvers that draw noise.
    build
        From (schedule, lower_final) to a step; see `make`.
    extrapolates
        Whether `lower_final` changes the step.
    fewest
        Steps below which the solver is only its own warm-up.
    same_as
        The name of the solver that this one is by another name, if it is one.
    """

    name: str
    title: str
    order: int | None
    build: Callable[[AnySchedule, Sequence[Level] | None], Step]
    extrapolates: bool = False
    fewest: int = 2
    same_as: str | None = None

    @property
    def draws_noise(self) -> bool:
        """Whether steps draw noise, or else follow the probability flow."""
        return self.order is None

    def make(self, schedule: AnySchedule, lower_final: Sequence[Level] | None = None) -> Step:
        """Make the step.

        Parameters
        ----------
        schedule
            Where the solver finds the levels between those of a grid.
        lower_final
            The grid that will be walked, to lower the order over its last steps as public codes
            do (see `ppap_lib.samplers.exponential`); solvers that do not extrapolate ignore it.
        """
        return self.build(schedule, lower_final)


_SOLVERS = (
    Solver("ddim", "DDIM", 1, lambda s, g: ddim()),
    Solver("euler", "Euler", 1, lambda s, g: euler, same_as="ddim"),
    Solver("heun", "Heun", 2, lambda s, g: heun),
    Solver("dpm2", "DPM2", 2, lambda s, g: dpm2(s), same_as="dpm_solver_2"),
    Solver("k_lms", "K-LMS", 4, lambda s, g: k_lms()),
    Solver("prk", "PRK", 2, lambda s, g: prk(s)),
    Solver("plms", "PLMS", 2, lambda s, g: plms()),
    Solver("s_pndm", "S-PNDM", 2, lambda s, g: s_pndm),
    Solver("f_pndm", "F-PNDM", 2, lambda s, g: f_pndm(s), fewest=4),
    Solver("rk4", "RK4", 4, lambda s, g: rk4(s)),
    Solver("fon", "FON", 4, lambda s, g: fon(s), fewest=4),
    Solver("dpm_solver_1", "DPM-Solver-1", 1, lambda s, g: dpm_solver(1, s), same_as="ddim"),
    Solver("dpm_solver_2", "DPM-Solver-2", 2, lambda s, g: dpm_solver(2, s)),
    Solver("dpm_solver_3", "DPM-Solver-3", 3, lambda s, g: dpm_solver(3, s)),
    Solver("dpmpp_2s", "DPM-Solver++(2S)", 2, lambda s, g: dpmpp_singlestep(2, s)),
    Solver("dpmpp_3s", "DPM-Solver++(3S)", 3, lambda s, g: dpmpp_singlestep(3, s)),
    Solver("dpmpp_1m", "DPM-Solver++(1M)", 1, lambda s, g: dpmpp_multistep(1), same_as="ddim"),
    Solver("unipc_1", "UniPC-1", 2, lambda s, g: unipc(1)),
    Solver("dpmpp_2m", "DPM-Solver++(2M)", 2, lambda s, g: dpmpp_multistep(2, False, g), True),
    Solver("dpmpp_3m", "DPM-Solver++(3M)", 3, lambda s, g: dpmpp_multistep(3, False, g), True),
    Solver(
        "dpmpp_3m_halved",
        "DPM-Solver++(3M, public)",
        2,
        lambda s, g: dpmpp_multistep(3, True, g),
        True,
    ),
    Solver("deis_2", "DEIS-2", 2, lambda s, g: deis(2, None, g), True),
    Solver("deis_3", "DEIS-3", 3, lambda s, g: deis(3, None, g), True),
    Solver("deis_3_time", "DEIS-3 (in t)", 3, lambda s, g: deis(3, s, g), True),
    Solver("unipc_2", "UniPC-2", 3, lambda s, g: unipc(2, "bh2", g), True),
    Solver("unipc_3", "UniPC-3", 4, lambda s, g: unipc(3, "bh2", g), True),
    Solver("unipc_2_bh1", "UniPC-2 (B1)", 3, lambda s, g: unipc(2, "bh1", g), True),
    Solver("ddpm_small", "DDPM (small)", None, lambda s, g: ddpm(small_variance), same_as="ddim_1"),
    Solver(
        "ddpm_large",
        "DDPM (large)",
        None,
        lambda s, g: ddpm(large_variance),
        same_as="ddim_sigma_hat",
    ),
    Solver("ddim_0.2", "DDIM (eta 0.2)", None, lambda s, g: ddim(0.2)),
    Solver("ddim_0.5", "DDIM (eta 0.5)", None, lambda s, g: ddim(0.5)),
    Solver("ddim_1", "DDIM (eta 1)", None, lambda s, g: ddim(1.0)),
    Solver("ddim_sigma_hat", "DDIM (sigma-hat)", None, lambda s, g: ddim_sigma_hat),
    Solver(
        "euler_ancestral", "Euler ancestral", None, lambda s, g: euler_ancestral(), same_as="ddim_1"
    ),
    Solver("dpm2_ancestral", "DPM2 ancestral", None, lambda s, g: dpm2_ancestral(s)),
    Solver("karras", "stochastic Karras", None, lambda s, g: karras(s)),
)

SOLVERS: Mapping[str, Solver] = MappingProxyType({one.name: one for one in _SOLVERS})
"""Every solver by name: those of the probability flow first, then those that draw noise.

`adaptive`, which keeps to no grid, and `analytic_ddim`, which needs data, are not among them.
"""


def solver(name: str) -> Solver:
    """Look up a solver by name.

    Parameters
    ----------
    name
        A key of `SOLVERS`.

    Raises
    ------
    InputError
        If there is no such solver, with the names most alike.
    """
    if not isinstance(name, str) or name not in SOLVERS:
        raise InputError(f"no solver {name!r}: {suggestion(str(name), SOLVERS, 3)}")
    return SOLVERS[name]


def _white_noise_denoiser(x_t: torch.Tensor, level: Level) -> Prediction:
    """The exact denoiser of data that are white noise themselves."""
    alpha, sigma = level.scales(x_t)
    return Prediction(alpha * x_t, sigma * x_t)


def count_evaluations(step: Step, grid: Sequence[Level]) -> int:
    """Count how often a step evaluates the denoiser on a grid, by a dry run of one number.

    Parameters
    ----------
    step
        A solver's step, as `Solver.make` or a function such as `ddim()` returns.
    grid
        Levels from noisy to clean.
    """
    x_T = torch.zeros(1, 1, dtype=torch.float64, device="cpu")
    *_, last = trajectory(_white_noise_denoiser, x_T, grid, step, lambda: torch.zeros_like(x_T))
    return last.evaluations


def finest_grid(
    budget: int, step: Step, build: Callable[[int], Sequence[Level]], fewest: int = 2
) -> Sequence[Level]:
    """Return the finest grid on which a step keeps to a budget, for fair comparisons of solvers.

    Parameters
    ----------
    budget
        Evaluations of the denoiser, at most.
    step
        A solver's step; what it costs must not fall with the number of steps.
    build
        From a number of steps to a grid.
    fewest
        The fewest steps that count; see `Solver.fewest`.

    Raises
    ------
    InputError
        If not even `fewest` steps fit the budget.
    """
    check_function("what builds a grid", build)
    budget, fewest = whole("a budget", budget), whole("fewest", fewest)
    # No step is free, so N <= budget; the cost rises with N, so bisection finds the last that fits.
    counts = range(fewest, budget + 1)
    fitting = bisect_right(counts, budget, key=lambda steps: count_evaluations(step, build(steps)))
    if not fitting:
        least = count_evaluations(step, build(fewest))
        raise InputError(
            f"needs at least {least} evaluations, for {fewest} steps: the budget is {budget}"
        )
    return build(counts[fitting - 1])
