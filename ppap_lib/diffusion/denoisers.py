"""Denoisers: `denoise(x_t, level) -> Prediction`, and adapters that make one from a network.

The seam between networks and everything else. An adapter knows what its network predicts and
returns both x0 and eps; wrappers (`clipped`, `thresholded`, guidance) are denoisers again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.diffusion.levels import Level, per_image
from ppap_lib.errors import InputError

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a denoiser says of x_t: `x0` and `eps` [B, C, H, W], with x_t = alpha x0 + sigma eps.

    `v` in [0, 1] is ADM's variance fraction: log Sigma = v log beta + (1 - v) log beta-tilde.
    `shift` is a mean-form guidance gradient, for the ddpm step alone. `gradients` counts the
    guide gradients that went into this prediction.
    """

    x0: Tensor
    eps: Tensor
    v: Tensor | None = None
    shift: Tensor | None = None
    gradients: int = 0

    def with_x0(self, x0: Tensor, x_t: Tensor, level: Level) -> "Prediction":
        """The same prediction with another x0, and the eps that x_t then implies."""
        alpha, sigma = level.scales(x_t)
        return replace(self, x0=x0, eps=(x_t - alpha * x0) / sigma)

    def with_eps(self, eps: Tensor, x_t: Tensor, level: Level) -> "Prediction":
        """The same prediction with another eps, and the x0 that x_t then implies."""
        alpha, sigma = level.scales(x_t)
        return replace(self, x0=(x_t - sigma * eps) / alpha, eps=eps)


Denoise = Callable[[Tensor, Level], Prediction]


def in_train_mode(model: Any) -> bool:
    """Whether the model is a module any part of which would move, or read by chance."""
    return isinstance(model, nn.Module) and any(part.training for part in model.modules())


def _unbound(network: Callable) -> Callable:
    """The network itself, where its labels are bound to it."""
    while isinstance(network, partial):
        network = network.func
    return network


def as_computed(x: Tensor, network: Callable) -> Tensor:
    """`x` in the dtype of the network's parameters; where it has none, float64 becomes float32."""
    network = _unbound(network)
    # The state may be float64, networks seldom are.
    if isinstance(network, nn.Module) and (first := next(network.parameters(), None)) is not None:
        return x.to(first.dtype)
    return x.float() if x.dtype == torch.float64 else x


def _evaluate(
    network: Network, x_t: Tensor, level: Level, learned_variance: bool, time_scale: float
) -> tuple[Tensor, Tensor | None]:
    """The network's output and variance fraction, in x_t's dtype."""
    if not bool(level.sigma.all()):
        raise InputError(
            "the clean end (sigma = 0) is never evaluated: there is no noise to predict"
        )
    if in_train_mode(inner := _unbound(network)):
        raise InputError(
            f"the denoiser, a {type(inner).__name__}, is in train mode, where dropout is random "
            f"and batch norms move: call network.eval() first"
        )
    x = as_computed(x_t, network)
    out = network(x, level.times(x_t) * time_scale)
    if not isinstance(out, Tensor):
        raise InputError(
            f"the network returned a {type(out).__name__}, expected a tensor: give a diffusers "
            f"U-Net as diffusers_network(unet)"
        )
    channels = x_t.shape[1]
    expected = channels * (2 if learned_variance else 1)
    if out.shape != (len(x_t), expected, *x_t.shape[2:]):
        hint = (
            "; its second half looks like ADM's learned variance: pass learned_variance=True"
            if out.ndim == 4 and out.shape[1] == 2 * channels and not learned_variance
            else ""
        )
        raise InputError(
            f"the network returned {list(out.shape)} for images {list(x_t.shape)}, expected "
            f"{expected} channels{hint}"
        )
    # x0 would have a graph all the same, through x_t / alpha, and differentiate as if eps had none.
    if x.requires_grad and torch.is_grad_enabled() and not out.requires_grad:
        raise InputError(
            "the network's output carries no graph to x_t, and one was asked for: remove its "
            "torch.no_grad or detach, or guide by at_x0(..., through=False)"
        )
    out = out.to(x_t.dtype)
    if not learned_variance:
        return out, None
    out, fraction = out.chunk(2, dim=1)
    return out, (fraction + 1) / 2


def eps_model(network: Network, learned_variance: bool = False, time_scale: float = 1.0) -> Denoise:
    """A denoiser from `network(x_t, t) -> eps`, t [B] being `time_scale` * training index.

    With `learned_variance` the network has twice the channels, the second half ADM's variance.
    Give a class-conditional network its labels with `functools.partial(network, y=labels)`.
    """

    def denoise(x_t: Tensor, level: Level) -> Prediction:
        eps, v = _evaluate(network, x_t, level, learned_variance, time_scale)
        alpha, sigma = level.scales(x_t)
        return Prediction((x_t - sigma * eps) / alpha, eps, v)

    return denoise


def x0_model(network: Network, learned_variance: bool = False, time_scale: float = 1.0) -> Denoise:
    """A denoiser from `network(x_t, t) -> x0`; arguments as for `eps_model`."""

    def denoise(x_t: Tensor, level: Level) -> Prediction:
        x0, v = _evaluate(network, x_t, level, learned_variance, time_scale)
        alpha, sigma = level.scales(x_t)
        return Prediction(x0, (x_t - alpha * x0) / sigma, v)

    return denoise


def v_model(network: Network, learned_variance: bool = False, time_scale: float = 1.0) -> Denoise:
    """A denoiser from `network(x_t, t) -> alpha eps - sigma x0` (Salimans & Ho 2022).

    Arguments as for `eps_model`. This v is the target, not `Prediction.v`.
    """

    def denoise(x_t: Tensor, level: Level) -> Prediction:
        velocity, v = _evaluate(network, x_t, level, learned_variance, time_scale)
        alpha, sigma = level.scales(x_t)
        return Prediction(alpha * x_t - sigma * velocity, sigma * x_t + alpha * velocity, v)

    return denoise


ADAPTERS: Mapping[str, Callable[..., Denoise]] = MappingProxyType(
    {"eps": eps_model, "x0": x0_model, "v": v_model}
)
"""By what the network predicts, as trainings and cards name it."""


def diffusers_network(unet: nn.Module) -> Network:
    """A diffusers `UNet2DModel` as a network for the adapters above.

    Choose the adapter by the pipeline's `prediction_type`: `eps_model` for "epsilon",
    `x0_model` for "sample", `v_model` for "v_prediction". One with class embeddings takes labels
    as others do: `functools.partial(diffusers_network(unet), y=labels)`.
    """

    def network(x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if unet.training:
            raise InputError("the U-Net is in train mode: call unet.eval() first")
        return unet(x_t.to(unet.dtype), t, class_labels=y).sample

    return network


def clamp_straight_through(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """`x` clamped, with the gradient of `x` itself, so that saturated pixels still steer."""
    clamped = x.clamp(low, high)
    # x - x is exactly zero, so the value is that of clamp whether or not a graph is recorded.
    return clamped.detach() + (x - x.detach()) if x.requires_grad else clamped


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """`denoise` with x0 clamped and eps recomputed from it; goes *inside* guidance, as in ADM.

    Gradients pass straight through, so a guide that reads x0 differentiates the unclipped one.
    """

    def clip(x_t: Tensor, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        return prediction.with_x0(clamp_straight_through(prediction.x0, low, high), x_t, level)

    return clip


def thresholded(denoise: Denoise, quantile: float = 0.995) -> Denoise:
    """Dynamic thresholding (Saharia et al. 2022): goes *around* guidance, which it tames.

    Per image, s = max(quantile of |x0|, 1); x0 becomes clamp(x0, -s, s)/s, eps follows.
    """
    if not 0 < quantile <= 1:
        raise InputError(f"quantile must be in (0, 1], not {quantile}")

    def threshold(x_t: Tensor, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        x0 = prediction.x0
        s = x0.flatten(1).abs().quantile(quantile, dim=1).clamp(min=1)
        s = per_image(s, x0)
        return prediction.with_x0(x0.clamp(-s, s) / s, x_t, level)

    return threshold
