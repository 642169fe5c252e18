"""Denoisers know no images: states are tensors [B, ...] of any shape."""

import pytest
import torch
from torch import Tensor

from ppap_lib.diffusion.analytic import Gaussian, Mixture
from ppap_lib.diffusion.denoisers import ADAPTERS, Prediction, clipped
from ppap_lib.diffusion.levels import per_image
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.guidance import gradient_field

SCHEDULE = Schedule.linear()
SHAPES = [(6,), (2, 3), (1, 2, 3), (2, 1, 3, 1)]  # a vector, a series, an image, a volume
LEVELS = [SCHEDULE.at(333.3), SCHEDULE.at(torch.tensor([3, 400, 999]))]


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("level", LEVELS, ids=["one", "one each"])
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_take_any_shape(shape, kind, level, learned_variance):
    x0, eps, fraction = (states(*shape, seed=seed) for seed in range(3))
    alpha, sigma = level.scales(x0)
    out = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[kind]
    full = torch.cat([out, fraction], 1) if learned_variance else out
    x_t = level.noised(x0, eps)
    denoise = ADAPTERS[kind](lambda x, t: full, learned_variance)
    prediction = denoise(x_t, level)
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=1e-11)
    torch.testing.assert_close(prediction.eps, eps, rtol=0, atol=1e-11)
    assert prediction.v is None or torch.equal(prediction.v, (fraction + 1) / 2)
    bounded = clipped(denoise, -0.5, 0.5)(x_t, level)
    torch.testing.assert_close(level.noised(bounded.x0, bounded.eps), x_t)
    assert float(bounded.x0.abs().max()) == 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_an_undeclared_variance_is_guessed_in_any_shape(shape):
    denoise = ADAPTERS["eps"](lambda x, t: torch.cat([x, x], 1))
    with pytest.raises(InputError, match="looks like ADM's learned variance"):
        denoise(states(*shape), LEVELS[0])


@pytest.mark.parametrize("level", LEVELS, ids=["one", "one each"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_denoisers_are_one_function_of_the_numbers(shape, level):
    means, x_t = states(6, seed=3), states(6, seed=4)
    flat, shaped = (Mixture(means.view(3, *form), [0.3, 0.5, 0.2]) for form in ((6,), shape))
    expected, prediction = flat.denoise(x_t, level), shaped.denoise(x_t.view(3, *shape), level)
    for name in ("x0", "eps"):
        found = getattr(prediction, name)
        assert found.shape == (3, *shape)
        torch.testing.assert_close(found.flatten(1), getattr(expected, name))
    x0, labels = shaped.sample(7, torch.Generator().manual_seed(0))
    assert x0.shape == (7, *shape) and labels.shape == (7,)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_one_stream_of_numbers_a_seed(shape):
    first, same = Noise([4, 7], (6,)), Noise([4, 7], shape)
    for _ in range(2):
        assert torch.equal(same().flatten(1), first())


def test_a_model_without_bounds_is_not_clipped():
    """Latents and series leave [-1, 1]; only a model with bounds is kept within them."""
    wide = Gaussian(torch.full((2, 5), 30.0), 1.0)
    free = Diffusion(wide.denoise, SCHEDULE, (2, 5))
    bounded = Diffusion(wide.denoise, SCHEDULE, (2, 5), bounds=(0.0, 20.0))
    assert free.clipped() is free
    x_t, level = states(2, 5), LEVELS[0]
    nothing = gradient_field(lambda x, level, prediction: torch.zeros_like(x))
    for model, inside in ((free, False), (bounded, True)):
        assert (float(model.guided(nothing).denoise(x_t, level).x0.max()) <= 20) == inside
    once = bounded.clipped()
    assert once.clipped() is once and float(once.denoise(x_t, level).x0.max()) == 20


def test_a_scale_for_all_is_not_copied_to_the_device():
    """The meta device stands for one: a number joins its tensors from the CPU."""
    x_t = torch.zeros(3, 2, 4, device="meta")
    alpha, sigma = LEVELS[0].scales(x_t)
    assert (alpha.device.type, alpha.dtype, sigma.ndim) == ("cpu", torch.float32, 0)
    prediction = ADAPTERS["eps"](lambda x, t: x)(x_t, LEVELS[0])
    assert prediction.x0.device.type == "meta"
    assert LEVELS[0].times(x_t).device.type == "meta"
    each = per_image(torch.ones(3), x_t)
    assert (each.device.type, each.shape) == ("meta", (3, 1, 1))
    assert Prediction(x_t, x_t).with_x0(x_t, x_t, LEVELS[0]).eps.device.type == "meta"
