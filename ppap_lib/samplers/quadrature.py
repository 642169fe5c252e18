"""The probability-flow ODE as an integral, and the one quadrature behind every fast solver.

With lambda = log(alpha / sigma), half of `Level.log_snr`, the ODE is a pure integral in two ways:

    NOISE:  d(x / alpha) = eps d(sigma / alpha)        DDIM, PNDM, DPM-Solver, DEIS, K-LMS
    DATA:   d(x / sigma) = x0  d(alpha / sigma)        DPM-Solver++, UniPC

Nothing but the prediction under the integral is unknown. A solver knows it at a few points of the
path, and weighs them so that the integral of a polynomial through them comes out right. Solvers
differ in where the points are, in which variable the polynomial is, and in how exact its
integral is taken: that is, in the moments of the variable they use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from torch import Tensor

from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.diffusion.levels import Level
from ppap_lib.samplers.loop import Evaluation

Variable = Callable[[np.ndarray], np.ndarray]
"""A function of lambda, monotone, in which predictions are taken for polynomials."""

# Gauss-Legendre on [0, 1]: for polynomials in lambda exact to rounding, for cubics in sigma / alpha
# to 1e-9, even over the whole path. A table of betas is piecewise: in t only up to its kinks.
_AT, _SHARE = np.polynomial.legendre.leggauss(16)
_AT, _SHARE = (_AT + 1) / 2, _SHARE / 2


@dataclass(frozen=True)
class Form:
    """d(x / scale) = f d(omega), with omega = exp(sign * lambda)."""

    sign: int
    scale: Callable[[Level], Tensor]
    f: Callable[[Prediction], Tensor]

    def omega(self, lam: float | np.ndarray) -> np.ndarray:
        """The variable of integration at lambda."""
        return np.exp(self.sign * lam)

    def width(self, now: Level, nxt: Level) -> float:
        """How far omega moves in a step."""
        return float(self.omega(log_ratio(nxt)) - self.omega(log_ratio(now)))

    def carry(self, x: Tensor, now: Level, nxt: Level, integral: Tensor) -> Tensor:
        """x at `nxt`, given the integral of f d(omega) from `now`."""
        return self.scale(nxt) / self.scale(now) * x + self.scale(nxt) * integral


NOISE_PREDICTION = Form(-1, attrgetter("alpha"), attrgetter("eps"))
DATA_PREDICTION = Form(+1, attrgetter("sigma"), attrgetter("x0"))


def log_ratio(level: Level) -> float:
    """lambda = log(alpha / sigma)."""
    return float(level.log_snr) / 2


def identity(lam: np.ndarray) -> np.ndarray:
    """lambda itself: DPM-Solver, DEIS in log-rho, UniPC."""
    return lam


def noise_ratio(lam: np.ndarray) -> np.ndarray:
    """sigma / alpha, the noise level of Karras et al.: K-LMS."""
    return np.exp(-lam)


def exact_moments(form: Form, now: Level, nxt: Level, count: int, variable: Variable) -> np.ndarray:
    """The integrals of s^k d(omega) over the step, k < count; s is 0 at `now` and 1 at `nxt`."""
    start, width = log_ratio(now), log_ratio(nxt) - log_ratio(now)
    lam = start + width * _AT
    s = (variable(lam) - variable(start)) / (variable(start + width) - variable(start))
    density = _SHARE * width * form.sign * form.omega(lam)
    return np.array([(density * s**k).sum() for k in range(count)])


def midpoint(form: Form, now: Level, nxt: Level, count: int, variable: Variable) -> np.ndarray:
    """The same with s held at 1/2: right to second order, and what the 2M and 2S solvers use."""
    return form.width(now, nxt) * 0.5 ** np.arange(count)


Rule = Callable[[Form, Level, Level, int, Variable], np.ndarray]


def weights(nodes: Sequence[float], moments: np.ndarray) -> np.ndarray:
    """The w with sum_j w_j nodes_j^k = moments_k, one node per moment."""
    return np.linalg.solve(np.vander(nodes, increasing=True).T, moments)


def integral(
    form: Form,
    now: Level,
    nxt: Level,
    points: Sequence[Evaluation],
    rule: Rule = exact_moments,
    variable: Variable = identity,
) -> Tensor:
    """The integral of f d(omega) over the step, f the polynomial in `variable` through `points`."""
    zero, one = variable(log_ratio(now)), variable(log_ratio(nxt))
    nodes = [(variable(log_ratio(p.level)) - zero) / (one - zero) for p in points]
    shares = weights(nodes, rule(form, now, nxt, len(points), variable))
    return weighted_sum(shares, [form.f(p.prediction) for p in points])


def weighted_sum(shares: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """sum_j shares_j values_j, in the values' dtype and on their device."""
    return sum(float(w) * value for w, value in zip(shares, values, strict=True))


def integrate_step(
    form: Form,
    x: Tensor,
    now: Level,
    nxt: Level,
    points: Sequence[Evaluation],
    rule: Rule = exact_moments,
    variable: Variable = identity,
) -> Tensor:
    """x at `nxt`, from x at `now` and the predictions at `points`."""
    return form.carry(x, now, nxt, integral(form, now, nxt, points, rule, variable))


def ddim_transfer(x: Tensor, now: Level, nxt: Level, eps: Tensor) -> Tensor:
    """x at `nxt` with eps held constant: Euler in sigma / alpha, and DDIM's step at eta = 0."""
    return NOISE_PREDICTION.carry(x, now, nxt, NOISE_PREDICTION.width(now, nxt) * eps)
