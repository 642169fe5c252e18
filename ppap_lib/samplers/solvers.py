"""Every solver by name, what it costs, and the finest grid it can afford."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import torch

from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import suggestion
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


class Solvers(dict[str, Step]):
    """Steps by name; an unknown name is a `InputError` with suggestions."""

    def __missing__(self, name: str) -> Step:
        raise InputError(f"no solver {name!r}: {suggestion(str(name), self, 3)}")

    def __or__(self, other: Mapping[str, Step]) -> "Solvers":
        return Solvers({**self, **other})


def _extrapolating(
    schedule: Schedule | ContinuousSchedule, lower_final: Sequence[Level] | None
) -> dict[str, Step]:
    return {
        "dpmpp_2m": dpmpp_multistep(2, lower_final=lower_final),
        "dpmpp_3m": dpmpp_multistep(3, lower_final=lower_final),
        "dpmpp_3m_halved": dpmpp_multistep(3, halved=True, lower_final=lower_final),
        "deis_2": deis(2, lower_final=lower_final),
        "deis_3": deis(3, lower_final=lower_final),
        "deis_3_time": deis(3, schedule, lower_final),
        "unipc_2": unipc(2, lower_final=lower_final),
        "unipc_3": unipc(3, lower_final=lower_final),
        "unipc_2_bh1": unipc(2, "bh1", lower_final),
    }


EXTRAPOLATING = tuple(_extrapolating(ContinuousSchedule(), None))
"""The solvers that `lower_final` changes."""


def ode_solvers(
    schedule: Schedule | ContinuousSchedule, lower_final: Sequence[Level] | None = None
) -> Solvers:
    """The steps that draw no noise and follow the probability flow, by name.

    Those in `EXTRAPOLATING` end at low order on the grid `lower_final`, if one is given.
    """
    return Solvers(
        {
            "ddim": ddim(),
            "euler": euler,
            "heun": heun,
            "dpm2": dpm2(schedule),
            "k_lms": k_lms(),
            "prk": prk(schedule),
            "plms": plms(),
            "s_pndm": s_pndm,
            "f_pndm": f_pndm(schedule),
            "rk4": rk4(schedule),
            "fon": fon(schedule),
            "dpm_solver_1": dpm_solver(1, schedule),
            "dpm_solver_2": dpm_solver(2, schedule),
            "dpm_solver_3": dpm_solver(3, schedule),
            "dpmpp_2s": dpmpp_singlestep(2, schedule),
            "dpmpp_3s": dpmpp_singlestep(3, schedule),
            "dpmpp_1m": dpmpp_multistep(1),
            "unipc_1": unipc(1),
            **_extrapolating(schedule, lower_final),
        }
    )


def noise_solvers(schedule: Schedule | ContinuousSchedule) -> Solvers:
    """The steps that draw noise, by name; `analytic_ddim` needs data as well and is not here."""
    return Solvers(
        {
            "ddpm_small": ddpm(small_variance),
            "ddpm_large": ddpm(large_variance),
            "ddim_0.2": ddim(0.2),
            "ddim_0.5": ddim(0.5),
            "ddim_1": ddim(1.0),
            "ddim_sigma_hat": ddim_sigma_hat,
            "euler_ancestral": euler_ancestral(),
            "dpm2_ancestral": dpm2_ancestral(schedule),
            "karras": karras(schedule),
        }
    )


ORDERS: Mapping[str, int] = {
    **dict.fromkeys(("ddim", "euler", "dpm_solver_1", "dpmpp_1m"), 1),
    **dict.fromkeys(("heun", "dpm2", "dpm_solver_2", "dpmpp_2s", "dpmpp_2m", "deis_2"), 2),
    **dict.fromkeys(("prk", "plms", "s_pndm", "f_pndm", "dpmpp_3m_halved", "unipc_1"), 2),
    **dict.fromkeys(("dpm_solver_3", "dpmpp_3s", "dpmpp_3m", "deis_3", "deis_3_time"), 3),
    **dict.fromkeys(("unipc_2", "unipc_2_bh1"), 3),
    **dict.fromkeys(("rk4", "fon", "k_lms", "unipc_3"), 4),
}
"""The global orders of `ode_solvers`, once a solver's first steps have stopped to matter."""

OTHER_NAMES: Mapping[str, str] = {
    "euler": "ddim",
    "dpm_solver_1": "ddim",
    "dpmpp_1m": "ddim",
    "dpm2": "dpm_solver_2",
    "ddpm_small": "ddim_1",
    "euler_ancestral": "ddim_1",
    "ddpm_large": "ddim_sigma_hat",
}
"""Which names mean the same solver: those on the left need no run of their own."""

FEWEST_STEPS: Mapping[str, int] = {"f_pndm": 4, "fon": 4}
"""Steps below which a solver is only its own warm-up: three Runge-Kutta steps and the last one."""


def count_evaluations(solver: Step, grid: Sequence[Level]) -> int:
    """How often `solver` evaluates the denoiser on `grid`, counted on a dry run of one number."""

    def white(x_t: torch.Tensor, level: Level) -> Prediction:
        alpha, sigma = level.scales(x_t)
        return Prediction(alpha * x_t, sigma * x_t)

    x_T = torch.zeros(1, 1, dtype=torch.float64)
    *_, last = trajectory(white, x_T, grid, solver, lambda: torch.zeros_like(x_T))
    return last.evaluations


def finest_grid(
    budget: int, solver: Step, build: Callable[[int], Sequence[Level]], fewest: int = 2
) -> Sequence[Level]:
    """The finest grid `build(N)`, N >= `fewest`, on which `solver` keeps to `budget` evaluations.

    For fair comparisons: solvers differ in what a step costs. Raises `InputError` with the
    reason where not even `fewest` steps fit (see `FEWEST_STEPS`).
    """
    # No step is free, so N <= budget; the cost rises with N, so bisection finds the last that fits.
    counts = range(fewest, budget + 1)
    fitting = bisect_right(
        counts, budget, key=lambda steps: count_evaluations(solver, build(steps))
    )
    if not fitting:
        raise InputError(
            f"needs at least {count_evaluations(solver, build(fewest))} evaluations, for {fewest} steps: "
            f"the budget is {budget}"
        )
    return build(counts[fitting - 1])
