"""Guides, models and ranges that cannot guide, and what is said of them."""

import pytest
import torch
from guides import LINEAR, TARGET, TASK, constant, hills, linear_reader, noisy
from torch import nn

from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.errors import GuidanceError
from ppap_lib.guidance import Guide, TimeConditioned, at_x0, at_xt, gradient_field, guided


def test_scales_forms_and_ranges():
    plain, guide = hills().denoise, constant()
    with pytest.raises(GuidanceError, match="finite number, not nan"):
        guided(plain, guide, float("nan"))
    with pytest.raises(GuidanceError, match="'score' or 'mean', not 'median'"):
        guided(plain, guide, form="median")
    with pytest.raises(GuidanceError, match="empty interval: start 400 must be below stop 400"):
        guide.during(400, 400)
    with pytest.raises(GuidanceError, match="finite number, not inf"):
        guide * float("inf")
    for scale in ("7", torch.tensor(7.0), None):
        with pytest.raises(GuidanceError, match="a guidance scale must be a finite number, not"):
            guided(plain, guide, scale)
    ends = torch.tensor([0.0, 0.4])
    for fractions in ((0.0, 0.4), (0.5, 1.0), (-5, 0), (200.1, 200.9), tuple(ends)):
        with pytest.raises(GuidanceError, match="has no timestep: .* not fractions"):
            guide.during(*fractions)
    assert guide.during(0, 1).gradients(LINEAR.at(0)) == 1


def test_what_is_no_guide():
    with pytest.raises(GuidanceError, match=r"guided\(denoise, guide\) is a Guide.*not a function"):
        guided(constant(), lambda x_t, level: Prediction(x_t, x_t))


def test_fields_and_models():
    x_t, level = noisy(), LINEAR.at(300)
    with pytest.raises(GuidanceError, match=r"gradient field returned \[6\]"):
        gradient_field(lambda x, level, p: x[:, 0, 0, 0])(x_t, level, None)
    with pytest.raises(GuidanceError, match="does not depend on its input differentiably"):
        at_xt(lambda x: x.detach().flatten(1), TASK, TARGET)(x_t, level, None)
    prediction = Prediction(x_t, x_t)
    with pytest.raises(GuidanceError, match="no graph back to x_t"):
        at_x0(lambda x: x.flatten(1), TASK, TARGET, through=True)(x_t, level, prediction)


def test_a_model_with_parameters_that_detaches():
    head, x_t, level = linear_reader(), noisy(), LINEAR.at(300)
    for guide in (
        at_xt(lambda x: head(x.detach()), TASK, TARGET),
        at_x0(lambda x: head(x.detach()), TASK, TARGET, through=False),
        at_x0(lambda x: head(x.detach()), TASK, TARGET, through=True),
    ):
        with pytest.raises(GuidanceError, match="does not depend on its input differentiably"):
            guided(hills().denoise, guide)(x_t, level)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "read", [at_xt, lambda *what: at_x0(*what, True), lambda *what: at_x0(*what, False)]
)
def test_inference_mode(read, inside):
    """Around the sampler, or only around its start."""
    with torch.inference_mode():
        x_t = noisy()
    guide, level = read(linear_reader(), TASK, TARGET), LINEAR.at(300)
    with (
        torch.inference_mode(inside),
        pytest.raises(GuidanceError, match="use torch.no_grad instead"),
    ):
        guided(lambda x, level: Prediction(x, x), guide)(x_t, level)


def test_models_in_train_mode():
    """Batch norms would guide by the batch's statistics, and move their own."""
    norm = nn.BatchNorm2d(1)
    network = nn.Sequential(norm, nn.Flatten(), nn.Linear(4, 3))

    class Timed(nn.Module):
        def forward(x, t):
            return network(x)

    x_t, level = noisy(), LINEAR.at(300)
    prediction = Prediction(x_t, x_t)
    guides = (
        at_xt(network, TASK, TARGET),
        at_xt(TimeConditioned(Timed()), TASK, TARGET),
        at_x0(network, TASK, TARGET, through=False),
    )
    refusal = r"in train mode.*call model.eval\(\) first"
    for guide in guides:
        with pytest.raises(GuidanceError, match=refusal):
            guide(x_t, level, prediction)
    network.eval()
    norm.train()  # one part is enough
    with pytest.raises(GuidanceError, match=refusal):
        guides[0](x_t, level, prediction)
    assert not norm.running_mean.any()


def test_a_guide_adds_only_to_guides():
    with pytest.raises(TypeError):
        constant() + (lambda x, level, p: x)
    with pytest.raises(TypeError):
        constant() - 1
    with pytest.raises(TypeError):
        1 + constant()
    with pytest.raises(TypeError):
        constant() / "2"
    assert isinstance(constant() + constant(), Guide)
