"""Noise levels: how much of the data and how much noise is in x_t = alpha x0 + sigma eps.

The process is variance-preserving: alpha^2 + sigma^2 = 1. Levels are float64 on the CPU; `t` is
always the training index.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppap_lib.errors import InputError, ScheduleError


def as_reals(name: str, value: float | Sequence[float] | Tensor) -> Tensor:
    """Return numbers as levels hold them: float64 on the CPU, whatever torch's defaults are.

    Parameters
    ----------
    name
        What the error calls them.
    value
        A number, or a sequence, array or tensor of numbers: [], [B], or more for other uses.

    Raises
    ------
    ScheduleError
        For anything else.
    """
    try:
        if isinstance(value, Tensor):
            return value.to("cpu", torch.float64)
        return torch.tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ScheduleError(f"{name} must be real numbers, not {value!r}: {error}") from None


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """Shape one value, or one for each sample of a batch, to broadcast over the batch.

    Parameters
    ----------
    value
        [] or [B].
    like
        The batch [B, ...].

    Returns
    -------
    Tensor
        In `like`'s dtype. [B, 1, ...] on its device, or [] where `value` is: a number on the CPU
        joins tensors of every device without a copy, for which the device would have to wait.

    Raises
    ------
    ScheduleError
        For any other number of values: the batch would be broadcast.
    """
    if not value.ndim:
        return value.to(like.dtype)
    if value.shape != like.shape[:1]:
        raise ScheduleError(
            f"levels or values {list(value.shape)} for {len(like)} images: give one, or one each"
        )
    return value.to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


def check_state(x_t: Tensor, level: "Level") -> None:
    """Refuse with `InputError` an `x_t` that is no real [B, ...], and a `level` that is none."""
    if not isinstance(x_t, Tensor) or not x_t.is_floating_point() or x_t.ndim < 2:
        kind = f"{x_t.dtype} {list(x_t.shape)}" if isinstance(x_t, Tensor) else repr(x_t)
        raise InputError(f"x_t is floating [B, ...], not {kind}")
    if not isinstance(level, Level):
        raise InputError(f"a level is made by schedule.at(t), not {level!r}")


_WHOLE = 1e-9
"""Timesteps nearer to a whole one are that one, rounded on the way."""


@dataclass(frozen=True, eq=False)
class Level:
    """A noise level, or one for each sample of a batch.

    Parameters
    ----------
    t
        Training index, which may be real: float64, [] or [B].
    alpha, sigma
        Scales of the data and of the noise in x_t: float64, shaped as `t`.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def from_log_abar(cls, t: float | Tensor, log_abar: float | Tensor) -> "Level":
        """Return the level at `t` where log alpha^2 is `log_abar`, both [] or [B].

        Exact near both ends; a `t` that is whole but for rounding becomes whole.
        """
        t, log_abar = as_reals("t", t), as_reals("log abar", log_abar)
        # A rounding error below an interval's edge, and the expert below would read the sample.
        whole = t.round()
        t = torch.where((t - whole).abs() < _WHOLE, whole, t)
        # sigma through expm1: 1 - abar would lose the digits of a nearly clean level.
        return cls(t, (log_abar / 2).exp(), (-torch.expm1(log_abar)).sqrt())

    @property
    def clean(self) -> bool:
        """Whether this is the noise-free end, at which no network is ever evaluated."""
        return not bool(self.sigma.any())

    @property
    def log_snr(self) -> Tensor:
        """The log signal-to-noise ratio log(alpha^2 / sigma^2): falls with t, infinite if clean."""
        return 2 * (self.alpha.log() - self.sigma.log())

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, shaped by `per_image` to broadcast over `like` [B, ...]."""
        check_state(like, self)
        return per_image(self.alpha, like), per_image(self.sigma, like)

    def times(self, like: Tensor) -> Tensor:
        """Return the training index of every sample of `like` [B, ...]: float32 [B], on its device.

        Raises
        ------
        ScheduleError
            If there are several levels, but not one for each sample.
        """
        check_state(like, self)
        if not self.t.ndim:
            return torch.full((len(like),), float(self.t), dtype=torch.float32, device=like.device)
        if self.t.shape != like.shape[:1]:
            raise ScheduleError(
                f"{len(self.t)} levels for {len(like)} images: give one, or one each"
            )
        return self.t.to(like.device, torch.float32)

    def noised(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return x_t = alpha x0 + sigma eps, for `x0` and `eps` [B, ...] of one shape.

        Raises
        ------
        InputError
            For other shapes, which would be broadcast.
        """
        check_state(x0, self)
        check_state(eps, self)
        if x0.shape != eps.shape:
            raise InputError(f"noise of shape {list(eps.shape)} for x0 {list(x0.shape)}")
        alpha, sigma = self.scales(x0)
        return alpha * x0 + sigma * eps

    def __getitem__(self, index) -> "Level":
        """The levels of some samples of a batched level."""
        return Level(self.t[index], self.alpha[index], self.sigma[index])


CLEAN = Level(*(as_reals("a level", v) for v in (-1.0, 1.0, 0.0)))
"""The noise-free end of every grid; its index, -1, is the one before the first."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The law q(x_nxt | x_now, x0) = N(from_x0 x0 + from_x_t x_now, variance I) of a step back.

    Parameters
    ----------
    beta
        Variance of the step from `nxt` to `now`: float64 [], like all others.
    variance
        Variance of x_nxt: beta-tilde.
    from_x0, from_x_t
        Weights of x0 and x_now in the mean.
    """

    beta: Tensor
    variance: Tensor
    from_x0: Tensor
    from_x_t: Tensor

    @classmethod
    def between(cls, now: Level, nxt: Level) -> "Posterior":
        """Return the law of one step of a grid, from `now` to the less noisy `nxt`.

        References
        ----------
        Ho et al. 2020, eq. 6-7, for a respaced process.
        """
        ratio = now.alpha / nxt.alpha
        # 1 - ratio^2, without its cancellation near the clean end.
        beta = now.sigma**2 - (ratio * nxt.sigma) ** 2
        share = nxt.sigma**2 / now.sigma**2
        return cls(beta, beta * share, nxt.alpha * beta / now.sigma**2, ratio * share)
