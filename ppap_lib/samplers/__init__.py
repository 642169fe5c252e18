"""Sampling: one loop, solvers' steps, which are pure functions, and the grids they walk down.

From noise to a law with two modes, by twenty evaluations of its exact denoiser, and where the
probability flow leads exactly:

>>> import torch
>>> from ppap_lib.diffusion.analytic import Mixture
>>> from ppap_lib.diffusion.noise import Noise
>>> from ppap_lib.diffusion.schedules import Schedule
>>> from ppap_lib.samplers import finest_grid, log_snr_grid, sample, solver
>>> schedule, unipc = Schedule.linear(), solver("unipc_2")
>>> hills = Mixture(torch.tensor([[-1.0], [1.0]]), stds=[0.1, 0.1])
>>> grid = finest_grid(20, unipc.make(schedule), lambda steps: log_snr_grid(schedule, steps))
>>> x_T = Noise(range(6), shape=(1,))()
>>> x0 = sample(hills.denoise, x_T, grid, unipc.make(schedule, lower_final=grid))
>>> x0.round(decimals=2).flatten().tolist()
[1.12, 1.0, 0.95, 1.02, -1.12, -0.97]
>>> hills.quantile_map(x_T, grid[0], grid[-2]).round(decimals=2).flatten().tolist()
[1.12, 1.0, 0.95, 1.02, -1.12, -0.97]
"""

from ppap_lib.samplers.adaptive import adaptive, probability_flow
from ppap_lib.samplers.exponential import (
    deis,
    dpm2,
    dpm_solver,
    dpmpp_multistep,
    dpmpp_singlestep,
    k_lms,
    unipc,
)
from ppap_lib.samplers.grids import karras_grid, log_snr_grid, quadratic_grid, uniform_grid
from ppap_lib.samplers.loop import HISTORY, Evaluation, History, State, Step, sample, trajectory
from ppap_lib.samplers.pndm import f_pndm, fon, heun, plms, prk, rk4, s_pndm
from ppap_lib.samplers.solvers import (
    SOLVERS,
    Solver,
    count_evaluations,
    finest_grid,
    solver,
)
from ppap_lib.samplers.stochastic import (
    LogVariance,
    analytic_ddim,
    ddim,
    ddim_sigma_hat,
    ddpm,
    dpm2_ancestral,
    euler,
    euler_ancestral,
    karras,
    large_variance,
    learned_variance,
    noise_prediction_error,
    small_variance,
)

__all__ = [
    "Evaluation",
    "HISTORY",
    "History",
    "LogVariance",
    "SOLVERS",
    "Solver",
    "State",
    "Step",
    "adaptive",
    "analytic_ddim",
    "count_evaluations",
    "ddim",
    "ddim_sigma_hat",
    "ddpm",
    "deis",
    "dpm2",
    "dpm2_ancestral",
    "dpm_solver",
    "dpmpp_multistep",
    "dpmpp_singlestep",
    "euler",
    "euler_ancestral",
    "f_pndm",
    "finest_grid",
    "fon",
    "heun",
    "k_lms",
    "karras",
    "karras_grid",
    "large_variance",
    "learned_variance",
    "log_snr_grid",
    "noise_prediction_error",
    "plms",
    "prk",
    "probability_flow",
    "quadratic_grid",
    "rk4",
    "s_pndm",
    "sample",
    "small_variance",
    "solver",
    "trajectory",
    "uniform_grid",
    "unipc",
]
