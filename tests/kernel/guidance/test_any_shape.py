"""Guidance of samples that are no images, by outputs that are no logits."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.denoisers import x0_model
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.experts import full_copies
from ppap_lib.experts.intervals import Intervals
from ppap_lib.guidance import at_x0, at_xt, guide, guided
from ppap_lib.samplers import ddim, sample

LINEAR = Schedule.linear()
SHAPES = [(5,), (2, 4), (1, 2, 3)]


@dataclass(frozen=True)
class Regression:
    """A task from outside: how near a number, read from a dict, is to another."""

    std: float = 1.0

    def log_prob(self, output, target):
        return -((output["value"] - target) ** 2).sum(-1) / (2 * self.std**2)

    def divergence(self, student, teacher):
        return ((student["value"] - teacher["value"]) ** 2).sum(-1) / 2


class Reader(nn.Module):
    """The sum of a sample, as a dict."""

    def forward(self, x):
        return {"value": x.flatten(1).sum(1, keepdim=True)}


def draws(shape, count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("read", ["x_t", "x0"])
@pytest.mark.parametrize("through", [True, False])
def test_gradients_are_those_of_the_task_for_any_shape(shape, read, through):
    """Against the gradients by hand, for one level and for one a sample."""
    x_t, target = draws(shape), torch.tensor([[1.0], [2.0], [-3.0]])
    network = x0_model(lambda x, t: 0.5 * x)
    by_task = guide(Reader().eval(), target, read, Regression(2.0), through, bounds=None)
    for level in (LINEAR.at(300), LINEAR.at(torch.tensor([10, 300, 700]))):
        alpha, sigma = level.scales(x_t)
        shift = guided(network, by_task)(x_t, level).eps - network(x_t, level).eps
        reading = x_t if read == "x_t" else 0.5 * x_t
        inner = 1.0 if read == "x_t" else 0.5 if through else 1 / alpha
        each = (target - reading.flatten(1).sum(1, keepdim=True)) / 4
        expected = each.view(-1, *[1] * len(shape)) * inner
        torch.testing.assert_close(
            -shift / sigma, (expected * torch.ones_like(x_t)), rtol=1e-4, atol=1e-5
        )


def test_x0_is_clamped_to_the_bounds_that_are_given():
    x_t, level = draws((4,)), LINEAR.at(0)
    seen = []

    def reader(x):
        seen.append(x.detach())
        return {"value": x}

    for bounds, most in (((-1.0, 1.0), 1.0), ((-0.5, 0.5), 0.5), (None, None)):
        by_task = at_x0(reader, Regression(), 0.0, through=False, bounds=bounds)
        x0 = 3 * torch.ones_like(x_t)
        guided(x0_model(lambda x, t, x0=x0: x0), by_task)(x_t, level)
        assert seen.pop().abs().max() == (3.0 if most is None else most)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_experts_guide_samples_of_any_shape_to_where_their_task_says(shape):
    hills = Mixture(torch.zeros(1, *shape), [1.0])
    experts = full_copies(Reader(), Intervals(1000, 5)).eval()
    x_T, grid = Noise(range(4), shape)(), LINEAR.grid("ddim25")
    # Below 500, since a sum of x_t is no sum of x0 where alpha is small.
    steered = guided(hills.denoise, at_xt(experts, Regression(6.0), 6.0).during(0, 500), 4.0)
    plain, guided_to = (
        sample(denoise, x_T, grid, ddim()).flatten(1).sum(1) for denoise in (hills.denoise, steered)
    )
    assert ((guided_to - 6).abs() < 0.5 * (plain - 6).abs()).all(), (plain, guided_to)


def test_the_divergence_of_any_task_is_its_own():
    x = draws((4,))
    outputs = Reader()(x), Reader()(x + 1)
    torch.testing.assert_close(Regression().divergence(*outputs), torch.full((3,), 8.0).double())
