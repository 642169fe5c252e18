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
    """A diffusion model: what to sample from it takes besides seeds and a solver.

    Parameters
    ----------
    denoise
        `(x_t [B, *shape], level) -> Prediction`.
    schedule
        The noise schedule that it was trained with.
    shape
        Of one sample, such as (C, H, W) or (C, L).
    bounds
        The range of the data, if they have one: x0 is clamped to it before guidance, and what is
        drawn at the end. None for latents and series.
    decode
        From samples to images, for latents.
    device
        Where noise is to be put.
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
        """The model with x0 clamped to its bounds and eps recomputed; itself if it has none."""
        if self.bounds is None or self.within_bounds:
            return self
        return replace(self, denoise=clipped(self.denoise, *self.bounds), within_bounds=True)

    def guided(self, guide: Any, scale: float = 1.0, form: str = "score") -> Diffusion:
        """The clipped model steered by `scale` times a `Guide`; see `ppap_lib.guidance.guided`."""
        inner = self.clipped()
        return replace(inner, denoise=guide.steer(inner.denoise, scale, form))

    def grid(self, spacing: str | int | Sequence[float] = "") -> tuple[Level, ...]:
        """The levels of a respacing, from the noisiest to the clean end; see `Schedule.grid`."""
        return self.schedule.grid(spacing)
