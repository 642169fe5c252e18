"""Data distributions whose denoiser, classifier and sampling paths are known exactly.

Mixtures of isotropic Gaussians stay mixtures at every noise level: the yardstick against which
samplers and guidance are proven. All of it is float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise, Prediction
from ppap_lib.diffusion.levels import Level, as_reals, check_state, per_image
from ppap_lib.diffusion.schedules import AnySchedule
from ppap_lib.errors import InputError


@dataclass(frozen=True, eq=False)
class Mixture:
    """The law sum_k weights[k] N(means[k], stds[k]^2 I) of data x0 [*shape], with classes.

    Parameters
    ----------
    means
        [K, *shape].
    stds
        [K], not negative.
    weights
        [K], positive; normalised here, and equal by default.
    labels
        Classes [K] of the components, integers from 0; by default each is a class of its own.

    Raises
    ------
    InputError
        If there is no component, or the parts differ in length or are out of range.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor | None = None
    labels: Tensor | None = None
    _log_weights: Tensor = field(init=False, repr=False)

    def __post_init__(self):
        means, stds = as_reals("means", self.means), as_reals("stds", self.stds)
        if means.ndim < 2 or not len(means):
            raise InputError(
                f"means are [K, *shape] with K components, not {list(means.shape)}: on a line, "
                f"write [[0.0], [1.0]]"
            )
        count = len(means)
        weights = as_reals("weights", [1.0] * count if self.weights is None else self.weights)
        labels = range(count) if self.labels is None else self.labels
        labels = torch.as_tensor(labels, device="cpu")
        if not stds.shape == weights.shape == labels.shape == (count,):
            raise InputError(
                f"one mean, std, weight and label per component: got {count}, {list(stds.shape)}, "
                f"{list(weights.shape)}, {list(labels.shape)}"
            )
        if not bool((weights > 0).all()) or not bool((stds >= 0).all()):
            raise InputError("weights must be positive and stds not negative")
        if labels.is_floating_point() or bool((labels < 0).any()):
            raise InputError(f"labels are integers from 0, not {labels.tolist()}")
        for name, value in dict(means=means, stds=stds, weights=weights, labels=labels).items():
            object.__setattr__(self, name, value)
        log_weights = (weights / weights.sum()).log()
        object.__setattr__(self, "_log_weights", log_weights)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    def _components(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Residuals [B, K, *shape], variances, their reciprocal gains, and log joint [B, K]."""
        check_state(x_t, level)
        spread = (1, -1) + (1,) * (self.means.ndim - 1)
        alpha, sigma = (s[:, None] if s.ndim else s for s in level.scales(x_t))
        stds = self.stds.view(spread)
        residual = x_t[:, None] - alpha * self.means
        variance = (alpha * stds) ** 2 + sigma**2
        dims = self.means[0].numel()
        square = (residual**2 / variance).flatten(2).sum(2)
        log_variance = variance.expand(len(x_t), *variance.shape[1:]).flatten(2)[:, :, 0].log()
        log_joint = self._log_weights - 0.5 * (
            square + dims * (log_variance + math.log(2 * math.pi))
        )
        return residual, variance, alpha * stds**2 / variance, log_joint

    def log_density(self, x_t: Tensor, level: Level) -> Tensor:
        """Return log p(x_t) at `level`, [B], for `x_t` [B, *shape]."""
        return self._components(x_t, level)[3].logsumexp(1)

    def log_posterior(self, x_t: Tensor, level: Level) -> Tensor:
        """Return log p(class | x_t) at `level`, [B, num_classes]: the exact noisy classifier."""
        joint = self._components(x_t, level)[3]
        parts = [joint[:, self.labels == c].logsumexp(1) for c in range(self.num_classes)]
        return torch.stack(parts, 1).log_softmax(1)

    def at(self, level: Level) -> Callable[[Tensor], Tensor]:
        """Return the exact classifier at one `level`, as guides read noise-aware models."""
        return lambda x_t: self.log_posterior(x_t, level)

    def denoise(self, x_t: Tensor, level: Level) -> Prediction:
        """Return the exact E[x0 | x_t] and E[eps | x_t] at `level`, for `x_t` [B, *shape]."""
        return self._predict(x_t, level, 0.0)

    def conditioned(self, target: Tensor) -> Denoise:
        """Return the exact denoiser of p(x0 | class).

        Parameters
        ----------
        target
            The class of every sample, [B].

        Raises
        ------
        InputError
            If no component has one of the classes.
        """
        target = torch.as_tensor(target, device="cpu")
        populated = torch.isin(target, self.labels)
        if not bool(populated.all()):
            raise InputError(f"no component has class {int(target[~populated][0])}")
        mask = torch.where(self.labels == target[:, None], 0.0, -torch.inf)
        return lambda x_t, level: self._predict(x_t, level, mask)

    def _predict(self, x_t: Tensor, level: Level, mask: Tensor | float) -> Prediction:
        residual, variance, gain, log_joint = self._components(x_t, level)
        share = (log_joint + mask).softmax(1)
        share = share.view(*share.shape, *[1] * (x_t.ndim - 1))
        _, sigma = level.scales(x_t)
        x0 = (share * (self.means + gain * residual)).sum(1)
        return Prediction(x0, sigma * (share * residual / variance).sum(1))

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `count` data by `generator`: x0 [count, *shape] and their labels [count]."""
        index = torch.multinomial(
            self._log_weights.exp(), count, replacement=True, generator=generator
        )
        shape = (count, *self.means.shape[1:])
        eps = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return self.means[index] + per_image(self.stds[index], eps) * eps, self.labels[index]

    def _tails(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """P(X < x) and P(X > x) in one dimension; both, to keep the small one exact."""
        z = (x_t.reshape(-1, 1) - level.alpha * self.means.reshape(1, -1)) / (
            (level.alpha * self.stds) ** 2 + level.sigma**2
        ).sqrt()
        weights = self._log_weights.exp()
        below = (weights * torch.special.ndtr(z)).sum(1).view(x_t.shape)
        above = (weights * torch.special.ndtr(-z)).sum(1).view(x_t.shape)
        return below, above

    def quantile_map(self, x_t: Tensor, now: Level, nxt: Level) -> Tensor:
        """Return where the probability-flow ODE leads from `now` to `nxt`, in one dimension.

        The flow is monotone there and carries the law of one level to the other, so it keeps
        every quantile. Solved by bisection to rounding.

        Parameters
        ----------
        x_t
            [B, 1], or any shape of as many numbers, at the level `now`.
        now, nxt
            Levels from noisy to less noisy.

        Raises
        ------
        InputError
            If the data have more dimensions than one.
        """
        if self.means[0].numel() != 1:
            raise InputError(
                f"the quantile map is for one dimension, this mixture has {self.means[0].numel()}"
            )
        below, above = self._tails(x_t, now)
        reach = self.means.abs().max() + 40 * (self.stds.max() + 1)
        low, high = torch.full_like(x_t, -reach), torch.full_like(x_t, reach)
        for _ in range(80):
            middle = (low + high) / 2
            left, right = self._tails(middle, nxt)
            too_far = torch.where(below < above, left > below, right < above)
            low, high = torch.where(too_far, low, middle), torch.where(too_far, middle, high)
        return (low + high) / 2


class Gaussian(Mixture):
    """The law N(mean, std^2 I), the one whose probability flow is a formula.

    Parameters
    ----------
    mean
        [*shape].
    std
        Not negative.
    """

    def __init__(self, mean: Tensor | Sequence[float], std: float):
        super().__init__(as_reals("mean", mean)[None], [std])

    def trajectory(self, x_t: Tensor, now: Level, nxt: Level) -> Tensor:
        """Return where the probability-flow ODE leads `x_t` [B, *shape] from `now` to `nxt`.

        The standardised value never changes.
        """
        (a, s), (b, r) = now.scales(x_t), nxt.scales(x_t)
        mean, std = self.means[0], self.stds[0]
        ratio = ((b**2 * std**2 + r**2) / (a**2 * std**2 + s**2)) ** 0.5
        return b * mean + ratio * (x_t - a * mean)


def reference_trajectory(
    denoise: Denoise, x_t: Tensor, now: Level, nxt: Level, schedule: AnySchedule
) -> Tensor:
    """Integrate the probability-flow ODE by adaptive Runge-Kutta (DOP853, rtol 1e-12).

    A reference, not a sampler: one step size for the whole batch, hundreds of evaluations. It
    integrates d(x/alpha) = eps d(sigma/alpha), in log(sigma/alpha).

    Parameters
    ----------
    denoise
        A denoiser in float64 on the CPU.
    x_t
        [B, ...], at the level `now`.
    now, nxt
        Levels from noisy to less noisy, not clean.
    schedule
        Source of the levels between the two.

    Raises
    ------
    InputError
        If a level is clean, or the integration fails.
    """
    from scipy.integrate import solve_ivp

    if now.clean or nxt.clean:
        raise InputError("the reference needs noise at both ends: sigma must be positive")

    def slope(log_ratio: float, flat: np.ndarray) -> np.ndarray:
        level = schedule.at_log_snr(-2 * log_ratio)
        x = level.alpha * torch.from_numpy(flat).view(x_t.shape)
        return (math.exp(log_ratio) * denoise(x, level).eps).flatten().numpy()

    span = (-0.5 * float(now.log_snr), -0.5 * float(nxt.log_snr))
    start = (x_t.double() / now.alpha).flatten().numpy()
    solution = solve_ivp(slope, span, start, method="DOP853", rtol=1e-12, atol=1e-12)
    if not solution.success:
        raise InputError(f"the reference integration failed: {solution.message}")
    return nxt.alpha * torch.from_numpy(solution.y[:, -1].copy()).view(x_t.shape)
