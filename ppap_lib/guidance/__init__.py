"""Plug-and-play guidance: gradient fields of vision models, and denoisers steered by them.

A guide is `(x_t, level, prediction) -> grad log p(target | x_t)`. `guided` turns a denoiser and
a guide into a denoiser again, so every sampler works with and without guidance.
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
