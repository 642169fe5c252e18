"""`Vision`: the preprocessing that travels with a classifier."""

import pytest
import torch
from torch import nn

from ppap_lib import zoo
from ppap_lib.data.pixels import check_images, from_unit
from ppap_lib.diffusion.noise import Noise
from ppap_lib.errors import InputError
from ppap_lib.networks.vision import Vision

NAMES = ("a", "b", "c")


class Mean(nn.Module):
    def forward(self, x):
        return x.flatten(2).mean(2)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (1, 32, 32), (3, 20, 30), (3, 7, 7)])
def test_any_size_and_channel_count_is_eaten(shape):
    for channels in (1, 3):
        seen = Vision(Mean(), 32, channels, NAMES).prepare(torch.rand(2, *shape) * 2 - 1)
        assert seen.shape == (2, channels, 32, 32)
        check_images(seen)


def test_it_normalises_in_the_contract_s_units():
    vision = Vision(Mean(), 4, 3, NAMES, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    out = vision(torch.full((1, 1, 4, 4), 0.5))
    torch.testing.assert_close(out, torch.tensor([[0.8, 0.3, 0.1]]))
    assert not vision.state_dict()  # the statistics belong to the card, not to the weights


def test_statistics_of_unit_pixels_mean_the_same():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = Vision.of_unit(Mean(), 4, 3, NAMES, mean, std).prepare(from_unit(pixels))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    torch.testing.assert_close(found, (pixels - mean) / std)


def test_what_is_not_square_is_padded_with_black():
    seen = Vision(Mean(), 4, 1, NAMES).prepare(torch.ones(1, 1, 2, 4))
    assert seen[0, 0].tolist() == [[-1] * 4, [1] * 4, [1] * 4, [-1] * 4]


def test_it_is_differentiable_also_beyond_the_contract():
    torch.manual_seed(0)
    vision = Vision(Mean(), 20, 3, NAMES)
    for scale in (1.0, 4.0):  # x_t of noisy steps reaches far beyond [-1, 1]
        x = (torch.randn(1, 1, 28, 28, dtype=torch.float64) * scale).requires_grad_()
        (gradient,) = torch.autograd.grad(vision(x).sum(), x)
        assert (gradient != 0).float().mean() > 0.9


def test_images_are_read_in_the_network_s_dtype():
    """What `sample` returns, float64, goes straight into a network of the zoo."""
    judge, drawn = zoo.load("fashion/judge"), Noise(range(2), (1, 32, 32))()
    assert torch.equal(judge(drawn), judge(drawn.float()))


def test_any_output_passes_where_there_are_no_classes():
    class Depth(nn.Module):
        def forward(self, x):
            return {"depth": x[:, 0], "features": (x, None)}

    found = Vision(Depth(), 8, 3)(torch.zeros(2, 1, 16, 16))
    assert found["depth"].shape == (2, 8, 8) and found["features"][1] is None
    with pytest.raises(InputError, match="returned a dict for 2 images and 3 classes"):
        Vision(Depth(), 8, 3, NAMES)(torch.zeros(2, 1, 16, 16))


def test_what_does_not_fit_is_refused():
    for statistics in ({"mean": (0.0, 0.1)}, {"std": (1.0, 1.0)}):
        with pytest.raises(InputError, match=r"2 values as (mean|std): expected 1 or 3"):
            Vision(Mean(), 4, 3, NAMES, **statistics)
    with pytest.raises(InputError, match="std must be positive"):
        Vision(Mean(), 4, 3, NAMES, std=(0.0,))
    vision = Vision(Mean(), 4, 3, NAMES[:2])
    with pytest.raises(InputError, match=r"\[5, 3\] for 5 images and 2 classes"):
        vision(torch.zeros(5, 1, 4, 4))
    with pytest.raises(InputError, match="not torch.uint8: use data.pixels.from_bytes"):
        vision(torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
