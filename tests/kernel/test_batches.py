"""An image depends on its seed alone, whatever is drawn beside it, by every method of guidance."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from ppap_lib import zoo
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.guidance import at_x0, at_xt
from ppap_lib.guidance.tasks import Classification
from ppap_lib.samplers.draw import draw

load = cache(zoo.load)
METHODS = {
    "none": None,
    "naive": ("resnet18", at_xt, {}),
    "x0, eps fixed": ("resnet18", at_x0, {"through": False}),
    "x0, through the denoiser": ("resnet18", at_x0, {"through": True}),
    "single": ("single-resnet18", at_xt, {}),
    "multi5": ("multi5-resnet18", at_xt, {}),
    "ppap5": ("ppap5-resnet18", at_xt, {}),
    "ppap10": ("ppap10-vit", at_xt, {}),
}


def steering(method):
    """From seeds to the denoiser that is steered towards the class of each."""
    denoiser = load("fashion/denoiser")
    if METHODS[method] is None:
        return denoiser.clipped()
    name, read, how = METHODS[method]
    reader = load(f"fashion/{name}")

    def model_for(seeds):
        guide = read(reader, Classification(), seed_labels(seeds, 10), **how)
        return denoiser.guided(guide, scale=7.5)

    return model_for


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_the_same_in_every_company(method):
    """Two batches, the second filled up, against few images, others, and another order."""
    model, seeds = steering(method), list(range(17))
    images = draw(model, seeds, steps=2)
    for others in ([16, 40, 9], seeds[15::-1]):
        again = draw(model, others, steps=2)
        own = [place for place, seed in enumerate(others) if seed in seeds]
        assert torch.equal(again[own], images[[others[place] for place in own]])


def test_the_sharpest_guide_draws_one_image_as_it_draws_eight():
    """25 steps through the denoiser, whose every rounding grows a millionfold."""
    model = steering("x0, through the denoiser")
    images = draw(model, range(8), steps=25, batch=2)
    assert images.flatten(1).std(0).mean() > 0.1
    for seed in range(8):
        assert torch.equal(draw(model, [seed], steps=25, batch=2)[0], images[seed])


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("method", ["none", "x0, through the denoiser"])
def test_threads_do_not_cut_an_image(threads, method, count):
    """Three threads cut 16 samples at a third and two thirds, two of them apart."""
    threads(count)
    model, seeds = steering(method), list(range(16))
    images = draw(model, seeds, steps=2)
    assert torch.equal(draw(model, seeds[::-1], steps=2).flip(0), images)
    assert torch.get_num_threads() == count


def test_threads_are_put_back_after_an_error(threads):
    threads(3)

    def breaks(x_t, level):
        assert torch.get_num_threads() == 2
        raise InterruptedError

    with pytest.raises(InterruptedError):
        draw(replace(steering("none"), denoise=breaks), [0])
    assert torch.get_num_threads() == 3
