"""Small models and states for tests of what people do to software."""

import torch
from torch import nn

from ppap_lib.diffusion.denoisers import Prediction, eps_model
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.guidance.tasks import Classification
from ppap_lib.networks.adm import Architecture
from ppap_lib.samplers import ddim, sample

LINEAR = Schedule.linear()
LEVEL, LEVELS = LINEAR.at(300), LINEAR.at([10, 300, 600, 900])
X = torch.linspace(-1, 1, 4 * 3 * 8 * 8, dtype=torch.float64).view(4, 3, 8, 8)
TASK = Classification()
TINY = Architecture(3, 32, 3, 1, (2,), channel_mult=(1, 2))


def head(classes: int = 5) -> nn.Module:
    """A classifier of images of any size."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    ).eval()


def predict(x_t, level) -> Prediction:
    return eps_model(lambda x, t: 0.1 * x)(x_t, level)


def run(denoise=predict, x_T=X, step=None, grid=None, noise=None):
    noise = (lambda: torch.ones_like(x_T)) if noise is None else noise
    return sample(denoise, x_T, LINEAR.grid(4) if grid is None else grid, step or ddim(), noise)
