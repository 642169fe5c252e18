"""The loop, and the contract of the steps it takes.

`step(denoise, x, now, nxt, history, noise) -> x_next`. The loop evaluates the denoiser at `now`
and appends it before the step, so `history[-1]` is the present; a step may evaluate further.
It takes both its levels from the grid. No step evaluates the clean end.
"""

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise, Prediction
from ppap_lib.diffusion.levels import Level
from ppap_lib.errors import InputError

HISTORY = 4  # what the highest-order multistep solvers (PLMS, UniPC-3) look back on


class Evaluation(NamedTuple):
    """The denoiser's word at one level of the path."""

    level: Level
    prediction: Prediction


History = Sequence[Evaluation]
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


def require_score_form(prediction: Prediction, solver: str) -> Prediction:
    """`prediction`, for steps that only understand score-form guidance."""
    if prediction.shift is not None:
        raise InputError(
            f"{solver} cannot use mean-form guidance, which shifts the mean of a DDPM step: "
            f"use guided(..., form='score'), or the ddpm step"
        )
    return prediction


def ode_step(solver: str) -> Callable[[Step], Step]:
    """Decorates a step of the probability-flow ODE with what all of them share.

    It refuses mean-form guidance, takes the last step to the clean end by Euler, which lands on
    the present x0, and hands the history over as a tuple.
    """

    def decorate(advance: Step) -> Step:
        @functools.wraps(advance)
        def step(denoise, x, now, nxt, history, noise):
            present = require_score_form(history[-1].prediction, solver)
            if nxt.clean:
                return present.x0

            def ahead(x_t: Tensor, level: Level) -> Prediction:
                return require_score_form(denoise(x_t, level), solver)

            return advance(ahead, x, now, nxt, tuple(history), noise)

        return step

    return decorate


def _no_noise() -> Tensor:
    raise InputError("this step draws noise: pass noise=seeds.Noise(...)")


def _like(x_T: Tensor, noise: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The draws of `noise`, which must have the shape of `x_T`: fewer would be broadcast."""

    def draw() -> Tensor:
        z = noise()
        if z.shape != x_T.shape:
            raise InputError(
                f"noise of shape {list(z.shape)} for x_T {list(x_T.shape)}: pass the "
                f"seeds.Noise that drew x_T, or one with a seed for each of its images"
            )
        return z

    return draw


def _check_start(x_T: Tensor, grid: Sequence[Level]) -> None:
    if len(grid) < 2:
        raise InputError(f"a grid has at least two levels, not {len(grid)}")
    for a, b in zip(grid, grid[1:], strict=False):
        if not bool(a.sigma / a.alpha > b.sigma / b.alpha):
            raise InputError(
                f"grid levels must fall from noisy to clean; t = {a.t:g} is followed by {b.t:g}"
            )
    check_x(x_T)


def _check_step(step: Step) -> None:
    if not callable(step):
        raise InputError(f"a step is a function, such as ddim() makes, not {step!r}")
    try:
        inspect.signature(step).bind("denoise", "x", "now", "nxt", "history", "noise")
    except TypeError as error:
        name = getattr(step, "__name__", repr(step))
        raise InputError(
            f"a step takes (denoise, x, now, nxt, history, noise), {name} does not: if it makes "
            f"steps, pass one that it made, such as {name}()"
        ) from error


def check_x(x_T: Tensor) -> None:
    """That a start is a batch of real numbers."""
    if x_T.ndim < 2 or not x_T.is_floating_point():
        raise InputError(f"x_T is floating [B, ...], not {x_T.dtype} {list(x_T.shape)}")


def check_order(solver: str, order: int, highest: int) -> None:
    """That a solver has this order: a whole number from 1 to `highest`."""
    if order not in range(1, highest + 1):
        raise InputError(f"{solver} has orders 1 to {highest}, not {order}")


class CountingDenoiser:
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
                t = level.t[broken[0]] if level.t.ndim else level.t
                raise InputError(
                    f"{name} is not finite at step {self.step} (t = {t:g}) in images "
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

    `noise` gives the draws of steps that need them: the object that drew x_T, called on. The
    state keeps x_T's dtype (float64 is best: networks are still called in float32).
    """
    _check_start(x_T, grid)
    _check_step(step)
    tally, history, x, noise = (
        CountingDenoiser(denoise),
        deque(maxlen=HISTORY),
        x_T,
        _like(x_T, noise),
    )
    for index, (now, nxt) in enumerate(zip(grid, grid[1:], strict=False)):
        tally.step = index
        # Not around the yield: a generator must not change its consumer's gradient mode.
        with torch.no_grad():
            history.append(Evaluation(now, tally(x, now)))
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
