"""`Diffusion`: a denoiser with the schedule, shape and range that sampling needs to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import Denoise, clipped
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.schedules import Schedule


@dataclass(frozen=True, eq=False)
class Diffusion:
    """A diffusion model, with all that sampling needs besides seeds and a solver.

    Parameters
    ----------
    denoise
        `(x_t [B, *shape], level) -> Prediction`.
    schedule
        The noise schedule that the model was trained with.
    shape
        Shape of one sample, such as (C, H, W), (C, L) or (D,).
    bounds
        Range of the data, to which x0 is clamped before guidance, and samples at the end; None for
        data without a range, such as latents and series.
    decode
        From samples to images, for latents.
    device
        Device of the model, where noise is put.
    within_bounds
        Whether `denoise` keeps x0 within the bounds already.
    """

    denoise: Denoise
    schedule: Schedule
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    device: torch.device | str = "cpu"
    within_bounds: bool = False

    def clipped(self) -> Diffusion:
        """Return the model with x0 clamped to its bounds, or itself where it has none."""
        if self.bounds is None or self.within_bounds:
            return self
        return replace(self, denoise=clipped(self.denoise, *self.bounds), within_bounds=True)

    def guided(self, guide: Any, scale: float = 1.0, form: str = "score") -> Diffusion:
        """Return the clipped model, steered by a guide.

        Parameters
        ----------
        guide
            A `ppap_lib.guidance.Guide`.
        scale
            Factor of the guide's gradient.
        form
            "score" or "mean"; see `ppap_lib.guidance.guided`.
        """
        inner = self.clipped()
        return replace(inner, denoise=guide.steer(inner.denoise, scale, form))

    def grid(self, spacing: str | int | Sequence[float] = "") -> tuple[Level, ...]:
        """Return the levels of a respacing, from the noisiest to clean.

        Parameters
        ----------
        spacing
            Such as 25 or "ddim25"; see `Schedule.grid`.
        """
        return self.schedule.grid(spacing)
