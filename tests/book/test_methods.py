"""Guidance methods by name: the same as built by hand from the library's parts."""

import pytest
import torch

from ppap_book.errors import StudyError
from ppap_book.paper_tables import rows
from ppap_book.studies import methods
from ppap_lib import zoo
from ppap_lib.diffusion.noise import Noise
from ppap_lib.errors import WeightsError
from ppap_lib.guidance import at_x0, at_xt, guided
from ppap_lib.guidance.tasks import Classification

PART = range(3, 7)
LEVEL = zoo.schedule("fashion/denoiser").at(300)


@pytest.fixture(scope="module")
def x_t():
    return Noise(PART, (1, 32, 32))()


@pytest.fixture(scope="module")
def denoise():
    return zoo.load("fashion/denoiser").clipped().denoise


@pytest.fixture(scope="module")
def resnet():
    return zoo.load("fashion/resnet18")


@pytest.mark.parametrize(
    ("method", "by_hand"),
    [
        ("naive", lambda model, target: at_xt(model, Classification(), target)),
        ("x0_fixed", lambda model, target: at_x0(model, Classification(), target, False)),
        ("x0_through", lambda model, target: at_x0(model, Classification(), target, True)),
    ],
)
def test_a_method_is_what_it_says(method, by_hand, x_t, denoise, resnet):
    target = torch.tensor([3, 4, 5, 6])  # seed modulo classes
    expected = guided(denoise, by_hand(resnet, target), 2.0)(x_t, LEVEL)
    found = methods.steering(method, scale=2.0)(PART).denoise(x_t, LEVEL)
    assert torch.equal(found.eps, expected.eps)
    assert not torch.equal(found.eps, denoise(x_t, LEVEL).eps)


def test_without_guidance_and_outside_its_timesteps_nothing_is_steered(x_t, denoise):
    plain = denoise(x_t, LEVEL).eps
    assert torch.equal(methods.steering("none")(PART).denoise(x_t, LEVEL).eps, plain)
    later = methods.steering("naive", during=(301, 1000))(PART).denoise(x_t, LEVEL)
    assert torch.equal(later.eps, plain) and later.gradients == 0
    assert methods.steering("naive", during=(300, 301))(PART).denoise(x_t, LEVEL).gradients == 1


def test_a_given_model_takes_the_place_of_the_method_s_own(x_t, resnet):
    class Opposite(torch.nn.Module):
        def forward(self, x):
            return -resnet(x.float())

    given = methods.steering("naive", model=Opposite().eval())(PART).denoise(x_t, LEVEL).eps
    assert not torch.equal(given, methods.steering("naive")(PART).denoise(x_t, LEVEL).eps)


@pytest.mark.parametrize("tier", ["fashion", "tin10"])
@pytest.mark.parametrize("guide", ["resnet18", "vit"])
def test_methods_are_listed_with_weights_that_ship(guide, tier):
    there = methods.installed(guide, tier)
    assert there[0] == "none" and set(there) <= set(methods.METHODS)
    for method in methods.METHODS:
        name = methods.weights_of(method, guide, tier)
        assert (method in there) == (name is None or zoo.obtainable(name))
        if method in there and name is not None:
            record = methods.provenance(method, guide, tier)
            assert record["guide_sha256"] == zoo.card(name).sha256
            assert record["denoiser_sha256"] == zoo.card(f"{tier}/denoiser").sha256


def test_a_guide_of_another_tier_is_refused():
    with pytest.raises(StudyError, match="no guide 'resnet50': there are resnet18, vit$"):
        methods.installed("resnet50")


def test_the_off_the_shelf_guide_has_no_experts_that_need_labels():
    there = methods.installed("lite0", "tin10")
    assert there[:4] == ["none", "naive", "x0_fixed", "x0_through"]
    assert set(there[4:]) <= {"ppap5"}


def test_every_method_has_its_row_in_the_published_table():
    published = {row["guidance"] for row in rows("ppap_table")}
    ours = {found.published for found in methods.METHODS.values() if found}
    assert published == ours | {"none"}


def test_unknown_methods_are_refused():
    with pytest.raises(StudyError, match="no guidance method 'nave': there are none, "):
        methods.steering("nave")
    with pytest.raises(StudyError, match="no model reads"):
        methods.reader("none", "resnet18")
    with pytest.raises(WeightsError, match="'fashion/ppap5-resnet' in the zoo: did you mean"):
        methods.steering("ppap5", "resnet")


@pytest.mark.parametrize("retired", [{"method": "ppap3"}, {"guide": "resnet50"}, {"tier": "mnist"}])
def test_a_row_of_what_there_is_no_more_is_not_current(retired):
    made = {"method": "naive", "guide": "resnet18", "tier": "fashion"}
    made |= methods.provenance(*made.values())
    assert methods.is_current(made)
    assert not methods.is_current(made | retired)
