"""Presets: settings by tier, network and device, the experts' rates, and one budget."""

from itertools import product

import pytest

from ppap_lib.errors import InputError, TrainingError
from ppap_lib.zoo.presets import EXPERTS, IMAGES, NETWORKS, PRESETS, settings
from ppap_lib.zoo.tiers import tier

SMALL = ("fashion", "tin10")
RATED = [name for name, row in EXPERTS.items() if row.lr is not None]


@pytest.mark.parametrize(("name", "what"), list(product(SMALL, NETWORKS)))
def test_networks_use_a_gpu_s_formats_on_a_gpu_only(name, what):
    cpu, gpu = settings(name, what), settings(name, what, "cuda")
    assert not (cpu.bf16 or cpu.channels_last or cpu.compile)
    assert gpu.bf16 and gpu.channels_last and gpu.batch > cpu.batch
    assert (
        settings(name, what, steps=7).steps == 7 and settings(name, what, steps=7).minutes is None
    )
    assert settings(name, what, lr=None) == cpu
    assert bool(cpu.snapshots) == (what == "denoiser")


def test_every_network_of_a_tier_has_a_preset_and_no_published_one():
    for name, rows in PRESETS.items():
        trained = () if tier(name).published else NETWORKS
        assert set(rows) == {*trained, "experts"}


def test_the_papers():
    paper = settings("imagenet256", "resnet50", experts="updates")
    values = (paper.lr, paper.weight_decay, paper.batch, paper.steps)
    assert values == (1e-4, 0.05, 256, 300_000)
    assert paper.clip == 0 and paper.learning_rate(300_000, 0) == pytest.approx(0, abs=1e-12)
    for guide, kind in product(tier("imagenet256").guides, ("updates", "copies")):
        assert settings("imagenet256", guide, "cuda", experts=kind) == paper


@pytest.mark.parametrize(("name", "device"), list(product(SMALL, ("cpu", "cuda"))))
def test_experts_of_the_small_tiers_share_one_budget_evenly(name, device):
    made = settings(name, "resnet18", device, experts="updates")
    assert made.steps * made.batch == IMAGES
    assert all(made.batch % n == 0 for n in (1, 2, 5, 10))
    assert made.clip == 0 and made.weight_decay == 0.05


@pytest.mark.parametrize(("guide", "kind"), list(product(RATED, ("updates", "copies"))))
def test_a_guide_s_own_rate_is_for_the_small_tiers(guide, kind):
    rate = EXPERTS[guide].lr if kind == "updates" else EXPERTS[guide].lr_copies
    assert settings("fashion", guide, experts=kind).lr == rate
    assert settings("fashion", guide, experts=kind, lr=1e-2).lr == 1e-2
    assert settings("fashion", guide, "cuda", experts=kind).lr == rate * 5**0.5
    assert settings("imagenet256", guide, experts=kind).lr == 1e-4


def test_a_network_of_one_s_own_has_the_preset_of_any():
    own = settings("fashion", "module:function", experts="updates")
    assert own == settings("fashion", "any", experts="updates") and own.lr == EXPERTS["any"].lr


def test_one_budget():
    def experts(tier="fashion", guide="resnet18", **given):
        return settings(tier, guide, experts="updates", **given)

    assert experts(images=1050).steps == 11
    assert experts(images=1050, batch=1000).steps == 2
    assert experts(steps=7).steps == 7
    assert experts("imagenet256", minutes=2.0).steps is None
    assert settings("fashion", "judge", images=1280).steps == 10
    for wrong in ({"images": 0}, {"images": 10, "steps": 1}, {"images": 10, "minutes": 1.0}):
        with pytest.raises(TrainingError, match="one budget"):
            experts(**wrong)
    with pytest.raises(TrainingError, match="steps or minutes"):
        experts(steps=1, minutes=1.0)


def test_what_has_no_preset_is_refused_with_what_there_is():
    with pytest.raises(TrainingError, match=", ".join(PRESETS)):
        settings("mnist", "resnet18")
    with pytest.raises(TrainingError, match="denoiser, resnet18, vit, judge"):
        settings("fashion", "resnet50")
    with pytest.raises(TrainingError, match="no experts of a network 'judge': .*resnet18, vit"):
        settings("fashion", "judge", experts="updates")
    with pytest.raises(TrainingError, match="no learning rates for experts of 'resnet50'"):
        settings("fashion", "resnet50", experts="updates")
    with pytest.raises(InputError, match="unknown parameter 'learning_rate'"):
        settings("fashion", "judge", learning_rate=1.0)
