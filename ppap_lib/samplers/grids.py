"""Grids: the levels that a sampler visits, evenly spaced in one coordinate or another.

`Schedule.grid` has the respacings of the public code.
"""

import math
from collections.abc import Callable

import numpy as np

from ppap_lib.diffusion.levels import CLEAN, Level
from ppap_lib.diffusion.schedules import AnySchedule, Schedule, check_schedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import real, whole

Grid = tuple[Level, ...]


def _spaced(
    schedule: AnySchedule,
    steps: int,
    start: float | None,
    stop: float | None,
    coordinate: Callable[[Level], float],
    level_at: Callable[[float], Level],
) -> Grid:
    check_schedule(schedule)
    if start is None or stop is None:
        if not isinstance(schedule, Schedule):
            raise InputError("a continuous schedule has no last level: pass start and stop")
        start, stop = schedule.T - 1 if start is None else start, 0 if stop is None else stop
    start, stop = real("start", start), real("stop", stop)
    if whole("steps", steps) < 2 or not start > stop:
        raise InputError(
            f"a grid falls from start to stop in at least 2 steps: got {start:g}, {stop:g}, {steps}"
        )
    first, last = schedule.at(start), schedule.at(stop)
    inner = np.linspace(coordinate(first), coordinate(last), steps)[1:-1]
    return (first, *(level_at(float(c)) for c in inner), last, CLEAN)


def uniform_grid(
    schedule: AnySchedule,
    steps: int,
    start: float | None = None,
    stop: float | None = None,
) -> Grid:
    """Return levels that fall evenly in t, which need not be whole, and the clean end.

    Parameters
    ----------
    schedule
        Source of the levels.
    steps
        Number of noisy levels, at least 2: with the clean end, as many steps.
    start, stop
        Training indices of the first and the last noisy level; by default the whole schedule.

    Raises
    ------
    InputError
        If there are too few steps, start is not above stop, or a continuous schedule gets neither.
    """
    return _spaced(
        schedule, steps, start, stop, lambda level: float(level.t), lambda t: schedule.at(t)
    )


def quadratic_grid(
    schedule: AnySchedule,
    steps: int,
    start: float | None = None,
    stop: float | None = None,
) -> Grid:
    """Return levels that fall evenly in the square root of t, and the clean end.

    Parameters
    ----------
    schedule, steps, start, stop
        See `uniform_grid`.

    References
    ----------
    Song et al. 2021 (DDIM), appendix D.2, for CIFAR-10; the public code's start is 0.8 T.
    """
    return _spaced(
        schedule, steps, start, stop, lambda level: math.sqrt(level.t), lambda c: schedule.at(c**2)
    )


def log_snr_grid(
    schedule: AnySchedule,
    steps: int,
    start: float | None = None,
    stop: float | None = None,
) -> Grid:
    """Return levels that fall evenly in log-SNR, and the clean end.

    Parameters
    ----------
    schedule, steps, start, stop
        See `uniform_grid`.

    References
    ----------
    Lu et al. 2022a (DPM-Solver).
    """
    return _spaced(
        schedule,
        steps,
        start,
        stop,
        lambda level: float(level.log_snr),
        lambda c: schedule.at_log_snr(c),
    )


def karras_grid(
    schedule: AnySchedule,
    steps: int,
    start: float | None = None,
    stop: float | None = None,
    rho: float = 7.0,
) -> Grid:
    """Return levels that fall evenly in (sigma / alpha)^(1 / rho), and the clean end.

    Parameters
    ----------
    schedule, steps, start, stop
        See `uniform_grid`.
    rho
        Positive; the larger, the more levels are nearly clean.

    References
    ----------
    Karras et al. 2022, eq. 5.
    """
    if real("rho", rho) <= 0:
        raise InputError(f"rho must be positive, not {rho}")
    return _spaced(
        schedule,
        steps,
        start,
        stop,
        lambda level: math.exp(-float(level.log_snr) / (2 * rho)),
        lambda c: schedule.at_log_snr(-2 * rho * math.log(c)),
    )
