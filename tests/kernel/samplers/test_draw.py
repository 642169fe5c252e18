"""Generated images depend on their seeds and on nothing else."""

import pytest
import torch

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.guidance import at_xt, guided
from ppap_lib.guidance.tasks import Classification
from ppap_lib.samplers import ddim
from ppap_lib.samplers.draw import batches, generate, usual_batch

SHAPE = (1, 2, 2)
GRID = Schedule.linear().grid("ddim5")
MIXTURE = Mixture(
    torch.tensor([[[[0.5, 0.1], [0.2, -0.3]]], [[[-0.5, 0.3], [0.0, 0.4]]]]), [0.1, 0.2]
)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_any_batch_size_gives_the_same_images_bitwise(eta):
    runs = [
        generate(MIXTURE.denoise, SHAPE, range(7), GRID, ddim(eta), batch=size)
        for size in (1, 3, 7)
    ]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])
    reordered = generate(MIXTURE.denoise, SHAPE, [5, 2], GRID, ddim(eta))
    assert torch.equal(reordered, runs[0][[5, 2]])


def test_steering_sees_the_seeds_of_its_batch():
    """Guidance to each seed's own class, split anyhow, is guidance of the whole."""

    def steer(seeds):
        guide = at_xt(MIXTURE, Classification(), seed_labels(seeds, 2))
        return guided(MIXTURE.denoise, guide, 4.0)

    runs = [
        generate(steer, SHAPE, range(6), GRID, ddim(), steered=True, batch=size) for size in (4, 6)
    ]
    assert torch.equal(*runs)
    classes = MIXTURE.log_posterior(runs[0].double(), Schedule.linear().at(0)).argmax(1)
    assert classes.tolist() == [0, 1] * 3


def test_images_keep_the_pixel_contract_and_progress_is_told():
    bright = Mixture(torch.full((1, *SHAPE), 5.0), [0.1])
    told = []
    images = generate(bright.denoise, SHAPE, range(5), GRID, ddim(), batch=2, done=told.append)
    assert images.dtype == torch.float32 and bool((images == 1).all())
    assert told == [2, 2, 1]


def test_a_gpu_is_given_as_many_pixels_as_it_holds():
    assert usual_batch("cpu", (3, 256, 256)) == usual_batch("cpu", (1, 32, 32)) == 32
    assert usual_batch("cuda", (3, 256, 256)) == 64 and usual_batch("cuda", (1, 32, 32)) == 256
    assert usual_batch("cuda", (3, 4096, 4096)) == 1


def test_empty_requests_are_refused():
    with pytest.raises(InputError, match="no seeds"):
        generate(MIXTURE.denoise, SHAPE, [], GRID, ddim())
    with pytest.raises(InputError, match="at least one image, not 0"):
        list(batches([1], 0))
