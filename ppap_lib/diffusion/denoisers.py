"""Denoisers: `denoise(x_t, level) -> Prediction`, and adapters that make one from a network.

The seam between networks and everything else. An adapter knows what its network predicts and
returns both x0 and eps; wrappers (`clipped`, `thresholded`, guidance) are denoisers again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.diffusion.levels import Level, check_state, per_image
from ppap_lib.diffusion.noise import check_labels
from ppap_lib.errors import InputError
from ppap_lib.parameters import real

Network = Callable[[Tensor, Tensor], Tensor]
"""`network(x_t [B, C, ...], t [B]) -> [B, C, ...]`, or [B, 2C, ...] with learned variance."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A denoiser's answer for x_t [B, ...]: data and noise, with x_t = alpha x0 + sigma eps.

    Parameters
    ----------
    x0, eps
        Predicted data and noise [B, ...], like x_t.
    v
        ADM's variance fraction in [0, 1], like x_t, for log Sigma = v log beta + (1 - v) log
        beta-tilde; None without learned variance.
    shift
        Gradient of mean-form guidance, like x_t, for the ddpm step alone.
    gradients
        Number of guide gradients that went into the prediction.
    """

    x0: Tensor
    eps: Tensor
    v: Tensor | None = None
    shift: Tensor | None = None
    gradients: int = 0

    def with_x0(self, x0: Tensor, x_t: Tensor, level: Level) -> "Prediction":
        """Return the prediction with another `x0`, and the eps that x_t then implies at `level`."""
        alpha, sigma = level.scales(x_t)
        return replace(self, x0=x0, eps=(x_t - alpha * x0) / sigma)

    def with_eps(self, eps: Tensor, x_t: Tensor, level: Level) -> "Prediction":
        """Return the prediction with another `eps`, and the x0 that x_t then implies at `level`."""
        alpha, sigma = level.scales(x_t)
        return replace(self, x0=(x_t - sigma * eps) / alpha, eps=eps)


Denoise = Callable[[Tensor, Level], Prediction]
"""`denoise(x_t [B, ...], level) -> Prediction`."""


def fitted(prediction: Any, x_t: Tensor) -> Prediction:
    """Return what a denoiser returned for x_t, in x_t's dtype.

    Parameters
    ----------
    prediction
        Whatever came back.
    x_t
        Noisy samples [B, ...].

    Raises
    ------
    InputError
        If it is no `Prediction`, or any of its tensors is not shaped as x_t: one image for four
        would be broadcast to four.
    """
    if not isinstance(prediction, Prediction):
        raise InputError(
            f"a denoiser returns a Prediction, not a {type(prediction).__name__}: make one of a "
            f"network by eps_model, x0_model or v_model"
        )
    own = {name: getattr(prediction, name) for name in ("x0", "eps", "v", "shift")}
    for name, value in own.items():
        if value is None and name in ("v", "shift"):
            continue
        if not isinstance(value, Tensor) or value.shape != x_t.shape:
            raise InputError(
                f"the denoiser returned {shown(value)} as {name} for x_t {list(x_t.shape)}: "
                f"expected one entry for each of its own"
            )
    cast = {
        name: value.to(x_t.dtype)
        for name, value in own.items()
        if value is not None and value.dtype != x_t.dtype
    }
    return replace(prediction, **cast) if cast else prediction


def check_function(name: str, value: Any) -> None:
    """Refuse with `InputError`, by its `name`, a `value` that cannot be called."""
    if not callable(value):
        raise InputError(f"{name} is a function, not {shown(value)}")


def shown(value: Any) -> str:
    """Return what an error calls a `value`: the shape of a tensor, or else the name of its type."""
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def has_train_mode(module: nn.Module) -> bool:
    """Return whether a `module` can be switched: exported and frozen ones cannot."""
    return hasattr(module, "training") and "eval" not in vars(module)


def in_train_mode(model: Any) -> bool:
    """Return whether the `model` is a module with any part in train mode, which moves or draws.

    Asked of a module's method, or of a function with arguments bound, it answers for the module.
    """
    model = _unbound(model)
    if not isinstance(model, nn.Module) or not has_train_mode(model):
        return False
    return model.training or any(map(in_train_mode, model.children()))


def _unbound(network: Any) -> Any:
    """The module, where labels are bound to it, or a method of it was given."""
    while isinstance(network, partial):
        network = network.func
    owner = getattr(network, "__self__", None)
    return owner if isinstance(owner, nn.Module) else network


_COMPUTED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The dtypes that networks compute in: integers and 8-bit floats are how weights are kept."""


def dtype_of(network: Callable, otherwise: torch.dtype) -> torch.dtype:
    """Return the dtype that a network computes in.

    Parameters
    ----------
    network
        A function or a module: its first floating parameter has the dtype.
    otherwise
        The dtype of samples. A function reads them so, but float64 as float32; a module without
        such a parameter reads float32.
    """
    network = _unbound(network)
    if isinstance(network, nn.Module):
        dtypes = (parameter.dtype for parameter in network.parameters())
        return next((dtype for dtype in dtypes if dtype in _COMPUTED), torch.float32)
    return torch.float32 if otherwise == torch.float64 else otherwise


def as_computed(x: Tensor, network: Callable) -> Tensor:
    """Return `x` in the dtype that a network computes in; see `dtype_of`."""
    return x.to(dtype_of(network, x.dtype))


def _evaluate(
    network: Network, x_t: Tensor, level: Level, learned_variance: bool, time_scale: float
) -> tuple[Tensor, Tensor | None]:
    """The network's output and variance fraction, in x_t's dtype."""
    check_state(x_t, level)
    check_function("a network", network)
    time_scale = real("time_scale", time_scale)
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
            f"the network returned {shown(out)}, expected a tensor: give a diffusers "
            f"U-Net as diffusers_network(unet)"
        )
    channels = x_t.shape[1]
    expected = channels * (2 if learned_variance else 1)
    if out.shape != (len(x_t), expected, *x_t.shape[2:]):
        hint = (
            "; its second half looks like ADM's learned variance: pass learned_variance=True"
            if out.ndim == x_t.ndim and out.shape[1] == 2 * channels and not learned_variance
            else ""
        )
        raise InputError(
            f"the network returned {list(out.shape)} for x_t {list(x_t.shape)}, expected "
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
    """Make a denoiser of a network that predicts the noise: `network(x_t, t) -> eps`.

    Parameters
    ----------
    network
        A function or a module in eval mode, from x_t [B, C, ...] and t [B]. It is called in the
        dtype of its parameters, or in float32 where x_t is float64. A class-conditional one has
        its labels bound: `functools.partial(network, y=labels)`.
    learned_variance
        Whether the network has twice the channels, the second half ADM's variance.
    time_scale
        What the training index is multiplied by to make t.

    Returns
    -------
    Denoise
        Raises `InputError` at the clean end, for a network in train mode, and for an output that
        is no tensor, has another shape, or lacks the graph that was asked for.
    """

    def denoise(x_t: Tensor, level: Level) -> Prediction:
        eps, v = _evaluate(network, x_t, level, learned_variance, time_scale)
        alpha, sigma = level.scales(x_t)
        return Prediction((x_t - sigma * eps) / alpha, eps, v)

    return denoise


def x0_model(network: Network, learned_variance: bool = False, time_scale: float = 1.0) -> Denoise:
    """Make a denoiser of a network that predicts the data: `network(x_t, t) -> x0`.

    Parameters
    ----------
    network, learned_variance, time_scale
        See `eps_model`.
    """

    def denoise(x_t: Tensor, level: Level) -> Prediction:
        x0, v = _evaluate(network, x_t, level, learned_variance, time_scale)
        alpha, sigma = level.scales(x_t)
        return Prediction(x0, (x_t - alpha * x0) / sigma, v)

    return denoise


def v_model(network: Network, learned_variance: bool = False, time_scale: float = 1.0) -> Denoise:
    """Make a denoiser of a network that predicts the velocity alpha eps - sigma x0.

    The letter v is the paper's for this target, and not `Prediction.v`.

    Parameters
    ----------
    network, learned_variance, time_scale
        See `eps_model`.

    References
    ----------
    Salimans & Ho 2022.
    """

    def denoise(x_t: Tensor, level: Level) -> Prediction:
        velocity, v = _evaluate(network, x_t, level, learned_variance, time_scale)
        alpha, sigma = level.scales(x_t)
        return Prediction(alpha * x_t - sigma * velocity, sigma * x_t + alpha * velocity, v)

    return denoise


ADAPTERS: Mapping[str, Callable[..., Denoise]] = MappingProxyType(
    {"eps": eps_model, "x0": x0_model, "v": v_model}
)
"""The three adapters by what the network predicts, as trainings and cards name it."""


def diffusers_network(unet: nn.Module) -> Network:
    """Make a network for the adapters of a diffusers model.

    Choose the adapter by the pipeline's `prediction_type`: `eps_model` for "epsilon", `x0_model`
    for "sample", `v_model` for "v_prediction".

    Parameters
    ----------
    unet
        A `UNet2DModel`, or one that is called in the same way. One with class embeddings takes
        labels as others do: `functools.partial(diffusers_network(unet), y=labels)`.
    """

    def network(x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if in_train_mode(unet):
            raise InputError("the U-Net is in train mode: call unet.eval() first")
        classes = getattr(unet.config, "num_class_embeds", None)
        if y is not None and classes is not None:
            y = check_labels(y, len(x_t), classes)
        return unet(as_computed(x_t, unet), t, class_labels=y).sample

    return network


def clamp_straight_through(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Clamp `x` to [low, high] with the gradient of `x` itself, so that saturated values steer."""
    clamped = x.clamp(low, high)
    # x - x is exactly zero, so the value is that of clamp whether or not a graph is recorded.
    return clamped.detach() + (x - x.detach()) if x.requires_grad else clamped


def check_bounds(bounds: tuple[float, float]) -> None:
    """Refuse with `InputError` `bounds` that are no range: a clamp would make all numbers one."""
    pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    if not (pair and all(isinstance(end, Real) for end in bounds) and bounds[0] < bounds[1]):
        raise InputError(f"bounds are two numbers, the lower first, not {bounds!r}")


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clamp a denoiser's x0 and recompute eps; goes *inside* guidance, as in ADM.

    Gradients pass straight through, so a guide that reads x0 differentiates the unclipped one.

    Parameters
    ----------
    denoise
        `(x_t [B, ...], level) -> Prediction`.
    low, high
        The range of the data; the default is that of images.

    Raises
    ------
    InputError
        If low is not below high.
    """
    check_function("a denoiser", denoise)
    check_bounds((low, high))

    def clip(x_t: Tensor, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        return prediction.with_x0(clamp_straight_through(prediction.x0, low, high), x_t, level)

    return clip


def thresholded(denoise: Denoise, quantile: float = 0.995) -> Denoise:
    """Threshold a denoiser's x0 dynamically; goes *around* guidance, which it tames.

    For every sample s = max(quantile of |x0|, 1); x0 becomes clamp(x0, -s, s) / s, and eps follows.

    Parameters
    ----------
    denoise
        `(x_t [B, ...], level) -> Prediction`, for data in [-1, 1].
    quantile
        In (0, 1].

    Raises
    ------
    InputError
        If the quantile is out of range.

    References
    ----------
    Saharia et al. 2022.
    """
    check_function("a denoiser", denoise)
    if not (isinstance(quantile, Real) and 0 < quantile <= 1):
        raise InputError(f"quantile must be in (0, 1], not {quantile}")

    def threshold(x_t: Tensor, level: Level) -> Prediction:
        prediction = denoise(x_t, level)
        x0 = prediction.x0
        # Of each sample, in float32 at least: torch has no quantile of halves, of no sample, or of
        # more than 2^24 numbers together.
        sizes = x0.flatten(1).abs().to(torch.promote_types(x0.dtype, torch.float32))
        s = [size.quantile(quantile).clamp(min=1) for size in sizes]
        s = per_image(torch.stack(s) if s else sizes.new_ones(0), x0)
        return prediction.with_x0(x0.clamp(-s, s) / s, x_t, level)

    return threshold
