"""Plug-and-play guidance: gradient fields of vision models, and denoisers steered by them.

A guide is `(x_t, level, prediction) -> grad log p(target | x_t)`. `guided` turns a denoiser and
a guide into a denoiser again, so every sampler works with and without guidance.

Two hills at -1 and 1, and a point between them that the exact classifier steers to the second:

>>> import torch
>>> from ppap_lib.diffusion.analytic import Mixture
>>> from ppap_lib.diffusion.schedules import Schedule
>>> from ppap_lib.guidance import guide, guided
>>> hills = Mixture(torch.tensor([[-1.0], [1.0]]), stds=[0.1, 0.1])
>>> level, x_t = Schedule.linear().at(300), torch.zeros(1, 1, dtype=torch.float64)
>>> hills.denoise(x_t, level).x0.item()
0.0
>>> second = guide(hills, target=1)
>>> round(guided(hills.denoise, second)(x_t, level).x0.item(), 1)
1.0
"""

from ppap_lib.guidance.fields import (
    Model,
    NoiseAware,
    TimeConditioned,
    at_x0,
    at_xt,
    guide,
    model_at,
)
from ppap_lib.guidance.guides import Field, Guide, WeightedField, gradient_field, guided
from ppap_lib.guidance.tasks import Classification, Task

__all__ = [
    "Classification",
    "Field",
    "Guide",
    "Model",
    "NoiseAware",
    "Task",
    "TimeConditioned",
    "WeightedField",
    "at_x0",
    "at_xt",
    "gradient_field",
    "guide",
    "guided",
    "model_at",
]
