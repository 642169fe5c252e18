"""The probability-flow ODE as an integral, and the one quadrature behind every fast solver.

With lambda = log(alpha / sigma), half of `Level.log_snr`, the ODE is a pure integral in two ways::

    NOISE_PREDICTION:  d(x / alpha) = eps d(sigma / alpha)      DDIM, PNDM, DPM-Solver, DEIS, K-LMS
    DATA_PREDICTION:   d(x / sigma) = x0  d(alpha / sigma)      DPM-Solver++, UniPC

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
    """A way to write the flow as an integral: d(x / scale) = f d(omega).

    Parameters
    ----------
    sign
        omega = exp(sign * lambda).
    scale
        alpha or sigma of a level.
    f
        eps or x0 of a prediction.
    """

    sign: int
    scale: Callable[[Level], Tensor]
    f: Callable[[Prediction], Tensor]

    def omega(self, lam: float | np.ndarray) -> np.ndarray:
        """Return the variable of integration at lambda."""
        return np.exp(self.sign * lam)

    def width(self, now: Level, nxt: Level) -> float:
        """Return how far omega moves in a step."""
        return float(self.omega(log_ratio(nxt)) - self.omega(log_ratio(now)))

    def carry(self, x: Tensor, now: Level, nxt: Level, integral: Tensor) -> Tensor:
        """Return x at `nxt`, given x at `now` and the integral of f d(omega) between them."""
        return self.scale(nxt) / self.scale(now) * x + self.scale(nxt) * integral


NOISE_PREDICTION = Form(-1, attrgetter("alpha"), attrgetter("eps"))
"""d(x / alpha) = eps d(sigma / alpha)."""

DATA_PREDICTION = Form(+1, attrgetter("sigma"), attrgetter("x0"))
"""d(x / sigma) = x0 d(alpha / sigma)."""


def log_ratio(level: Level) -> float:
    """Return lambda = log(alpha / sigma) of a level."""
    return float(level.log_snr) / 2


def identity(lam: np.ndarray) -> np.ndarray:
    """Return lambda itself, the variable of DPM-Solver, DEIS in log-rho and UniPC."""
    return lam


def noise_ratio(lam: np.ndarray) -> np.ndarray:
    """Return sigma / alpha, the noise level of Karras et al. and the variable of K-LMS."""
    return np.exp(-lam)


def exact_moments(form: Form, now: Level, nxt: Level, count: int, variable: Variable) -> np.ndarray:
    """Integrate s^k d(omega) over the step for k < `count`; s is 0 at `now` and 1 at `nxt`."""
    start, width = log_ratio(now), log_ratio(nxt) - log_ratio(now)
    lam = start + width * _AT
    s = (variable(lam) - variable(start)) / (variable(start + width) - variable(start))
    density = _SHARE * width * form.sign * form.omega(lam)
    return np.array([(density * s**k).sum() for k in range(count)])


def midpoint(form: Form, now: Level, nxt: Level, count: int, variable: Variable) -> np.ndarray:
    """Integrate s^k d(omega) with s held at 1/2: exact to second order, the rule of 2M and 2S."""
    return form.width(now, nxt) * 0.5 ** np.arange(count)


Rule = Callable[[Form, Level, Level, int, Variable], np.ndarray]
"""`rule(form, now, nxt, count, variable)`: the moments of a step, exact or not."""


def weights(nodes: Sequence[float], moments: np.ndarray) -> np.ndarray:
    """Solve for the w with sum_j w_j nodes_j^k = moments_k, one node per moment."""
    return np.linalg.solve(np.vander(nodes, increasing=True).T, moments)


def integral(
    form: Form,
    now: Level,
    nxt: Level,
    points: Sequence[Evaluation],
    rule: Rule = exact_moments,
    variable: Variable = identity,
) -> Tensor:
    """Integrate f d(omega) over a step, f being the polynomial through evaluations.

    Parameters
    ----------
    form
        `NOISE_PREDICTION` or `DATA_PREDICTION`.
    now, nxt
        Ends of the step.
    points
        Evaluations that the polynomial goes through.
    rule
        Moments of the step: `exact_moments`, or `midpoint`.
    variable
        The variable of the polynomial.
    """
    zero, one = variable(log_ratio(now)), variable(log_ratio(nxt))
    nodes = [(variable(log_ratio(p.level)) - zero) / (one - zero) for p in points]
    shares = weights(nodes, rule(form, now, nxt, len(points), variable))
    return weighted_sum(shares, [form.f(p.prediction) for p in points])


def weighted_sum(shares: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return sum_j shares_j values_j, in the values' dtype and on their device."""
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
    """Return x at `nxt`, from x at `now` and the evaluations `points`; see `integral`."""
    return form.carry(x, now, nxt, integral(form, now, nxt, points, rule, variable))


def ddim_transfer(x: Tensor, now: Level, nxt: Level, eps: Tensor) -> Tensor:
    """Return x at `nxt` with eps held constant: Euler in sigma / alpha, DDIM's step at eta = 0."""
    return NOISE_PREDICTION.carry(x, now, nxt, NOISE_PREDICTION.width(now, nxt) * eps)
