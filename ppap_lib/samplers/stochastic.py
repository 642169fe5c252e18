"""Steps that draw noise: DDPM, DDIM and its variances, and the ancestral and churning solvers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppap_lib.denoise import Denoise, Prediction
from ppap_lib.samplers.loop import SamplingError, Step, score_form
from ppap_lib.schedule import ContinuousSchedule, Level, Schedule


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


def ddim(eta: float = 0.0) -> Step:
    """DDIM (Song et al. 2021, eq. 12 and 16): the ODE's Euler step at 0, DDPM's posterior at 1."""
    if not 0 <= eta <= 1:
        raise SamplingError(f"eta must be in [0, 1], not {eta}")

    def step(denoise, x, now, nxt, history, noise):
        prediction = history[-1].prediction
        eps = score_form(prediction, "ddim").eps
        spread = eta**2 * Posterior.between(now, nxt).variance
        x = nxt.alpha * prediction.x0 + (nxt.sigma**2 - spread).sqrt() * eps
        return x + spread.sqrt() * noise() if spread > 0 else x

    return step
