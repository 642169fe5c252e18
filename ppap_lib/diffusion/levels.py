"""Noise levels: how much of the image and how much noise is in x_t = alpha x0 + sigma eps.

The process is variance-preserving: alpha^2 + sigma^2 = 1. Levels are float64; `t` is always the
training index.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppap_lib.errors import ScheduleError


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """One value, or one for each image of `like` [B, ...], shaped to broadcast over their pixels.

    In `like`'s dtype and on its device.
    """
    value = value.to(like.device, like.dtype)
    return value.view(-1, *[1] * (like.ndim - 1)) if value.ndim else value


@dataclass(frozen=True, eq=False)
class Level:
    """A noise level: `t` (training index, may be real), `alpha`, `sigma`; float64, [] or [B]."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def clean(self) -> bool:
        """Whether this is the noise-free end, which no network is ever evaluated at."""
        return not bool(self.sigma.any())

    @property
    def log_snr(self) -> Tensor:
        """log(alpha^2 / sigma^2), falling with t; infinite at the clean end."""
        return 2 * (self.alpha.log() - self.sigma.log())

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) in `like`'s dtype and device, shaped to broadcast over its images."""
        return per_image(self.alpha, like), per_image(self.sigma, like)

    def times(self, like: Tensor) -> Tensor:
        """The training index, one per image of `like`: [B] float32 on its device."""
        if self.t.ndim and len(self.t) != len(like):
            raise ScheduleError(
                f"{len(self.t)} levels for {len(like)} images: give one, or one each"
            )
        return self.t.to(like.device, torch.float32).expand(len(like))

    def noised(self, x0: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps."""
        alpha, sigma = self.scales(x0)
        return alpha * x0 + sigma * eps

    def __getitem__(self, index) -> "Level":
        """The levels of some images of a batched level."""
        return Level(self.t[index], self.alpha[index], self.sigma[index])


_WHOLE = 1e-9
"""Timesteps nearer to a whole one are that one, rounded on the way."""


def _level(t, log_abar) -> Level:
    t, log_abar = (torch.as_tensor(v, dtype=torch.float64) for v in (t, log_abar))
    # A rounding error below an interval's edge, and the expert below would read the image.
    whole = t.round()
    t = torch.where((t - whole).abs() < _WHOLE, whole, t)
    # sigma through expm1: 1 - abar would lose the digits of a nearly clean level.
    return Level(t, (log_abar / 2).exp(), (-torch.expm1(log_abar)).sqrt())


CLEAN = Level(*(torch.tensor(v, dtype=torch.float64) for v in (-1.0, 1.0, 0.0)))
"""The noise-free end of every grid; its index, -1, is the one before the first."""


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
