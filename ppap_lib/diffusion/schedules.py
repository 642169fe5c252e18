"""Noise schedules and their respacings.

Schedules are float64 on the CPU; `t` is always the training index.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor

from ppap_lib.diffusion.levels import CLEAN, Level, as_reals
from ppap_lib.errors import ScheduleError
from ppap_lib.parameters import real, whole

_SLACK = 1e-9
"""By which log-SNRs may leave a schedule: `at(t).log_snr` goes through exp and log, rounded."""

_RESOLVED = 1e-15
"""Newton's last move, at most, as a fraction of a step."""


def _log_abar_of_log_snr(log_snr: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(log_snr)


Cubic = tuple[Tensor, Tensor, Tensor, Tensor]


def _cubic_value(cubic: Cubic, u: Tensor) -> Tensor:
    c0, c1, c2, c3 = cubic
    return c0 + u * (c1 + u * (c2 + u * c3))


def _cubic_slope(cubic: Cubic, u: Tensor) -> Tensor:
    _, c1, c2, c3 = cubic
    return c1 + u * (2 * c2 + u * 3 * c3)


def _where_cubic_is(cubic: Cubic, target: Tensor) -> Tensor:
    """The u in [0, 1] at which a falling cubic takes the value `target`.

    By Newton's method, and by halving the bracket where that leaves it.
    """
    low, high = torch.zeros_like(target), torch.ones_like(target)
    u = (low + high) / 2
    for _ in range(60):  # halving alone is below float64's resolution then
        excess = _cubic_value(cubic, u) - target
        low, high = torch.where(excess > 0, u, low), torch.where(excess > 0, high, u)
        newton = u - excess / _cubic_slope(cubic, u)
        inside = (newton >= low) & (newton <= high)  # nan, where the slope is 0, is not
        before, u = u, torch.where(inside, newton, (low + high) / 2)
        if bool((u - before).abs().lt(_RESOLVED).all()):
            break
    return u


class Schedule:
    """A variance-preserving schedule of T steps, read between them too.

    Between whole `t` the log-SNR is a monotone cubic: `at` and `at_log_snr` are inverse.

    Parameters
    ----------
    betas
        Variances of the T steps, each in (0, 1).

    Raises
    ------
    ScheduleError
        If a beta is out of its range, or there is none.
    """

    def __init__(self, betas: Sequence[float] | Tensor):
        betas = as_reals("betas", betas)
        if betas.ndim != 1 or not len(betas):
            raise ScheduleError(f"betas are a list of T numbers, not {list(betas.shape)}")
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ScheduleError(
                f"every beta must be in (0, 1); these are in [{betas.min():g}, {betas.max():g}]"
            )
        self.betas = betas
        self.alphas_cumprod = (1 - betas).cumprod(0)

    @classmethod
    def linear(
        cls, T: int = 1000, beta_start: float | None = None, beta_end: float | None = None
    ) -> "Schedule":
        """Return the schedule of Ho et al. 2020, whose betas rise linearly.

        Parameters
        ----------
        T
            Number of steps, at least 1.
        beta_start, beta_end
            The first and the last beta; by default 1e-4 and 0.02, times 1000 / T.
        """
        T = _steps(T)
        start = 1e-4 * 1000 / T if beta_start is None else real("beta_start", beta_start)
        end = 0.02 * 1000 / T if beta_end is None else real("beta_end", beta_end)
        return cls(torch.linspace(start, end, T, dtype=torch.float64, device="cpu"))

    @classmethod
    def cosine(cls, T: int = 1000, max_beta: float = 0.999) -> "Schedule":
        """Return the schedule of Nichol & Dhariwal 2021 (eq. 17), whose abar is a squared cosine.

        Parameters
        ----------
        T
            Number of steps, at least 1.
        max_beta
            What betas are capped at.
        """
        T = _steps(T)
        u = torch.arange(T + 1, dtype=torch.float64, device="cpu") / T
        abar = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        return cls((1 - abar[1:] / abar[:-1]).clamp(max=real("max_beta", max_beta)))

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.betas)

    @cached_property
    def log_snr(self) -> Tensor:
        """log(abar / (1 - abar)) at every integer t: [T], strictly falling."""
        return self.alphas_cumprod.log() - torch.log1p(-self.alphas_cumprod)

    @cached_property
    def _slopes(self) -> Tensor:
        """Slopes at the nodes that keep a cubic Hermite interpolant monotone.

        Harmonic means of the neighbouring secants inside, one-sided at the ends
        (Fritsch & Butland 1984).
        """
        secants = self.log_snr.diff()
        if not len(secants):
            return self.log_snr.new_zeros(1)
        inner = 2 * secants[1:] * secants[:-1] / (secants[1:] + secants[:-1])
        return torch.cat([secants[:1], inner, secants[-1:]])

    def _cubic(self, left: Tensor) -> Cubic:
        """Coefficients, constant first, of the Hermite cubic from node `left` to the next."""
        right = (left + 1).clamp(max=self.T - 1)
        f0, f1 = self.log_snr[left], self.log_snr[right]
        m0, m1 = self._slopes[left], self._slopes[right]
        rise = f1 - f0
        return f0, m0, 3 * rise - 2 * m0 - m1, m0 + m1 - 2 * rise

    def _times(self, t: float | Tensor) -> Tensor:
        t = as_reals("t", t)
        if t.numel() and not bool(((t >= 0) & (t <= self.T - 1)).all()):
            raise ScheduleError(f"t must be in [0, {self.T - 1}], not [{t.min():g}, {t.max():g}]")
        return t

    def log_snr_slope(self, t: float | Tensor) -> Tensor:
        """Return d log-SNR / dt, negative, at training index `t` (real, [] or [B], in [0, T-1])."""
        t = self._times(t)
        left = t.floor().long().clamp(max=max(self.T - 2, 0))
        return _cubic_slope(self._cubic(left), t - left)

    def at(self, t: float | Tensor) -> Level:
        """Return the level at training index `t`.

        Parameters
        ----------
        t
            Real, [] or [B], in [0, T-1].

        Raises
        ------
        ScheduleError
            If a `t` is out of range.
        """
        t = self._times(t)
        left = t.floor().long()
        u = t - left
        between = _log_abar_of_log_snr(_cubic_value(self._cubic(left), u))
        return Level.from_log_abar(t, torch.where(u == 0, self.alphas_cumprod[left].log(), between))

    def at_log_snr(self, log_snr: float | Tensor) -> Level:
        """Return the level with a log-SNR: the inverse of `at`, to rounding.

        Parameters
        ----------
        log_snr
            Real, [] or [B], between those of t = T-1 and t = 0.

        Raises
        ------
        ScheduleError
            If the schedule does not reach a log-SNR.
        """
        target = as_reals("log-SNR", log_snr)
        low, high = self.log_snr[-1], self.log_snr[0]
        inside = (target >= low - _SLACK) & (target <= high + _SLACK)
        if target.numel() and not bool(inside.all()):
            raise ScheduleError(
                f"log-SNR must be in [{low:g}, {high:g}], which this schedule covers, "
                f"not [{target.min():g}, {target.max():g}]"
            )
        target = target.clamp(low, high)
        left = torch.searchsorted(-self.log_snr, -target, right=True) - 1
        left = left.clamp(0, max(self.T - 2, 0))
        u = _where_cubic_is(self._cubic(left), target)
        return Level.from_log_abar(left + u, _log_abar_of_log_snr(target))

    def grid(self, spacing: str | int | Sequence[float] = "") -> tuple[Level, ...]:
        """Return the levels of a grid, from the noisiest to `CLEAN`.

        Parameters
        ----------
        spacing
            A respacing in the public code's notation, such as 25, "ddim25" or "10,15,20" (see
            `respace`), or falling times.

        Raises
        ------
        ScheduleError
            If there is no such respacing, or the times do not fall.
        """
        if isinstance(spacing, str | Integral):
            spacing = respace(self.T, spacing)[::-1]
        return (*_falling(self.at, spacing), CLEAN)


class ContinuousSchedule:
    """The variance-preserving diffusion in continuous time, with the interface of `Schedule`.

    On t in (0, T], with u = t / T, log abar = -(beta_min u + (beta_max - beta_min) u^2 / 2):
    smooth in t, as convergence orders need.

    Parameters
    ----------
    beta_min, beta_max
        Rates of the diffusion at both ends: 0 < beta_min < beta_max.
    T
        The time at which there is most noise.

    References
    ----------
    Song et al. 2021 (score SDE), eq. 33.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, T: int = 1000):
        beta_min, beta_max = real("beta_min", beta_min), real("beta_max", beta_max)
        if not 0 < beta_min < beta_max:
            raise ScheduleError(f"expected 0 < beta_min < beta_max, not {beta_min}, {beta_max}")
        if real("T", T) <= 0:
            raise ScheduleError(f"T must be positive, not {T}")
        self.linear, self.quadratic, self.T = beta_min, (beta_max - beta_min) / 2, T

    def _times(self, t: float | Tensor) -> Tensor:
        t = as_reals("t", t)
        if t.numel() and not bool(((t > 0) & (t <= self.T)).all()):
            raise ScheduleError(f"t must be in (0, {self.T}], not [{t.min():g}, {t.max():g}]")
        return t

    def at(self, t: float | Tensor) -> Level:
        """Return the level at time `t` (real, [] or [B], in (0, T])."""
        t = self._times(t)
        u = t / self.T
        return Level.from_log_abar(t, -(self.linear * u + self.quadratic * u**2))

    def log_snr_slope(self, t: float | Tensor) -> Tensor:
        """Return d log-SNR / dt, negative, at time `t` (real, [] or [B], in (0, T])."""
        t = self._times(t)
        # That of log abar, over 1 - abar.
        slope = -(self.linear + 2 * self.quadratic * t / self.T) / self.T
        return slope / self.at(t).sigma ** 2

    def at_log_snr(self, log_snr: float | Tensor) -> Level:
        """Return the level with this `log_snr` (real, [] or [B]): the inverse of `at`."""
        target = as_reals("log-SNR", log_snr)
        log_abar = _log_abar_of_log_snr(target)
        root = (self.linear**2 - 4 * self.quadratic * log_abar).sqrt()
        t = -2 * log_abar / (root + self.linear) * self.T
        low = self.at(self.T).log_snr
        if target.numel() and not bool(((target >= low - _SLACK) & (t > 0)).all()):
            raise ScheduleError(
                f"log-SNR must be finite and at least {low:g}, which this schedule reaches at "
                f"t = {self.T}, not [{target.min():g}, {target.max():g}]"
            )
        return Level.from_log_abar(t.clamp(max=self.T), log_abar)

    def grid(self, times: Sequence[float]) -> tuple[Level, ...]:
        """Return the levels at falling `times`, without the clean end."""
        return _falling(self.at, times)


AnySchedule = Schedule | ContinuousSchedule
"""A level at every time, and at every log-SNR."""


def check_schedule(schedule: AnySchedule) -> None:
    """Refuse with `ScheduleError` a `schedule` that is none."""
    if not isinstance(schedule, AnySchedule):
        raise ScheduleError(f"a schedule, such as Schedule.linear(), is expected: not {schedule!r}")


def _falling(at: Callable[[float], Level], times: Sequence[float]) -> tuple[Level, ...]:
    times = as_reals("grid times", times)
    if times.ndim != 1:
        raise ScheduleError(f"grid times are a sequence of numbers, not {times.tolist()}")
    times = times.tolist()
    if not times or not all(a > b for a, b in pairwise(times)):
        raise ScheduleError("grid times must fall strictly, from noisy to clean")
    return tuple(at(t) for t in times)


def _steps(T: int) -> int:
    """The number of a schedule's steps, if it can have so many."""
    if (T := whole("T", T)) < 1:
        raise ScheduleError(f"a schedule has at least one step, not T = {T}")
    return T


def respace(T: int, spacing: str | int) -> list[int]:
    """Return the training indices of a respacing, rising.

    Parameters
    ----------
    T
        Number of steps of the schedule.
    spacing
        "25" or 25 spreads 25 steps evenly over 0..T-1; "ddim25" takes every (T/25)-th from 0, so
        that sampling starts at T - T/25; "10,15,20" cuts T into three equal sections with 10, 15
        and 20 steps; "" takes all T.

    Raises
    ------
    InputError
        If T or the spacing is a number that is not whole.
    ScheduleError
        If the notation is unknown, asks for more steps than there are, or for one: that would be
        t = 0, where x_t is nearly clean.
    """
    spacing = spacing if isinstance(spacing, str) else str(whole("a respacing", spacing))
    indices = _respaced(_steps(T), spacing)
    if len(indices) < 2 <= T:
        raise ScheduleError(
            f"{spacing!r} keeps t = 0 alone, and sampling starts at the noisiest timestep kept: "
            f"ask for at least 2 steps"
        )
    return indices


def _respaced(T: int, spacing: str) -> list[int]:
    if spacing == "":
        return list(range(T))
    if spacing.startswith("ddim"):
        steps = _count(spacing.removeprefix("ddim"), spacing)
        for stride in range(1, T + 1):
            if len(range(0, T, stride)) == steps:
                return list(range(0, T, stride))
        raise ScheduleError(f"{spacing!r}: no whole stride cuts {T} steps into {steps}")
    counts = [_count(part, spacing) for part in spacing.split(",")]
    indices: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = T // len(counts) + (i < T % len(counts))
        if count > size:
            raise ScheduleError(
                f"{spacing!r} asks for {count} steps out of {size}: a respacing cannot have "
                f"more steps than the schedule (T = {T})"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Accumulated and rounded half to even, as the public code does, to the last digit.
        position = 0.0
        for _ in range(count):
            indices.append(start + round(position))
            position += stride
        start += size
    return indices


def _count(text: str, spacing: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ScheduleError(
            f"unknown respacing {spacing!r}: write a number of steps ('25'), a strided one "
            f"('ddim25') or one count per section ('10,15,20')"
        )
    return int(text)
