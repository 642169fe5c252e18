"""Sampling: one loop, steps that are pure functions, and the grids they walk down."""

from ppap_lib.samplers.loop import (
    HISTORY,
    History,
    Moment,
    SamplingError,
    State,
    Step,
    sample,
    trajectory,
)
from ppap_lib.samplers.pndm import (
    f_pndm,
    fon,
    heun,
    plms,
    prk,
    rk4,
    s_pndm,
)
from ppap_lib.samplers.stochastic import (
    LogVariance,
    Posterior,
    ddim,
    ddpm,
    large_variance,
    learned_variance,
    small_variance,
)

__all__ = [
    "HISTORY",
    "History",
    "LogVariance",
    "Moment",
    "Posterior",
    "SamplingError",
    "State",
    "Step",
    "ddim",
    "ddpm",
    "f_pndm",
    "fon",
    "heun",
    "large_variance",
    "learned_variance",
    "plms",
    "prk",
    "rk4",
    "s_pndm",
    "sample",
    "small_variance",
    "trajectory",
]
