"""Samplers know no images: a state is any tensor [B, ...], and its values have no range."""

import pytest
import torch

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.guidance import gradient_field, guided
from ppap_lib.samplers import SOLVERS, adaptive, analytic_ddim, ddpm, sample

LINEAR = Schedule.linear()
MEANS = 5 * torch.randn(3, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SHAPES = [(4, 6), (24,), (2, 2, 2, 3)]  # a series, a vector, a volume
SEEDS = range(5)


def end(shape, make, form="score"):
    """Where a guided walk ends [B, 24], if states have this shape."""
    mixture = Mixture(MEANS.view(3, *shape), [0.3, 0.5, 0.2])
    toward = gradient_field(lambda x, level, prediction: 0.1 * (mixture.means[0] - x))
    noise = Noise(SEEDS, shape)
    x0 = sample(
        guided(mixture.denoise, toward, 1.0, form), noise(), LINEAR.grid("6"), make(mixture), noise
    )
    assert x0.shape == (len(SEEDS), *shape) and float(x0.abs().max()) > 5
    return x0.flatten(1)


def alike(make, **options):
    images = end((1, 4, 6), make, **options)
    for shape in SHAPES:
        torch.testing.assert_close(end(shape, make, **options), images, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_any_shape_is_sampled_as_images_are(name):
    alike(lambda mixture: SOLVERS[name].make(LINEAR))


def test_the_adaptive_solver_in_any_shape():
    alike(lambda mixture: adaptive(LINEAR))


def test_mean_form_guidance_in_any_shape():
    alike(lambda mixture: ddpm(lambda posterior, prediction: posterior.beta.log()), form="mean")


def test_a_variance_is_estimated_in_any_shape():
    def make(mixture):
        x0, _ = mixture.sample(10, torch.Generator().manual_seed(1))
        eps = Noise(range(10), x0.shape[1:])()
        return analytic_ddim(mixture.denoise, x0, eps, LINEAR.grid("6"))

    alike(make)
