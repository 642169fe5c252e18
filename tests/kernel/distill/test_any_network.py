"""Experts of any network: other samples than images, other outputs than logits."""

import json
from dataclasses import dataclass

import pytest
import torch
from small_experts import (
    LINEAR,
    PIXELS,
    TWO,
    network,
    plan,
    seeded,
)
from torch import nn

from ppap_lib import experts as sets
from ppap_lib.distill import distil, teacher_outputs
from ppap_lib.distill.transfer import cached_outputs
from ppap_lib.errors import TrainingError
from ppap_lib.experts import full_copies
from ppap_lib.files import weights
from ppap_lib.guidance.tasks import Classification
from ppap_lib.training.fit import SUMMARY

pytestmark = pytest.mark.usefixtures("quick_training")

SERIES = torch.randn(24, 6, 1, generator=seeded(1)) * torch.linspace(-1, 1, 10)  # straight lines


class TrendAndLevel(nn.Module):
    """Reads series [B, 6, L] and returns their trend [B, 6, L] and level [B], as no classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trend = nn.Linear(10, 10)
        self.level = nn.Linear(60, 1)

    def forward(self, series):
        return {"trend": self.trend(series), "level": self.level(series.flatten(1)).squeeze(1)}


@dataclass(frozen=True)
class SquaredError:
    """A task of outputs that are dictionaries."""

    weight: float = 1.0

    def log_prob(self, output, target):
        return -self.divergence(output, target)

    def divergence(self, student, teacher):
        trend = (student["trend"] - teacher["trend"]).square().mean((1, 2))
        return trend + self.weight * (student["level"] - teacher["level"]).square()


def run(folder, backbone=None, **changes):
    """A transfer on the series, from the network above by default."""
    backbone = TrendAndLevel().eval() if backbone is None else backbone
    given = {"task": SquaredError(), "experts": 2, **changes}
    return distil(backbone, SERIES, LINEAR, plan(steps=60, lr=0.03), folder, **given)


def test_experts_of_a_network_of_series_learn_its_outputs(tmp_path):
    summary = run(tmp_path)
    assert json.loads((tmp_path / SUMMARY).read_text()) == json.loads(json.dumps(summary))
    assert summary["trunk_parameters"] == 110 + 61 and summary["images_per_expert"] == [240, 240]
    backbone = TrendAndLevel().eval()
    trained = sets.read(tmp_path / summary["file"], backbone)
    level, task = LINEAR.at(torch.full((24,), 700)), SquaredError()
    noisy = level.noised(SERIES, torch.randn(SERIES.shape, generator=seeded(2)))
    truth = backbone(SERIES)
    before, after = (
        task.divergence(said, truth) for said in (backbone(noisy), trained(noisy, level))
    )
    assert after.mean() < 0.7 * before.mean()


def test_labels_of_any_kind_teach(tmp_path):
    labels = {"trend": SERIES.cumsum(2), "level": SERIES.mean((1, 2))}
    summary = run(tmp_path, labels=labels)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert summary["objective"].startswith("Supervised(") and losses[-1] < losses[0]
    assert not (tmp_path / "teacher.safetensors").exists()


@pytest.mark.parametrize("shared", [False, True])
def test_a_set_that_is_given_is_trained_as_it_is(tmp_path, shared):
    backbone = TrendAndLevel().eval()
    made = run(tmp_path, backbone, experts=full_copies(backbone, TWO), shared_time=shared)
    assert made["parameters"] == 2 * made["trunk_parameters"] == 2 * 171
    assert f"shared_time={shared}" in made["objective"]
    assert sets.describe(tmp_path / made["file"]).config is None


def test_a_teacher_s_outputs_are_asked_once_and_keep_their_kind(tmp_path):
    class Nested(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return (x.mean(2), [x.argmax(2), {"all": x.double()}])

    asked = []
    teacher = Nested().eval()
    mean, (best, rest) = teacher_outputs(teacher, SERIES, batch=10)
    assert asked == [10, 10, 4] and mean.dtype == rest["all"].dtype == torch.float32
    assert best.dtype == torch.int64 and torch.equal(best, SERIES.argmax(2))
    for _ in range(2):
        kept = cached_outputs(lambda: teacher, SERIES, tmp_path, "nested", "1")
        assert torch.equal(kept[0], mean) and torch.equal(kept[1][1]["all"], SERIES)
        assert isinstance(kept, tuple) and isinstance(kept[1], list)
    assert asked == [10, 10, 4, 24]
    for changed in ((SERIES + 1, "nested", "1"), (SERIES, "nested", "2"), (SERIES, "other", "1")):
        samples, name, digest = changed
        with pytest.raises(TrainingError, match="is another run's, by its teacher.safetensors"):
            cached_outputs(lambda: teacher, samples, tmp_path, name, digest)


def test_logits_kept_by_an_earlier_version_are_read(tmp_path):
    asked = cached_outputs(lambda: network(), PIXELS, tmp_path, "net", None)
    path = tmp_path / "teacher.safetensors"
    assert weights.read(path).keys() == {"logits"}
    assert weights.metadata(path).keys() == {"teacher", "images"}
    again = cached_outputs(lambda: pytest.fail("asked again"), PIXELS, tmp_path, "net", None)
    assert torch.equal(again, asked)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda x: x, r"the network returns \[24, 6, 10\], and classification reads logits"),
        (lambda x: {"logits": x.mean(2)}, "the network returns dict, and classification"),
        (lambda x: (x.mean(2), "a word"), "returns a str where a tensor was expected"),
    ],
)
def test_what_no_task_reads_is_refused(tmp_path, output, says):
    class Odd(TrendAndLevel):
        def forward(self, series):
            return output(series)

    with pytest.raises(TrainingError, match=says):
        run(tmp_path, Odd().eval(), task=Classification())
