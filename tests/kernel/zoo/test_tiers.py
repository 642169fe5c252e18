"""The tiers' networks: sizes, maps and architectures that the pages rely on."""

import pytest
import torch
from torch import nn

from ppap_lib.errors import InputError
from ppap_lib.zoo.presets import NETWORKS
from ppap_lib.zoo.tiers import tier

TIERS = ("fashion", "tin10")


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def shape_behind(network: nn.Module, layer: nn.Module, images: torch.Tensor) -> tuple[int, ...]:
    shapes = []
    handle = layer.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    network.eval()(images)
    handle.remove()
    return tuple(shapes[0])


def test_the_fashion_denoiser_has_the_published_size():
    assert parameters(tier("fashion").denoiser()) == 2_854_946


@pytest.mark.parametrize("name", TIERS)
def test_denoisers_return_prediction_and_variance(name):
    chosen = tier(name)
    out = chosen.denoiser()(torch.zeros(2, *chosen.shape), torch.tensor([0.0, 999.0]))
    assert out.shape == (2, 2 * chosen.channels, chosen.size, chosen.size)


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("guide", ["resnet18", "vit"])
def test_guides_are_of_the_designs_size(name, guide):
    assert 0.65e6 < parameters(tier(name).classifier(guide)) < 0.75e6


@pytest.mark.parametrize("name", TIERS)
def test_guides_keep_maps_that_grad_cam_can_read(name):
    chosen = tier(name)
    images = torch.zeros(1, *chosen.shape)
    resnet = chosen.classifier("resnet18")
    assert shape_behind(resnet, resnet.layer4, images) == (1, 128, 4, 4)
    vit = chosen.classifier("vit")
    assert shape_behind(vit, vit.blocks[-1].norm1, images) == (1, 1 + 8 * 8, 96)


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("what", [n for n in NETWORKS if n != "denoiser"])
def test_classifiers_train_on_their_tier(name, what):
    """Finite logits, one a class, and every parameter takes part in them."""
    chosen = tier(name)
    network = chosen.classifier(what).train()
    images = torch.rand(4, *chosen.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits = network(images)
    assert logits.shape == (4, len(chosen.classes))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_judge_is_a_third_architecture():
    """Not the guides': neither residual blocks nor attention, so that it shares no shortcuts."""
    chosen = tier("fashion")
    kinds = [
        {type(m) for m in chosen.classifier(name).modules() if "timm" in type(m).__module__}
        for name in ("resnet18", "vit", "judge")
    ]
    assert kinds[0] and kinds[1] and not kinds[2]
    assert nn.Conv2d in {type(m) for m in chosen.classifier("judge").modules()}
    assert "judge" not in chosen.guides


@pytest.mark.parametrize("name", TIERS)
def test_classes_are_ten_and_distinct(name):
    chosen = tier(name)
    assert len(set(chosen.classes)) == 10
    assert not chosen.wnids or len(set(chosen.wnids)) == 10


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(InputError, match="fashion, tin10"):
        tier("mnist")
    with pytest.raises(InputError, match="resnet18, vit, judge"):
        tier("fashion").classifier("resnet50")
