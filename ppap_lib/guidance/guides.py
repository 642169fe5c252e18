"""The algebra of guides, and denoisers that they steer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise, Prediction, check_function, fitted, shown
from ppap_lib.diffusion.levels import Level, as_reals, check_state, per_image
from ppap_lib.errors import GuidanceError, ScheduleError

Field = Callable[[Tensor, Level, Prediction], Tensor]
"""`field(x_t [B, ...], level, prediction) -> grad log p(target | x_t)`, like x_t."""


@dataclass(frozen=True)
class WeightedField:
    """One gradient field, its weight, and the half-open range of training timesteps it acts in.

    Parameters
    ----------
    field
        The gradient; it is evaluated inside the range only.
    through
        Whether it differentiates through the denoiser, which then needs a graph.
    weight
        Factor of the gradient.
    start, stop
        The range [start, stop): numbers for all samples, or float64 [B] for each its own.
    """

    field: Field
    through: bool = False
    weight: float = 1.0
    start: float | Tensor = -math.inf
    stop: float | Tensor = math.inf

    def active(self, level: Level) -> Tensor:
        """Return whether the field acts at the level: bool, [] or [B]."""
        return (level.t >= self.start) & (level.t < self.stop)

    @property
    def empty(self) -> bool:
        """Whether the range is one for all samples, and without any timestep."""
        tensors = isinstance(self.start, Tensor) or isinstance(self.stop, Tensor)
        return not (tensors or self.start < self.stop)


@dataclass(frozen=True)
class Guide:
    """A weighted sum of gradient fields. Guides add, scale, and restrict to timesteps.

    `2 * guide.during(0, 400) - other / 3` and `sum(guides)` are guides. Factors must be finite
    numbers, or `GuidanceError` is raised.

    Parameters
    ----------
    terms
        The fields with their weights and ranges; `at_xt`, `at_x0` and `gradient_field` make them.
    """

    terms: tuple[WeightedField, ...]

    def __add__(self, other: "Guide") -> "Guide":
        if not isinstance(other, Guide):
            return NotImplemented
        return Guide(self.terms + other.terms)

    def __radd__(self, other: int) -> "Guide":
        return self if isinstance(other, int) and other == 0 else NotImplemented  # where sum starts

    def __sub__(self, other: "Guide") -> "Guide":
        return self + -other if isinstance(other, Guide) else NotImplemented

    def __neg__(self) -> "Guide":
        return -1 * self

    def __truediv__(self, divisor: float) -> "Guide":
        if not isinstance(divisor, Real):
            return NotImplemented
        return self * (1 / divisor if divisor else math.inf)

    def __mul__(self, factor: float) -> "Guide":
        if not isinstance(factor, Real):
            return NotImplemented
        factor = _finite(factor)
        return Guide(tuple(replace(t, weight=_finite(t.weight * factor)) for t in self.terms))

    __rmul__ = __mul__

    def during(self, start: float | Tensor, stop: float | Tensor) -> "Guide":
        """Return the guide that acts at training timesteps in [start, stop) and nowhere else.

        Parameters
        ----------
        start, stop
            Timesteps 0..T-1, not fractions of T: numbers, or as many as samples [B], with a range
            for each.

        Raises
        ------
        GuidanceError
            If one range for all samples has no whole timestep, or leaves no field that ever acts;
            or an end is no number.
        """
        start, stop = _end("start", start), _end("stop", stop)
        if not (isinstance(start, Tensor) or isinstance(stop, Tensor)):
            if not start < stop:
                raise GuidanceError(f"an empty interval: start {start} must be below stop {stop}")
            if stop < 1 or (math.isfinite(start) and math.ceil(start) >= stop):
                raise GuidanceError(
                    f"[{start}, {stop}) has no timestep: give training timesteps, such as "
                    f"during(0, 400), not fractions"
                )
        within = [
            replace(t, start=_larger(t.start, start), stop=-_larger(-t.stop, -stop))
            for t in self.terms
        ]
        if not (left := tuple(term for term in within if not term.empty)):
            ranges = ", ".join(f"[{term.start}, {term.stop})" for term in self.terms)
            raise GuidanceError(f"[{start}, {stop}) has no timestep of the guide's own {ranges}")
        return Guide(left)

    def _check(self, x_t: Tensor, level: Level) -> None:
        """Refuse ranges and levels of several samples that are not these: they would broadcast."""
        check_state(x_t, level)
        ends = [end for term in self.terms for end in (term.start, term.stop)]
        for value in (level.t, *ends):
            if isinstance(value, Tensor) and value.ndim and value.shape != x_t.shape[:1]:
                raise GuidanceError(
                    f"levels or ranges of timesteps {list(value.shape)} for {len(x_t)} images: "
                    f"give one, or one each"
                )

    def _active(self, level: Level) -> list[WeightedField]:
        return [term for term in self.terms if bool(term.active(level).any())]

    def through(self, level: Level) -> bool:
        """Return whether the denoiser must be evaluated with a graph at this level."""
        return any(term.through for term in self._active(level))

    def gradients(self, level: Level) -> int:
        """Return how many gradients a call at this level computes."""
        return len(self._active(level))

    def steer(self, denoise: Denoise, scale: float = 1.0, form: str = "score") -> Denoise:
        """Return `denoise` steered by `scale` times this guide, in a `form` of `guided`."""
        check_function("a denoiser", denoise)
        scale = _finite(scale)
        if not isinstance(form, str) or form not in _FORMS:
            raise GuidanceError(f"form must be 'score' or 'mean', not {form!r}")

        def steered(x_t: Tensor, level: Level) -> Prediction:
            self._check(x_t, level)
            through = self.through(level)
            with torch.set_grad_enabled(through):
                x = leaf(x_t) if through else x_t.detach()
                prediction = fitted(denoise(x, level), x)
            grad = scale * self(x, level, prediction)
            plain = _detached(prediction)
            plain = replace(plain, gradients=plain.gradients + self.gradients(level))
            return _FORMS[form](plain, grad, x_t, level)

        return steered

    def __call__(self, x_t: Tensor, level: Level, prediction: Prediction) -> Tensor:
        """Return grad log p(target | x_t), like x_t; zero, at no cost, where no field acts.

        Parameters
        ----------
        x_t, level, prediction
            Noisy samples [B, ...], their noise level, and the denoiser's answer for them.

        Raises
        ------
        GuidanceError
            If a field returns another shape, or cannot differentiate its model.
        """
        self._check(x_t, level)
        total = torch.zeros_like(x_t, requires_grad=False)
        for term in self._active(level):
            grad = term.field(x_t, level, prediction)
            if not isinstance(grad, Tensor) or grad.shape != x_t.shape:
                raise GuidanceError(
                    f"a gradient field returned {shown(grad)} for x_t {list(x_t.shape)}"
                )
            active = per_image(term.active(level), grad).bool()
            weighted = torch.where(active, term.weight * grad.detach(), 0)  # 0, not 0 * nan
            total = total + weighted.to(total.dtype)
        return total


def _end(name: str, end: Any) -> float | Tensor:
    """One end of a range: a number, or float64 [B] on the CPU, as levels are."""
    if isinstance(end, Real) and end == end:
        return end
    try:
        ends = as_reals(name, end)
    except ScheduleError as error:
        raise GuidanceError(str(error)) from None
    if ends.ndim > 1 or bool(ends.isnan().any()):
        raise GuidanceError(f"{name} must be a timestep, or one for each sample, not {end!r}")
    return ends if ends.ndim else float(ends)


def _larger(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    """The larger of two numbers; for each sample where one is a tensor."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.maximum(as_reals("an end", a), as_reals("an end", b))
    return max(a, b)


def _finite(scale: float) -> float:
    """The scale as Python's float, if it is a finite number."""
    try:
        if isinstance(scale, Real) and math.isfinite(scale):
            return float(scale)
    except OverflowError:  # of an int beyond all floats
        pass
    raise GuidanceError(f"a guidance scale must be a finite number, not {scale!r}")


def gradient_field(field: Field) -> Guide:
    """Make a guide of a function that returns the gradient itself.

    Parameters
    ----------
    field
        `(x_t [B, ...], level, prediction) -> grad log p(target | x_t)`, like x_t.
    """
    return Guide((WeightedField(field),))


def leaf(x: Tensor) -> Tensor:
    """Return `x` as the beginning of a graph; `GuidanceError` in inference mode, which has none."""
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise GuidanceError(
            "nothing can be differentiated in torch.inference_mode: use torch.no_grad instead, "
            "around x_T and sample()"
        )
    return x.detach().requires_grad_()


def _score_form(prediction: Prediction, grad: Tensor, x_t: Tensor, level: Level) -> Prediction:
    """eps' = eps - sigma * grad, and the x0 that follows."""
    alpha, sigma = level.scales(x_t)
    eps = prediction.eps - sigma * grad
    return replace(prediction, x0=prediction.x0 + sigma**2 / alpha * grad, eps=eps)


def _mean_form(prediction: Prediction, grad: Tensor, x_t: Tensor, level: Level) -> Prediction:
    """The gradient beside the prediction, for the ddpm step."""
    return replace(prediction, shift=grad if prediction.shift is None else prediction.shift + grad)


_FORMS = {"score": _score_form, "mean": _mean_form}


def guided(denoise: Denoise, guide: Guide, scale: float = 1.0, form: str = "score") -> Denoise:
    """Steer a denoiser by `scale` times a guide, and return a denoiser.

    It evaluates `denoise` exactly once. Clip before guidance, as ADM does:
    `guided(clipped(denoise), guide)`.

    Parameters
    ----------
    denoise
        `(x_t [B, ...], level) -> Prediction`.
    guide
        Made by `at_xt`, `at_x0` or `gradient_field`, or a sum of such.
    scale
        A finite number; 1 makes an exact classifier's guidance the conditional denoiser.
    form
        "score" rewrites eps' = eps - sigma * scale * grad, and x0 with it (ADM's algorithm 2: DDIM
        and every ODE solver). "mean" leaves both and hands scale * grad to the ddpm step, which
        adds Sigma times it to its mean (algorithm 1); every other step refuses it. The forms are
        not equally strong.

    Returns
    -------
    Denoise
        It counts the gradients that it computes in `Prediction.gradients`.

    Raises
    ------
    GuidanceError
        For a guide that is none, a scale that is not finite, or an unknown form.
    """
    if not isinstance(guide, Guide):
        raise GuidanceError(
            f"the second argument of guided(denoise, guide) is a Guide, as at_xt, at_x0 and "
            f"gradient_field make them, not a {type(guide).__name__}"
        )
    return guide.steer(denoise, scale, form)


def _detached(prediction: Prediction) -> Prediction:
    """The prediction without its graph."""

    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.detach()

    return replace(
        prediction,
        x0=prediction.x0.detach(),
        eps=prediction.eps.detach(),
        v=cut(prediction.v),
        shift=cut(prediction.shift),
    )
