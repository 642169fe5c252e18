"""Sampling: one loop, and steps that are pure functions.

`step(denoise, x, now, nxt, history, noise) -> x_next`. The loop evaluates the denoiser at `now`
and appends it before the step, so `history[-1]` is the present; a step may evaluate further.
It takes both its levels from the grid. No step evaluates the clean end.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ppap_lib.denoise import Denoise, Prediction
from ppap_lib.schedule import Level

HISTORY = 4  # what the highest-order multistep solver looks back on


class SamplingError(ValueError):
    """A grid, start or guidance that a sampler cannot use, or a network that broke down."""


class Moment(NamedTuple):
    """The denoiser's word at one level of the path."""

    level: Level
    prediction: Prediction


History = Sequence[Moment]
Step = Callable[[Denoise, Tensor, Level, Level, History, Callable[[], Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class State:
    """Where sampling stands after a step.

    `index` steps taken, `x` now at `level`, `prediction` the one the step started from;
    `evaluations` of the denoiser and `gradients` of guides so far.
    """

    index: int
    level: Level
    x: Tensor
    prediction: Prediction
    evaluations: int
    gradients: int


def _no_noise() -> Tensor:
    raise SamplingError("this step draws noise: pass noise=seeds.Noise(...)")


def _check_start(x_T: Tensor, grid: Sequence[Level]) -> None:
    if len(grid) < 2:
        raise SamplingError(f"a grid has at least two levels, not {len(grid)}")
    for a, b in zip(grid, grid[1:], strict=False):
        if not bool(a.sigma / a.alpha > b.sigma / b.alpha):
            raise SamplingError(
                f"grid levels must fall from noisy to clean; t = {a.t:g} is followed by {b.t:g}"
            )
    if x_T.ndim < 2 or not x_T.is_floating_point():
        raise SamplingError(f"x_T is floating [B, ...], not {x_T.dtype} {list(x_T.shape)}")


class _Tally:
    """A denoiser that counts its evaluations and stops at the first broken prediction."""

    def __init__(self, denoise: Denoise):
        self.denoise, self.evaluations, self.gradients, self.step = denoise, 0, 0, 0

    def __call__(self, x_t: Tensor, level: Level) -> Prediction:
        prediction = self.denoise(x_t, level)
        self.evaluations += 1
        self.gradients += prediction.gradients
        for name in ("x0", "eps", "v", "shift"):
            value = getattr(prediction, name)
            if value is not None and not bool(value.isfinite().all()):
                broken = (~value.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
                raise SamplingError(
                    f"{name} is not finite at step {self.step} (t = {level.t:g}) in images "
                    f"{broken[:8]}: the network or the guidance broke down; lower the guidance "
                    f"scale or evaluate in float32"
                )
        return prediction


def trajectory(
    denoise: Denoise,
    x_T: Tensor,
    grid: Sequence[Level],
    step: Step,
    noise: Callable[[], Tensor] = _no_noise,
) -> Iterator[State]:
    """Take `x_T` [B, ...] at `grid[0]` down the grid, yielding the state after every step.

    The state keeps x_T's dtype (float64 is best: networks are still called in float32).
    """
    _check_start(x_T, grid)
    tally, history, x = _Tally(denoise), deque(maxlen=HISTORY), x_T
    for index, (now, nxt) in enumerate(zip(grid, grid[1:], strict=False)):
        tally.step = index
        # Not around the yield: a generator must not change its consumer's gradient mode.
        with torch.no_grad():
            history.append(Moment(now, tally(x, now)))
            x = step(tally, x, now, nxt, history, noise)
        yield State(index + 1, nxt, x, history[-1].prediction, tally.evaluations, tally.gradients)


def sample(
    denoise: Denoise,
    x_T: Tensor,
    grid: Sequence[Level],
    step: Step,
    noise: Callable[[], Tensor] = _no_noise,
) -> Tensor:
    """The end of `trajectory`."""
    return deque(trajectory(denoise, x_T, grid, step, noise), maxlen=1)[0].x


@dataclass(frozen=True, eq=False)
class Posterior:
    """q(x_nxt | x_now, x0) = N(from_x0 x0 + from_x_t x_now, variance), and the step's beta."""

    beta: Tensor
    variance: Tensor
    from_x0: Tensor
    from_x_t: Tensor

    @classmethod
    def between(cls, now: Level, nxt: Level) -> "Posterior":
        """Of one step of the grid (Ho et al. 2020, eq. 6-7, for a respaced process)."""
        ratio = now.alpha / nxt.alpha
        # 1 - ratio^2, without its cancellation near the clean end.
        beta = now.sigma**2 - (ratio * nxt.sigma) ** 2
        share = nxt.sigma**2 / now.sigma**2
        return cls(beta, beta * share, nxt.alpha * beta / now.sigma**2, ratio * share)


LogVariance = Callable[[Posterior, Prediction], Tensor]


def learned_variance(posterior: Posterior, prediction: Prediction) -> Tensor:
    """log Sigma = v log beta + (1 - v) log beta-tilde (Nichol & Dhariwal 2021, eq. 15)."""
    if prediction.v is None:
        raise SamplingError(
            "this denoiser has no learned variance: use ddpm(small_variance) or "
            "ddpm(large_variance), or build its adapter with learned_variance=True"
        )
    low, high = posterior.variance.log(), posterior.beta.log()
    return prediction.v * high + (1 - prediction.v) * low


def small_variance(posterior: Posterior, prediction: Prediction) -> Tensor:
    """log beta-tilde, optimal for data at a point."""
    return posterior.variance.log()


def large_variance(posterior: Posterior, prediction: Prediction) -> Tensor:
    """log beta, optimal for data N(0, I)."""
    return posterior.beta.log()


def ddpm(variance: LogVariance = learned_variance, draws: int = 1) -> Step:
    """Ancestral sampling; adds Sigma * shift of mean-form guidance (ADM, algorithm 1).

    `draws` = 2 is the noise study's variant x_nxt = mean + sigma z + sigma z2.
    """
    if draws < 1:
        raise SamplingError(f"draws must be at least 1, not {draws}")

    def step(denoise, x, now, nxt, history, noise):
        prediction = history[-1].prediction
        posterior = Posterior.between(now, nxt)
        mean = posterior.from_x0 * prediction.x0 + posterior.from_x_t * x
        if nxt.clean and prediction.shift is None:
            return mean
        if nxt.clean:
            # beta-tilde is 0 here; its neighbour's stands in, as in the public code.
            stand_in = (
                Posterior.between(history[-2].level, now).variance
                if len(history) > 1
                else posterior.beta
            )
            posterior = replace(posterior, variance=stand_in)
        log_variance = variance(posterior, prediction)
        if prediction.shift is not None:
            mean = mean + log_variance.exp() * prediction.shift
        if nxt.clean:
            return mean
        z = sum(noise() for _ in range(draws))
        return mean + (0.5 * log_variance).exp() * z

    return step


def _eps(prediction: Prediction, solver: str) -> Tensor:
    """eps, for steps that only understand score-form guidance."""
    if prediction.shift is not None:
        raise SamplingError(
            f"{solver} cannot use mean-form guidance, which shifts the mean of a DDPM step: "
            f"use guided(..., form='score'), or the ddpm step"
        )
    return prediction.eps


def ddim(eta: float = 0.0) -> Step:
    """DDIM (Song et al. 2021, eq. 12 and 16): the ODE's Euler step at 0, DDPM's posterior at 1."""
    if not 0 <= eta <= 1:
        raise SamplingError(f"eta must be in [0, 1], not {eta}")

    def step(denoise, x, now, nxt, history, noise):
        prediction = history[-1].prediction
        eps = _eps(prediction, "ddim")
        spread = eta**2 * Posterior.between(now, nxt).variance
        x = nxt.alpha * prediction.x0 + (nxt.sigma**2 - spread).sqrt() * eps
        return x + spread.sqrt() * noise() if spread > 0 else x

    return step


def heun(denoise, x, now, nxt, history, noise):
    """Heun's second-order step in sigma/alpha (Karras et al. 2022, algorithm 1); Euler at the end.

    Evaluates the denoiser twice per step.
    """
    eps = _eps(history[-1].prediction, "heun")
    if nxt.clean:
        return history[-1].prediction.x0
    start, width = x / now.alpha, nxt.sigma / nxt.alpha - now.sigma / now.alpha
    euler = nxt.alpha * (start + width * eps)
    ahead = _eps(denoise(euler, nxt), "heun")
    return nxt.alpha * (start + width * (eps + ahead) / 2)
