"""Whole trainings: presets, speed figures, the command line and what it leaves behind."""

import json
import math

import pytest
import torch

from ppap_lib import data
from ppap_lib.errors import InputError, TrainingError
from ppap_lib.training import fit
from ppap_lib.training.settings import Settings
from ppap_lib.zoo import datasets, tiers
from ppap_lib.zoo.tiers import tier

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(256, (30, 1, 8, 8), generator=GENERATOR).byte()
LABELS = torch.randint(3, (30,), generator=GENERATOR)


# --- Settings, presets and speed


def test_learning_rate_rises_linearly_and_falls_as_a_cosine():
    s = Settings(steps=1000, warmup=10, lr=2.0)
    assert s.learning_rate(0, 0) == pytest.approx(0.2)
    assert s.learning_rate(4, 0) == pytest.approx(1.0, rel=1e-3)
    assert s.learning_rate(500, 0) == pytest.approx(1.0)
    assert s.learning_rate(250, 0) == pytest.approx(1 + math.sqrt(0.5))
    assert s.learning_rate(1000, 0) == pytest.approx(0, abs=1e-12)
    timed = Settings(minutes=10, warmup=0, lr=2.0)
    assert timed.learning_rate(12345, 300) == pytest.approx(1.0)


def test_ema_decay_ramps_up_to_its_setting():
    s = Settings(steps=1, ema=0.99)
    assert [s.ema_decay(k) for k in (1, 8)] == pytest.approx([2 / 11, 0.5])
    assert s.ema_decay(10_000) == 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": 5, "minutes": 1.0},
        {"steps": 0},
        {"minutes": -1.0},
        {"minutes": 0.0},
        {"minutes": math.nan},
        {"steps": 5, "batch": 0},
        {"steps": 5, "lr": 0.0},
        {"steps": 5, "lr": math.nan},
        {"steps": 5, "ema": 1.0},
        {"steps": 5, "clip": -1.0},
        {"steps": 5, "log_every": 0},
        {"steps": 5.5},
        {"steps": 5, "bf16": "no"},
    ],
)
def test_bad_settings_are_refused(changes):
    with pytest.raises((TrainingError, InputError)):
        Settings(**changes)


# --- Trainings of a tier


@pytest.fixture
def tiny_fashion(monkeypatch):
    """Forty random images in place of the training set."""
    pixels = torch.randint(256, (40, 1, 32, 32), generator=GENERATOR).byte()
    labels = torch.arange(40) % 10
    images = data.ImageSet(pixels, labels, tier("fashion").classes, "random")
    monkeypatch.setattr(datasets, "require", lambda name, split: images)


@pytest.mark.usefixtures("quick_training")
def test_a_summary_says_what_the_network_predicts(tmp_path, tiny_fashion):
    images = datasets.require("fashion", "train")
    for what, changes, said in (("denoiser", {"prediction": "eps"}, "eps"), ("judge", {}, None)):
        summary = tiers.train_network(
            *(tier("fashion"), what, images.pixels, images.labels),
            *(Settings(steps=1, batch=1), tmp_path / what),
            loss=tiers.training_objective(tier("fashion"), what, **changes),
        )
        assert summary["prediction"] == said


def test_a_summary_has_the_commit_that_trained(tmp_path, tiny_fashion, moving_head, monkeypatch):
    images = datasets.require("fashion", "train")

    def moved(row):
        moving_head.append("later")

    tiers.train_network(
        *(tier("fashion"), "judge", images.pixels, images.labels),
        *(Settings(steps=1, batch=4), tmp_path),
        on_log=moved,
    )
    assert len(moving_head) == 2
    summary = json.loads((tmp_path / fit.SUMMARY).read_text())
    assert summary["commit"] == "earlier"


def test_initial_weights_are_decided_by_the_seed_alone():
    chosen = tier("fashion")
    torch.manual_seed(9)
    one = tiers.untrained_network(chosen, "judge", 3)
    torch.manual_seed(10)
    assert torch.equal(one[0].weight, tiers.untrained_network(chosen, "judge", 3)[0].weight)
    other = tiers.untrained_network(chosen, "judge", 4)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_objectives_follow_tier_and_network():
    fashion, tin10 = tier("fashion"), tier("tin10")
    assert tiers.training_objective(fashion, "judge").erase
    assert not tiers.training_objective(fashion, "resnet18").erase
    assert tiers.training_objective(tin10, "vit").shift == 4
    assert tiers.training_objective(fashion, "denoiser", min_snr=5.0).min_snr == 5.0
