"""The solvers of Liu et al. 2022 (PNDM), under the paper's names, and Heun's.

The pseudo-numerical ones average eps over time with the coefficients of a classical method and
move along `ddim_transfer` with the average. Averages over t, integral over sigma / alpha: that
is why they are of order 2 whatever the classical method's. FON and RK4 are the classical methods
themselves, on dx/dt, and of order 4.

Orders are global, on a smooth schedule and away from its clean end. N steps are counted with the
last, to the clean end, which is Euler's.
"""

import numpy as np
from torch import Tensor

from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.schedules import AnySchedule, check_schedule
from ppap_lib.samplers.loop import Step, check_order, ode_step
from ppap_lib.samplers.quadrature import (
    ddim_transfer,
    weighted_sum,
    weights,
)


@ode_step("heun")
def heun(denoise, x, now, nxt, history, noise):
    """Take Heun's step in sigma / alpha, by the mean of eps at both ends: x at `nxt`.

    Order 2; 2N-1 evaluations. The arguments are those of every `Step`.

    References
    ----------
    Karras et al. 2022, algorithm 1.
    """
    eps = history[-1].prediction.eps
    ahead = denoise(ddim_transfer(x, now, nxt, eps), nxt).eps
    return ddim_transfer(x, now, nxt, (eps + ahead) / 2)


def _adams_bashforth(count: int) -> np.ndarray:
    """Weights of the last `count` values, oldest first, on an even grid: ..., -9, 37, -59, 55."""
    return weights(range(1 - count, 1), 1 / np.arange(1, count + 1))


def _multistep(x: Tensor, now: Level, nxt: Level, history, order: int) -> Tensor:
    recent = [evaluation.prediction.eps for evaluation in history[-order:]]
    return ddim_transfer(x, now, nxt, weighted_sum(_adams_bashforth(len(recent)), recent))


def plms(order: int = 4) -> Step:
    """Make the pseudo linear multistep step, begun by one Heun step.

    Then Adams-Bashforth averages of the last 2, 3, ... `order` eps, as on an even grid. Order 2;
    N+1 evaluations.

    Parameters
    ----------
    order
        Number of eps averaged, 1 to 4.
    """
    order = check_order("plms", order, 4)

    @ode_step("plms")
    def step(denoise, x, now, nxt, history, noise):
        if len(history) == 1 and order > 1:
            return heun(denoise, x, now, nxt, history, noise)
        return _multistep(x, now, nxt, history, order)

    return step


s_pndm = plms(2)
"""The step of S-PNDM, `plms` of two eps: order 2, N+1 evaluations."""


def _middle(schedule: AnySchedule, now: Level, nxt: Level) -> Level:
    return schedule.at((now.t + nxt.t) / 2)


def prk(schedule: AnySchedule) -> Step:
    """Make the pseudo Runge-Kutta step: order 2, 4N-3 evaluations.

    Parameters
    ----------
    schedule
        Source of the levels half-way between those of the grid.
    """
    check_schedule(schedule)

    @ode_step("prk")
    def step(denoise, x, now, nxt, history, noise):
        middle = _middle(schedule, now, nxt)
        e1 = history[-1].prediction.eps
        e2 = denoise(ddim_transfer(x, now, middle, e1), middle).eps
        e3 = denoise(ddim_transfer(x, now, middle, e2), middle).eps
        e4 = denoise(ddim_transfer(x, now, nxt, e3), nxt).eps
        return ddim_transfer(x, now, nxt, (e1 + 2 * e2 + 2 * e3 + e4) / 6)

    return step


def f_pndm(schedule: AnySchedule) -> Step:
    """Make the step of F-PNDM: three of PRK, then PLMS of four eps.

    Order 2; N+9 evaluations, at least 13.

    Parameters
    ----------
    schedule
        Source of the levels half-way between those of the grid.
    """
    start = prk(schedule)

    @ode_step("f_pndm")
    def step(denoise, x, now, nxt, history, noise):
        if len(history) < 4:
            return start(denoise, x, now, nxt, history, noise)
        return _multistep(x, now, nxt, history, 4)

    return step


def _slope(schedule: AnySchedule, x: Tensor, level: Level, prediction: Prediction) -> Tensor:
    """dx/dt of the probability flow: half the slope of the log-SNR, times sigma (sigma x - eps)."""
    _, sigma = level.scales(x)
    return schedule.log_snr_slope(level.t) / 2 * sigma * (sigma * x - prediction.eps)


def rk4(schedule: AnySchedule) -> Step:
    """Make the step of the classical Runge-Kutta method on dx/dt: order 4, 4N-3 evaluations.

    Parameters
    ----------
    schedule
        Source of the levels half-way between those of the grid, and of d log-SNR / dt.
    """
    check_schedule(schedule)

    @ode_step("rk4")
    def step(denoise, x, now, nxt, history, noise):
        middle, width = _middle(schedule, now, nxt), nxt.t - now.t

        def slope(x_t: Tensor, level: Level) -> Tensor:
            return _slope(schedule, x_t, level, denoise(x_t, level))

        k1 = _slope(schedule, x, now, history[-1].prediction)
        k2 = slope(x + width / 2 * k1, middle)
        k3 = slope(x + width / 2 * k2, middle)
        k4 = slope(x + width * k3, nxt)
        return x + width / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return step


def fon(schedule: AnySchedule) -> Step:
    """Make the step of FON: three of RK4, then Adams-Bashforth of four slopes dx/dt.

    Order 4; N+9 evaluations, at least 13.

    Parameters
    ----------
    schedule
        Source of the levels half-way between those of the grid, and of d log-SNR / dt.
    """
    start = rk4(schedule)

    @ode_step("fon")
    def step(denoise, x, now, nxt, history, noise):
        if len(history) < 4:
            return start(denoise, x, now, nxt, history, noise)
        width = float(nxt.t - now.t)
        nodes = [float(evaluation.level.t - now.t) / width for evaluation in history]
        slopes = [_slope(schedule, level.noised(p.x0, p.eps), level, p) for level, p in history]
        shares = width * weights(nodes, 1 / np.arange(1, len(nodes) + 1))
        return x + weighted_sum(shares, slopes)

    return step
