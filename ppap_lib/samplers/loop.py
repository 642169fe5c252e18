"""The loop, and the contract of the steps it takes.

`step(denoise, x, now, nxt, history, noise) -> x_nxt`. The loop evaluates the denoiser at `now` and
appends it before the step, so `history[-1]` is the present; a step may evaluate further. It takes
both its levels from the grid. No step evaluates the clean end. The loop asks the device once a
step, after it, whether all predictions were finite, and waits for it at no other time.
"""

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise, Prediction, check_function, fitted, shown
from ppap_lib.diffusion.levels import Level
from ppap_lib.errors import InputError
from ppap_lib.parameters import whole

HISTORY = 4
"""Evaluations that the loop remembers: what PLMS and UniPC-3 look back on."""


class Evaluation(NamedTuple):
    """A prediction, and the level of the path at which the denoiser made it."""

    level: Level
    prediction: Prediction


History = Sequence[Evaluation]
"""Evaluations at past levels of the path, oldest first; the last is the present."""

Step = Callable[[Denoise, Tensor, Level, Level, History, Callable[[], Tensor]], Tensor]
"""`step(denoise, x, now, nxt, history, noise) -> x_nxt`: one step of a solver.

Takes x [B, ...] from the level `now` to `nxt`. `history[-1]` is the evaluation at (x, now),
`denoise` evaluates further, and `noise()` returns the next normal draw, shaped as x.
"""


@dataclass(frozen=True, eq=False)
class State:
    """The state of sampling after a step.

    Parameters
    ----------
    index
        Steps taken so far.
    level
        The level of `x`, or one for each sample.
    x
        [B, ...].
    prediction
        The prediction that the step started from.
    evaluations, gradients
        Evaluations of the denoiser, and gradients of guides, so far.
    """

    index: int
    level: Level
    x: Tensor
    prediction: Prediction
    evaluations: int
    gradients: int


def require_score_form(prediction: Prediction, solver: str) -> Prediction:
    """Return `prediction`, for steps that only understand score-form guidance."""
    if prediction.shift is not None:
        raise InputError(
            f"{solver} cannot use mean-form guidance, which shifts the mean of a DDPM step: "
            f"use guided(..., form='score'), or the ddpm step"
        )
    return prediction


def ode_step(solver: str) -> Callable[[Step], Step]:
    """Decorate a step of the probability-flow ODE with what all of them share.

    The decorated step refuses mean-form guidance, takes the last step to the clean end by Euler,
    which lands on the present x0, and receives the history as a tuple.
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
    raise InputError("this step draws noise: pass noise=Noise(...)")


def _like(x_T: Tensor, noise: Callable[[], Tensor] | None) -> Callable[[], Tensor]:
    """The draws of `noise`, which must have the shape of `x_T`: fewer would be broadcast."""
    if noise is None:
        return _no_noise
    check_function("noise", noise)

    def draw() -> Tensor:
        z = noise()
        if not isinstance(z, Tensor) or z.shape != x_T.shape:
            raise InputError(
                f"noise of shape {shown(z)} for x_T {list(x_T.shape)}: pass the "
                f"Noise that drew x_T, or one with a seed for each of its images"
            )
        return z.to(x_T.device, x_T.dtype)

    return draw


def check_grid(grid: Sequence[Level]) -> None:
    """That a `grid` is two levels at least, which fall from noisy to clean."""
    if not isinstance(grid, Sequence) or not all(isinstance(level, Level) for level in grid):
        raise InputError(f"a grid is a sequence of levels, as Schedule.grid makes, not {grid!r}")
    if len(grid) < 2:
        raise InputError(f"a grid has at least two levels, not {len(grid)}")
    if any(level.t.ndim for level in grid):
        raise InputError("a grid has one level for all samples at every step, not one for each")
    for a, b in zip(grid, grid[1:], strict=False):
        if not bool(a.sigma / a.alpha > b.sigma / b.alpha):
            raise InputError(
                f"grid levels must fall from noisy to clean; t = {a.t:g} is followed by {b.t:g}"
            )


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
    if not isinstance(x_T, Tensor):
        raise InputError(f"x_T is a floating tensor [B, ...], not {shown(x_T)}")
    if x_T.ndim < 2 or not x_T.is_floating_point():
        raise InputError(f"x_T is floating [B, ...], not {x_T.dtype} {list(x_T.shape)}")


def check_order(solver: str, order: int, highest: int) -> int:
    """Return a solver's order as Python's int: a whole number from 1 to `highest`."""
    order = whole(f"the order of {solver}", order)
    if not 1 <= order <= highest:
        raise InputError(f"{solver} has orders 1 to {highest}, not {order}")
    return order


class CountingDenoiser:
    """A denoiser that counts its evaluations and gradients, and knows whether they were finite.

    Parameters
    ----------
    denoise
        `(x_t [B, ...], level) -> Prediction`.
    """

    def __init__(self, denoise: Denoise):
        check_function("a denoiser", denoise)
        self.denoise, self.evaluations, self.gradients = denoise, 0, 0
        self._finite: list[tuple[str, Level, Tensor]] = []

    def __call__(self, x_t: Tensor, level: Level) -> Prediction:
        prediction = fitted(self.denoise(x_t, level), x_t)
        self.evaluations += 1
        self.gradients += prediction.gradients
        for name in ("x0", "eps", "v", "shift"):
            if (value := getattr(prediction, name)) is not None:
                self._finite.append((name, level, _finite(value)))
        return prediction

    def check(self, step: int, x: Tensor, level: Level) -> None:
        """Refuse a state and the evaluations since the last check unless all were finite.

        Waits for the device, once.

        Parameters
        ----------
        step
            Number of the step that the evaluations belong to, for the message.
        x, level
            The state that they led to.

        Raises
        ------
        InputError
            With the step, the timestep, the quantity and the samples that broke first.
        """
        quantities, self._finite = [*self._finite, ("x", level, _finite(x))], []
        finite = torch.stack([each for *_, each in quantities]).cpu()
        if bool(finite.all()):
            return
        row = int(finite.all(1).int().argmin())
        name, level, _ = quantities[row]
        broken = (~finite[row]).nonzero().flatten().tolist()
        t = level.t[broken[0]] if level.t.ndim else level.t
        raise InputError(
            f"{name} is not finite at step {step} (t = {t:g}) in images {broken[:8]}: the network "
            f"or the guidance broke down; lower the guidance scale or evaluate in float32"
        )


def _finite(value: Tensor) -> Tensor:
    """Whether all numbers of each sample are finite: bool [B]."""
    return value.isfinite().flatten(1).all(1)


def _stepped(x: Tensor, x_T: Tensor) -> Tensor:
    """What a step returned, in the dtype of x_T, and refused in another shape."""
    if not isinstance(x, Tensor) or x.shape != x_T.shape:
        raise InputError(f"the step returned {shown(x)} for x {list(x_T.shape)}")
    return x.to(x_T.dtype)


def trajectory(
    denoise: Denoise,
    x_T: Tensor,
    grid: Sequence[Level],
    step: Step,
    noise: Callable[[], Tensor] | None = None,
) -> Iterator[State]:
    """Walk a grid down from noise, and yield the state after every step.

    Parameters
    ----------
    denoise
        `(x_t [B, ...], level) -> Prediction`, guided or not.
    x_T
        Noise [B, ...] at the level `grid[0]`. States keep its dtype; float64 is best, and networks
        are called in their own.
    grid
        Levels from noisy to clean, at least two.
    step
        A solver's step: see `ppap_lib.samplers.SOLVERS`.
    noise
        Source of the draws of steps that need them: the `Noise` that drew x_T, called on.

    Yields
    ------
    State
        One after each step, without a graph.

    Raises
    ------
    InputError
        If an argument does not fit, or a prediction is not finite.
    """
    check_x(x_T)
    check_grid(grid)
    _check_step(step)
    counting, draw = CountingDenoiser(denoise), _like(x_T, noise)
    history, x = deque(maxlen=HISTORY), x_T
    for index, (now, nxt) in enumerate(zip(grid, grid[1:], strict=False)):
        # Not around the yield: a generator must not change its consumer's gradient mode.
        with torch.no_grad():
            history.append(Evaluation(now, counting(x, now)))
            x = _stepped(step(counting, x, now, nxt, history, draw), x_T)
            counting.check(index, x, nxt)
        prediction = history[-1].prediction
        yield State(index + 1, nxt, x, prediction, counting.evaluations, counting.gradients)


def sample(
    denoise: Denoise,
    x_T: Tensor,
    grid: Sequence[Level],
    step: Step,
    noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Walk a grid down from noise, and return the end of `trajectory`.

    Parameters
    ----------
    denoise, x_T, grid, step, noise
        See `trajectory`.

    Returns
    -------
    Tensor
        [B, ...] at the level `grid[-1]`, in x_T's dtype.
    """
    return deque(trajectory(denoise, x_T, grid, step, noise), maxlen=1)[0].x
