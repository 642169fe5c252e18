"""Fresh updates of a network: how large they are, and what decides them."""

import pytest
import torch
from torch import nn

from ppap_lib import zoo
from ppap_lib.distill import updates
from ppap_lib.errors import TrainingError
from ppap_lib.experts import full_copies
from ppap_lib.experts.intervals import Intervals
from ppap_lib.training.preparation import parameter_groups
from ppap_lib.zoo.keys import untrained
from ppap_lib.zoo.presets import EXPERTS, any_lora
from ppap_lib.zoo.tiers import tier

TWO, FIVE = Intervals(1000, 2), Intervals(1000, 5)


def backbone_of(guide):
    """The guide, untrained: a tier's own, or an off-the-shelf one as the card builds it."""
    others = {"lite0": "tin10", "resnet50": "imagenet256", "deit_s": "imagenet256"}
    if guide in others:
        return untrained(zoo.card(tier(others[guide]).named(guide)))
    return tier("fashion").classifier(guide)


def equal(a, b):
    """Whether two modules hold the same tensors."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("guide", [guide for guide in EXPERTS if guide != "any"])
def test_five_updates_are_a_fifth_to_three_tenths_of_the_backbone(guide):
    backbone = backbone_of(guide)
    size = sum(p.numel() for p in backbone.parameters())
    five = updates(backbone, guide, FIVE)
    trained = sum(p.numel() for k in range(5) for p in five.bank[k].parameters())
    assert 0.2 < trained / size < 0.3


def test_the_off_the_shelf_guide_learns_in_its_stem_its_1x1_convolutions_and_its_norms():
    backbone = backbone_of("lite0")
    config = updates(backbone, "lite0", TWO).bank[0].config
    modules = dict(backbone.named_modules())
    convolutions = {name: m for name, m in modules.items() if isinstance(m, nn.Conv2d)}
    frozen = [m for name, m in convolutions.items() if name not in config.layers]
    assert config.layers and all(m.groups == m.in_channels > 1 for m in frozen)
    assert {name.rpartition(".")[0] for name in config.trained} == {
        name for name, m in modules.items() if isinstance(m, nn.BatchNorm2d)
    }


def test_fresh_updates_are_decided_by_their_seed():
    backbone = tier("fashion").classifier("vit")
    torch.manual_seed(8)
    one, other, third = (updates(backbone, "vit", TWO, seed=s).bank for s in (1, 1, 2))
    assert equal(one, other) and not equal(one, third)
    assert not equal(one[0], one[1])
    with pytest.raises(TrainingError, match="resnet18, vit"):
        updates(backbone, "judge", TWO)


def test_embeddings_inside_a_set_are_not_decayed():
    experts = full_copies(tier("fashion").classifier("vit"), TWO)
    rest = {id(p) for p in parameter_groups(experts, 0.05)[1]["params"]}
    for member in experts.bank:
        assert id(member.pos_embed) in rest and id(member.cls_token) in rest
        assert id(member.head.weight) not in rest


class TestAnyNetwork:
    def test_small_layers_are_trained_in_full_and_depthwise_ones_stay(self):
        network = nn.Sequential(
            nn.Conv2d(1, 64, 3),
            nn.Conv2d(64, 64, 3, groups=64, bias=False),
            nn.GroupNorm(8, 64),
            nn.Conv2d(64, 64, 1, bias=False),
            nn.Flatten(),
            nn.Linear(64 * 16, 10),
        )
        config = any_lora(network, rank=4)
        assert config.layers == ("3", "5") and config.scale == 1
        assert set(config.trained) == {"0.weight", "0.bias", "2.weight", "2.bias", "5.bias"}

    def test_a_network_that_is_one_layer_has_an_update(self):
        update = updates(nn.Linear(200, 100), "mine:network", TWO).bank[0]
        assert update.config.layers == () and update.config.trained == ("weight", "bias")

    def test_a_network_without_such_layers_is_refused(self):
        with pytest.raises(TrainingError, match="no layer of a Sequential is a Linear"):
            any_lora(nn.Sequential(nn.Conv1d(6, 6, 3)))
