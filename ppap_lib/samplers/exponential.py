"""DPM-Solver, DPM-Solver++, DEIS, UniPC and K-LMS: quadratures of the probability flow.

Each solver is a choice of form, points, variable and rule of `quadrature`. In closed form, with
h = lambda_nxt - lambda_now and sum_k c_k s^k the polynomial through the x0 of the points, in
s = (lambda - lambda_now) / h, the solvers on x0 are::

    x_nxt = sigma_nxt / sigma_now x + alpha_nxt sum_k psi_k c_k
    psi_0 = 1 - exp(-h),  psi_k = 1 - k / h psi_{k-1}

Orders are global, on a smooth schedule and away from its clean end; N steps count the last, to the
clean end, which is Euler's and costs nothing further.

`lower_final`, of the multistep solvers, is the grid that will be walked. Over its last two steps
between noisy levels orders are then at most 2 and 1, as by the `lower_order_final` of public codes
(diffusers' DPM-Solver++ and DEIS only below 15 steps): where the last step is long in log-SNR, as
on grids even in time, a polynomial would reach far beyond its nodes. Singlestep solvers have nodes
inside the step, and K-LMS's public code keeps its order.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.schedules import AnySchedule, check_schedule
from ppap_lib.errors import InputError
from ppap_lib.samplers.loop import Evaluation, Step, check_grid, check_order, ode_step
from ppap_lib.samplers.quadrature import (
    DATA_PREDICTION,
    NOISE_PREDICTION,
    Form,
    Rule,
    Variable,
    exact_moments,
    identity,
    integral,
    integrate_step,
    log_ratio,
    midpoint,
    noise_ratio,
)


def _orders(order: int, lower_final: Sequence[Level] | None) -> Callable[[Level], int]:
    """The order of the step to a level: `order`, but on a grid to be ended low no more than noisy
    steps are left, itself included."""
    if lower_final is None:
        return lambda nxt: order
    check_grid(lower_final)
    noisy = [float(level.t) for level in lower_final if not level.clean]
    left = {t: count for count, t in enumerate(reversed(noisy), 1)}

    def order_to(nxt: Level) -> int:
        if float(nxt.t) not in left:
            raise InputError(
                f"t = {nxt.t:g} is not on the grid whose last orders are to be lower: pass as "
                f"lower_final the grid that is walked"
            )
        return min(order, left[float(nxt.t)])

    return order_to


def _multistep(
    solver: str,
    form: Form,
    orders: Callable[[Level], int],
    rule: Rule = exact_moments,
    variable: Variable = identity,
) -> Step:
    """The polynomial through the last predictions, as many as the order, fewer at the start."""

    @ode_step(solver)
    def step(denoise, x, now, nxt, history, noise):
        return integrate_step(form, x, now, nxt, history[-orders(nxt) :], rule, variable)

    return step


def k_lms(order: int = 4) -> Step:
    """Make the linear multistep step of k-diffusion: eps is a polynomial in sigma / alpha.

    N evaluations. Order 4 measures at least 3, for the first steps are of lower order.

    Parameters
    ----------
    order
        Number of eps that the polynomial goes through, 1 to 4.

    References
    ----------
    Crowson et al. 2022 (k-diffusion), `sample_lms`.
    """
    order = check_order("k_lms", order, 4)
    return _multistep("k_lms", NOISE_PREDICTION, _orders(order, None), variable=noise_ratio)


def deis(
    order: int = 3,
    schedule: AnySchedule | None = None,
    lower_final: Sequence[Level] | None = None,
) -> Step:
    """Make the step of DEIS: exact integrals of the polynomial through the last eps.

    N evaluations.

    Parameters
    ----------
    order
        Order, and number of eps that the polynomial goes through: 1 to 4 are tAB0 to tAB3.
    schedule
        With one the polynomial is in t (the paper's tAB), without in log(sigma / alpha) (the public
        code's log-rho, which is DPM-Solver's multistep with exact coefficients).
    lower_final
        The grid that will be walked, to end at low order on it, or None.

    References
    ----------
    Zhang & Chen 2023.
    """
    order = check_order("deis", order, 4)
    orders = _orders(order, lower_final)
    if schedule is None:
        return _multistep("deis", NOISE_PREDICTION, orders)
    check_schedule(schedule)

    def time(lam):
        return np.asarray(schedule.at_log_snr(2 * lam).t)

    return _multistep("deis", NOISE_PREDICTION, orders, variable=time)


def _halved(*step) -> np.ndarray:
    moments = exact_moments(*step)
    moments[2:] /= 2
    return moments


def dpmpp_multistep(
    order: int = 2, halved: bool = False, lower_final: Sequence[Level] | None = None
) -> Step:
    """Make the step of DPM-Solver++(1M, 2M, 3M): N evaluations.

    With the last predictions x0, x0', x0'', h' and h'' apart in lambda, r = h' / h, r' = h'' / h::

        1M  x_nxt = sigma_nxt / sigma_now x + alpha_nxt psi_0 x0, which is DDIM
        2M  x0 + (x0 - x0') / (2 r) for x0: the line through two, at the middle of the step
        3M  psi_0 x0 + psi_1 (d + r q) + psi_2 q for psi_0 x0: the parabola through three,
            with d = (x0 - x0') / r, d' = (x0' - x0'') / r', q = (d - d') / (r + r')

    and psi as above.

    Parameters
    ----------
    order
        Order, 1 to 3.
    halved
        Give psi_2 half its weight, as the public code of 3M does, which makes it of order 2.
    lower_final
        The grid that will be walked, to end at low order on it, or None.

    References
    ----------
    Lu et al. 2022b.
    """
    order = check_order("dpmpp_multistep", order, 3)
    if halved and order != 3:
        raise InputError("only order 3 has a second difference to halve")
    high = _halved if halved else exact_moments
    rules = {1: exact_moments, 2: midpoint, 3: high}

    def rule(form, now, nxt, count, variable):
        return rules[count](form, now, nxt, count, variable)

    return _multistep("dpmpp_multistep", DATA_PREDICTION, _orders(order, lower_final), rule)


def _singlestep(solver: str, form: Form, order: int, schedule: AnySchedule) -> Step:
    """Predictions at even fractions of the step in lambda, none carried to the next step."""
    order = check_order(solver, order, 3)
    check_schedule(schedule)

    @ode_step(solver)
    def step(denoise, x, now, nxt, history, noise):
        points = [history[-1]]
        start, width = log_ratio(now), log_ratio(nxt) - log_ratio(now)
        for k in range(1, order):
            inner = schedule.at_log_snr(2 * (start + width * k / order))
            stage = integrate_step(form, x, now, inner, points)
            # From here a line through the present and the last stage: of order 2, or 3 with
            # the last stage at 2/3, where the error of the line integrates to nothing.
            points = [history[-1], Evaluation(inner, denoise(stage, inner))]
        return integrate_step(form, x, now, nxt, points, midpoint if order == 2 else exact_moments)

    return step


def dpm_solver(order: int, schedule: AnySchedule) -> Step:
    """Make the step of DPM-Solver-1, -2, -3: order (N-1) + 1 evaluations.

    Stages halve a step in lambda, or cut it in three. DPM-Solver-1 is DDIM.

    Parameters
    ----------
    order
        Order, 1 to 3.
    schedule
        Source of the levels inside a step.

    References
    ----------
    Lu et al. 2022a.
    """
    return _singlestep("dpm_solver", NOISE_PREDICTION, order, schedule)


def dpmpp_singlestep(order: int, schedule: AnySchedule) -> Step:
    """Make the step of DPM-Solver++(1S, 2S, 3S): DPM-Solver with x0 for eps.

    Parameters
    ----------
    order
        Order, 1 to 3.
    schedule
        Source of the levels inside a step.

    References
    ----------
    Lu et al. 2022b.
    """
    return _singlestep("dpmpp_singlestep", DATA_PREDICTION, order, schedule)


def dpm2(schedule: AnySchedule) -> Step:
    """Make the step of k-diffusion's DPM2, which is DPM-Solver-2: order 2, 2N-1 evaluations.

    eps in the middle of the step, in log(sigma / alpha), is carried over the whole.

    Parameters
    ----------
    schedule
        Source of the levels inside a step.
    """
    return dpm_solver(2, schedule)


def _bh1(form: Form, now: Level, nxt: Level, count: int, variable: Variable) -> np.ndarray:
    """The first moment as if the density were that of the step's end."""
    if count != 2:
        return exact_moments(form, now, nxt, count, variable)
    end = log_ratio(nxt)
    slope = form.sign * float(form.omega(end)) * (end - log_ratio(now))
    return np.array([form.width(now, nxt), slope / 2])


def _bh2(form: Form, now: Level, nxt: Level, count: int, variable: Variable) -> np.ndarray:
    """The first moment as if the density were even."""
    return (midpoint if count == 2 else exact_moments)(form, now, nxt, count, variable)


def unipc(order: int = 3, variant: str = "bh2", lower_final: Sequence[Level] | None = None) -> Step:
    """Make the step of UniPC-1, -2, -3 on x0: order `order` + 1, N evaluations.

    Each step first corrects x: the prediction at `now` was made at the predicted x, and joins the
    quadrature that had led there. Predictor and corrector leave the same corrected x, so their
    difference is one of quadratures alone, and the step needs no memory but the history. In the
    closed form of this module, with sums over k::

        corrector  x += alpha_now (sum psi_k b_k - sum psi_k c_k), psi and s of the step to `now`
        predictor  x_nxt = sigma_nxt / sigma_now x + alpha_nxt sum psi_k c_k

    where c goes through the last `order` predictions, and b through that at `now` as well. With two
    points psi_1 is not exact: psi_0 / 2 in variant bh2 (2M's), h / 2 in bh1.

    Parameters
    ----------
    order
        Number of predictions that the predictor weighs, 1 to 3.
    variant
        The paper's B(h), "bh1" or "bh2"; both are exact with three points or more.
    lower_final
        The grid that will be walked, to end at low order on it, or None.

    References
    ----------
    Zhao et al. 2023.
    """
    order = check_order("unipc", order, 3)
    rules = {"bh1": _bh1, "bh2": _bh2}
    if not isinstance(variant, str) or variant not in rules:
        raise InputError(f"variant must be 'bh1' or 'bh2', not {variant!r}")
    rule, orders = rules[variant], _orders(order, lower_final)

    @ode_step("unipc")
    def step(denoise, x, now, nxt, history, noise):
        if len(history) > 1:
            before = history[-2].level
            predictor = history[-orders(now) - 1 : -1]
            corrector = history[-len(predictor) - 1 :]
            x = x + DATA_PREDICTION.scale(now) * (
                integral(DATA_PREDICTION, before, now, corrector, rule)
                - integral(DATA_PREDICTION, before, now, predictor, rule)
            )
        return integrate_step(DATA_PREDICTION, x, now, nxt, history[-orders(nxt) :], rule)

    return step
