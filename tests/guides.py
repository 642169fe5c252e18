"""What tests of guidance share: a mixture with labels, readers of it, and a constant guide."""

import torch
from torch import nn

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.guidance import gradient_field
from ppap_lib.guidance.tasks import Classification

LINEAR = Schedule.linear()
TASK = Classification()


def hills():
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(4, 1, 2, 2, generator=generator, dtype=torch.float64)
    return Mixture(means, [0.3, 0.2, 0.25, 0.15], [0.4, 0.3, 0.1, 0.2], [0, 1, 1, 2])


def noisy(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 2, 2, generator=generator, dtype=torch.float64)


TARGET = torch.tensor([0, 1, 2, 0, 1, 2])


def linear_reader():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()


def constant(value=1.0):
    return gradient_field(lambda x_t, level, prediction: torch.full_like(x_t, value))
