"""Presets of distillation: settings, rates, one budget, and what fresh updates are."""

from itertools import product

import pytest
import torch
from torch import nn

from ppap_lib import zoo
from ppap_lib.distill import settings, updates
from ppap_lib.distill.fitting import IMAGES, PRESETS, RATES, UPDATES
from ppap_lib.errors import TrainingError
from ppap_lib.experts import full_copies
from ppap_lib.experts.intervals import Intervals
from ppap_lib.training.trainer import parameter_groups
from ppap_lib.zoo.keys import untrained
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


def test_the_papers():
    paper = settings("paper")
    assert (paper.lr, paper.weight_decay, paper.batch, paper.steps) == (
        1e-4,
        0.05,
        256,
        300_000,
    )
    assert paper.clip == 0 and paper.learning_rate(300_000, 0) == pytest.approx(0, abs=1e-12)
    assert settings("paper", device="cuda") == paper


@pytest.mark.parametrize("name", ["fashion", "tin10"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_small_tiers(name, device):
    made = settings(name, device=device)
    assert made.steps * made.batch == IMAGES
    assert all(made.batch % n == 0 for n in (1, 2, 5, 10))
    assert made.clip == 0 and made.weight_decay == 0.05


def test_a_guide_s_own_rate_is_for_small_tiers_on_the_cpu_and_can_be_overridden():
    for guide, whole in RATES:
        assert settings("fashion", guide, whole).lr == RATES[guide, whole]
        assert settings("fashion", guide, whole, lr=1e-2).lr == 1e-2
        assert settings("fashion", guide, whole, "cuda").lr == RATES[guide, whole] * 5**0.5
        assert settings("paper", guide, whole).lr == 1e-4
    small = [guide for guide in UPDATES if guide not in tier("imagenet256").guides]
    assert set(RATES) == set(product(small, (False, True)))
    with pytest.raises(
        TrainingError, match="no rates for a guide 'resnet50': .*resnet18, vit, lite0"
    ):
        settings("fashion", "resnet50")
    for guide in tier("imagenet256").guides:
        assert settings("imagenet256", guide) == settings("paper", guide)


def test_one_budget():
    assert settings("fashion", images=1050).steps == 11
    assert settings("fashion", images=1050, batch=1000).steps == 2
    assert settings("fashion", steps=7).steps == 7
    assert settings("paper", minutes=2.0).steps is None
    for wrong in ({"images": 0}, {"images": 10, "steps": 1}, {"images": 10, "minutes": 1.0}):
        with pytest.raises(TrainingError, match="one budget"):
            settings("fashion", **wrong)
    with pytest.raises(TrainingError, match="steps or minutes"):
        settings("fashion", steps=1, minutes=1.0)
    with pytest.raises(TrainingError, match=", ".join(PRESETS)):
        settings("mnist")


@pytest.mark.parametrize("guide", tuple(UPDATES))
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
