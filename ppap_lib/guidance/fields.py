"""Gradient fields of vision models: what a guide reads, x_t or the predicted x0."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ppap_lib.diffusion.denoisers import (
    Prediction,
    as_computed,
    clamp_straight_through,
    in_train_mode,
)
from ppap_lib.diffusion.levels import Level
from ppap_lib.errors import GuidanceError
from ppap_lib.guidance.guides import Guide, WeightedField, _leaf
from ppap_lib.guidance.tasks import Classification, Task


@runtime_checkable
class NoiseAware(Protocol):
    """A model that reads x_t differently at every level: `at(level)` is a function of x_t.

    Unless that is a module, it is given the state as it is: float64 while sampling.
    """

    def at(self, level: Level) -> Callable[[Tensor], Any]: ...


@dataclass(frozen=True)
class TimeConditioned:
    """A network `(x_t, t) -> output`, such as ADM's noisy classifier, as a noise-aware model."""

    network: Callable[[Tensor, Tensor], Any]
    time_scale: float = 1.0

    def at(self, level: Level) -> Callable[[Tensor], Any]:
        _refuse_training(self.network)
        return lambda x_t: self.network(
            as_computed(x_t, self.network), level.times(x_t) * self.time_scale
        )


Model = Callable[[Tensor], Any] | NoiseAware
"""A module is given images in its parameters' dtype, any other function float32."""


def model_at(model: Model, level: Level) -> Callable[[Tensor], Any]:
    """The model as a function of x_t at this level; a clean one is the same at every level."""
    return model.at(level) if isinstance(model, NoiseAware) else model


def _refuse_training(model: Any) -> None:
    if in_train_mode(model):
        raise GuidanceError(
            f"the guide, a {type(model).__name__}, is in train mode, where batch norms read (and "
            f"keep) the batch's statistics and dropout is random: call model.eval() first"
        )


def _log_prob(model: Model, task: Task, target: Any, x: Tensor, level: Level) -> Tensor:
    """log p(target | model's reading of x) per image, [B]."""
    read = model_at(model, level)
    _refuse_training(model)
    _refuse_training(read)
    if not isinstance(model, NoiseAware) or isinstance(read, nn.Module):
        x = as_computed(x, read)
    value = task.log_prob(read(x), target)
    if value.shape != x.shape[:1]:
        raise GuidanceError(
            f"the task returned {list(value.shape)} for {len(x)} images, expected one log "
            f"probability each"
        )
    return value


def _gradient(value: Tensor, of: Tensor, keep_graph: bool = False) -> Tensor:
    grad = None
    if value.requires_grad:
        # Images do not interact, so the gradient of the sum holds each image's own.
        (grad,) = torch.autograd.grad(value.sum(), of, retain_graph=keep_graph, allow_unused=True)
    if grad is None:
        raise GuidanceError(
            "the model's output does not depend on its input differentiably: is it under "
            "torch.no_grad or a detach?"
        )
    return grad


def at_xt(model: Model, task: Task, target: Any) -> Guide:
    """Read the noisy image: grad_{x_t} log p(target | model(x_t)).

    A clean model here is naive guidance; experts or a noise-aware model are the remedy. Modules
    must be in evaluation mode.
    """

    def field(x_t: Tensor, level: Level, prediction: Prediction) -> Tensor:
        with torch.enable_grad():
            x = _leaf(x_t)
            return _gradient(_log_prob(model, task, target, x, level), x)

    return Guide((WeightedField(field),))


def at_x0(model: Model, task: Task, target: Any, through: bool) -> Guide:
    """Read the predicted clean image x0, clamped to [-1, 1] straight-through.

    `through` differentiates through the denoiser; without it eps is held fixed, so that
    dx0/dx_t = 1/alpha: cheaper, and nearly an adversarial attack.
    """

    def through_denoiser(x_t: Tensor, level: Level, prediction: Prediction) -> Tensor:
        if not prediction.x0.requires_grad:
            raise GuidanceError(
                "x0 carries no graph back to x_t: evaluate this guide inside guided(), keep the "
                "denoiser free of torch.no_grad, and where it is a guided one already, add the "
                "guides instead: guided(denoise, one + other)"
            )
        with torch.enable_grad():
            x0 = clamp_straight_through(prediction.x0)
            value = _log_prob(model, task, target, x0, level)
            # Kept: another term of the same guide may go through the denoiser as well.
            return _gradient(value, x_t, keep_graph=True)

    def eps_fixed(x_t: Tensor, level: Level, prediction: Prediction) -> Tensor:
        alpha, _ = level.scales(x_t)
        with torch.enable_grad():
            x0 = _leaf(prediction.x0)
            value = _log_prob(model, task, target, clamp_straight_through(x0), level)
            return _gradient(value, x0) / alpha

    return Guide((WeightedField(through_denoiser if through else eps_fixed, through=through),))


def guide(
    model: Model,
    target: Any,
    read: str = "x_t",
    task: Task | None = None,
    through: bool = True,
) -> Guide:
    """Make a guide towards `target` from any module or function that reads images.

    Parameters
    ----------
    model
        A clean network, a `NoiseAware` model such as a set of experts, or a function of images.
    target
        What the task takes: for classification one class index, or int64 [B].
    read
        "x_t" reads the noisy image (see `at_xt`), "x0" the predicted clean one (see `at_x0`).
    task
        What the output means; `Classification` by default.
    through
        Whether "x0" differentiates through the denoiser.

    Raises
    ------
    GuidanceError
        For another `read`.
    """
    task = Classification() if task is None else task
    if read == "x_t":
        return at_xt(model, task, target)
    if read == "x0":
        return at_x0(model, task, target, through)
    raise GuidanceError(f"read must be 'x_t' or 'x0', not {read!r}")
