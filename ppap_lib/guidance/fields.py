"""Gradient fields of vision models, which read x_t or the predicted x0."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ppap_lib.diffusion.denoisers import (
    Prediction,
    as_computed,
    check_bounds,
    check_function,
    clamp_straight_through,
    in_train_mode,
    shown,
)
from ppap_lib.diffusion.levels import Level
from ppap_lib.errors import GuidanceError
from ppap_lib.guidance.guides import Guide, WeightedField, leaf
from ppap_lib.guidance.tasks import Classification, Task
from ppap_lib.parameters import real


class NoiseAware(Protocol):
    """A model that reads x_t differently at every level, such as a set of experts.

    It is told by a method `at`: a layer or a tensor of this name makes no model noise-aware.
    """

    def at(self, level: Level) -> Callable[[Tensor], Any]:
        """Return the model as a function of x_t [B, ...] at this level ([] or [B]).

        Unless that is a module, it is given the state as it is: float64 while sampling.
        """


@dataclass(frozen=True)
class TimeConditioned:
    """A network `(x_t, t) -> output`, such as ADM's noisy classifier, as a `NoiseAware` model.

    Parameters
    ----------
    network
        Reads x_t [B, ...] in its parameters' dtype and times [B] in float32.
    time_scale
        What a training index is multiplied by to give the network's time.

    Raises
    ------
    InputError
        If the network is no function, or the scale no finite number.
    """

    network: Callable[[Tensor, Tensor], Any]
    time_scale: float = 1.0

    def __post_init__(self):
        check_function("a network", self.network)
        real("time_scale", self.time_scale)

    def at(self, level: Level) -> Callable[[Tensor], Any]:
        """Return the network as a function of x_t at this level; refuse one in train mode."""
        _refuse_training(self.network)
        return lambda x_t: self.network(
            as_computed(x_t, self.network), level.times(x_t) * self.time_scale
        )


Model = Callable[[Tensor], Any] | NoiseAware
"""A module is given samples in its parameters' dtype, any other function float32."""


def _is_noise_aware(model: Model) -> bool:
    at = getattr(model, "at", None)
    return inspect.ismethod(at) or inspect.isfunction(at)


def model_at(model: Model, level: Level) -> Callable[[Tensor], Any]:
    """Return the model as a function of x_t at this level: a clean one itself, at every level.

    Parameters
    ----------
    model
        A clean or a `NoiseAware` model.
    level
        One for all samples, or one for each.

    Raises
    ------
    GuidanceError
        If it is no function, and its method `at` returns none.
    """
    read = model.at(level) if _is_noise_aware(model) else model
    if not callable(read):
        raise GuidanceError(
            f"a model, or what its method at(level) returns, is a function of samples, not "
            f"{shown(read)}"
        )
    return read


def _refuse_training(model: Any) -> None:
    """Raise `GuidanceError` for a module of which any part is in train mode."""
    if in_train_mode(model):
        raise GuidanceError(
            f"the guide, a {type(model).__name__}, is in train mode, where batch norms read (and "
            f"keep) the batch's statistics and dropout is random: call model.eval() first"
        )


def _log_prob(model: Model, task: Task, target: Any, x: Tensor, level: Level) -> Tensor:
    """log p(target | the model's output for x) of each sample, [B]."""
    read = model_at(model, level)
    _refuse_training(model)
    _refuse_training(read)
    if not _is_noise_aware(model) or isinstance(read, nn.Module):
        x = as_computed(x, read)
    if not callable(getattr(task, "log_prob", None)):
        raise GuidanceError(f"a task, such as Classification(), has log_prob: {task!r} has not")
    value = task.log_prob(read(x), target)
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        raise GuidanceError(
            f"the task returned {shown(value)} for {len(x)} images, expected one log "
            f"probability each"
        )
    return value


def _gradient(value: Tensor, of: Tensor, keep_graph: bool = False) -> Tensor:
    """The gradient of each sample's value [B] in the sample."""
    grad = None
    if value.requires_grad:
        # Samples do not interact, so the gradient of the sum holds each sample's own.
        (grad,) = torch.autograd.grad(value.sum(), of, retain_graph=keep_graph, allow_unused=True)
    if grad is None:
        raise GuidanceError(
            "the model's output does not depend on its input differentiably: is it under "
            "torch.no_grad or a detach?"
        )
    return grad


def at_xt(model: Model, task: Task, target: Any) -> Guide:
    """Make a guide that reads the noisy sample: grad_{x_t} log p(target | model(x_t)).

    With a clean model this is naive guidance; experts or a noise-aware model are the remedy.

    Parameters
    ----------
    model
        A network in evaluation mode, a `NoiseAware` model, or a function of samples [B, ...].
    task
        What its output means: `task.log_prob(output, target)` is [B].
    target
        Whatever the task takes.

    Returns
    -------
    Guide
        It raises `GuidanceError` when it is evaluated: for a model in train mode, one that is not
        differentiable, or a task that does not return a value for each sample.
    """

    def field(x_t: Tensor, level: Level, prediction: Prediction) -> Tensor:
        with torch.enable_grad():
            x = leaf(x_t)
            return _gradient(_log_prob(model, task, target, x, level), x)

    return Guide((WeightedField(field),))


def at_x0(
    model: Model,
    task: Task,
    target: Any,
    through: bool,
    bounds: tuple[float, float] | None = (-1.0, 1.0),
) -> Guide:
    """Make a guide that reads the predicted clean sample x0.

    Parameters
    ----------
    model, task, target
        As for `at_xt`.
    through
        Whether to differentiate through the denoiser. Otherwise eps is held fixed, so that
        dx0/dx_t = 1/alpha: cheaper, and nearly an adversarial attack.
    bounds
        The data's range, to which x0 is clamped straight-through before the model reads it: that
        of pixels by default, None for latents and series.

    Returns
    -------
    Guide
        It raises `GuidanceError` as that of `at_xt` does, and where x0 carries no graph to x_t.
    """

    if bounds is not None:
        check_bounds(bounds)

    def bounded(x0: Tensor) -> Tensor:
        return x0 if bounds is None else clamp_straight_through(x0, *bounds)

    def through_denoiser(x_t: Tensor, level: Level, prediction: Prediction) -> Tensor:
        if not prediction.x0.requires_grad:
            raise GuidanceError(
                "x0 carries no graph back to x_t: evaluate this guide inside guided(), keep the "
                "denoiser free of torch.no_grad, and where it is a guided one already, add the "
                "guides instead: guided(denoise, one + other)"
            )
        with torch.enable_grad():
            value = _log_prob(model, task, target, bounded(prediction.x0), level)
            # Kept: another field of this guide may go through the denoiser as well.
            return _gradient(value, x_t, keep_graph=True)

    def eps_fixed(x_t: Tensor, level: Level, prediction: Prediction) -> Tensor:
        alpha, _ = level.scales(x_t)
        with torch.enable_grad():
            x0 = leaf(prediction.x0)
            value = _log_prob(model, task, target, bounded(x0), level)
            return _gradient(value, x0) / alpha

    return Guide((WeightedField(through_denoiser if through else eps_fixed, through=through),))


def guide(
    model: Model,
    target: Any,
    read: str = "x_t",
    task: Task | None = None,
    through: bool = True,
    bounds: tuple[float, float] | None = (-1.0, 1.0),
) -> Guide:
    """Make a guide towards `target` of any module or function that reads samples.

    Parameters
    ----------
    model
        A clean network, a `NoiseAware` model such as a set of experts, or a function of samples.
    target
        Whatever the task takes: for classification one class index, or int64 [B].
    read
        "x_t" reads the noisy sample (see `at_xt`), "x0" the predicted clean one (see `at_x0`).
    task
        What the output means; `Classification` by default.
    through, bounds
        As for `at_x0`, which alone reads them.

    Raises
    ------
    GuidanceError
        For another `read`.
    """
    task = Classification() if task is None else task
    if read == "x_t":
        return at_xt(model, task, target)
    if read == "x0":
        return at_x0(model, task, target, through, bounds)
    raise GuidanceError(f"read must be 'x_t' or 'x0', not {read!r}")
