"""Experts of augmented images: what reaches the networks, whose targets, and that off is off."""

import json

import pytest
import torch
from small_experts import (
    LABELS,
    LOGITS,
    PIXELS,
    adapted,
    copies,
    network,
    plan,
    same,
    seeded,
    state,
    supervised,
    transfer,
)

from ppap_lib import cli, data, distill, zoo
from ppap_lib.data.pixels import from_bytes
from ppap_lib.distill import fit_experts, teacher_outputs
from ppap_lib.distill.experts import verify
from ppap_lib.errors import TrainingError
from ppap_lib.networks.vision import Vision
from ppap_lib.training.fit import SUMMARY
from ppap_lib.training.objectives import Augmentation
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier

pytestmark = pytest.mark.usefixtures("quick_training")

VIEWS = Augmentation(flip=True, shift=2)
IMAGES = from_bytes(PIXELS[:8])


def augmented_transfer(teacher=None, **changes):
    return transfer(augment=VIEWS, teacher=network(3) if teacher is None else teacher, **changes)


class Reads(torch.nn.Module):
    """Keeps what a network is shown."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.shown = inner, []

    def forward(self, x, *level):
        self.shown.append(x)
        return self.inner(x, *level)


def test_the_student_is_shown_the_noised_views():
    """The generator's first numbers make the views, its next ones the noise."""
    loss, student, generator = supervised(augment=VIEWS), Reads(copies().eval()), seeded()
    loss(student, IMAGES, LABELS[:8], seeded())
    views = VIEWS(IMAGES, generator)
    assert not torch.equal(views, IMAGES)
    level = loss.schedule.at(loss.times(8, seeded()))
    eps = torch.randn(IMAGES.shape, generator=generator)
    assert torch.equal(student.shown[0], level.noised(views, eps))


def test_the_teacher_is_shown_the_very_views_and_its_answers_are_the_targets():
    teacher = Reads(network(3))
    loss, told = augmented_transfer(teacher), []
    object.__setattr__(
        loss, "per_sample", lambda output, target: told.append(target) or output.sum(1)
    )
    loss(adapted().eval(), IMAGES, LOGITS[:8], seeded())
    views = VIEWS(IMAGES, seeded())
    assert torch.equal(teacher.shown[0], views)
    assert torch.equal(told[0], network(3)(views)) and not torch.equal(told[0], LOGITS[:8])


def test_views_that_are_the_images_themselves_have_the_targets_that_are_kept():
    teacher, still = network(3), Augmentation(flip=False, shift=0)
    kept = teacher_outputs(teacher, PIXELS[:8])
    asked = transfer(augment=still, teacher=teacher)(adapted().eval(), IMAGES, LOGITS[:8], seeded())
    assert torch.equal(asked, transfer()(adapted().eval(), IMAGES, kept, seeded()))


def test_labels_stay_those_of_the_images():
    loss, told = supervised(augment=VIEWS), []
    object.__setattr__(
        loss, "per_sample", lambda output, target: told.append(target) or output.sum(1)
    )
    loss(copies().eval(), IMAGES, LABELS[:8], seeded())
    assert torch.equal(told[0], LABELS[:8])


def test_views_without_a_teacher_are_refused():
    with pytest.raises(TrainingError, match="asks the teacher about every view: give it"):
        transfer(augment=VIEWS)


def test_only_an_objective_that_augments_says_so():
    """Checkpoints of before know their run by what they say."""
    assert "augment" not in repr(transfer()) and "teacher" not in repr(transfer())
    assert repr(transfer()) == (
        "Transfer(intervals=Intervals(T=1000, n=2), task=Classification(temperature=0.25), "
        "only=None, shared_time=False)"
    )
    assert repr(augmented_transfer()).endswith(f"shared_time=False, augment={VIEWS})")


class Stop(Exception):
    """What ends a run in the middle, as a kill would."""


@pytest.mark.parametrize("sequential", [False, True])
def test_a_resumed_run_is_bitwise_the_unbroken_one(tmp_path, sequential):
    def run(folder, resume=False, stop=None):
        def on_log(row):
            if row["step"] == stop:
                raise Stop

        what = adapted(), augmented_transfer(), PIXELS, LOGITS, plan(checkpoint_every=0.0, ema=0.9)
        trained, _ = fit_experts(*what, folder, sequential=sequential, resume=resume, on_log=on_log)
        return state(trained)

    straight = run(tmp_path / "straight")
    with pytest.raises(Stop):
        run(tmp_path / "broken", stop=6)
    assert same(run(tmp_path / "broken", resume=True), straight)


def test_a_run_with_views_is_another_than_one_without(tmp_path):
    arguments = PIXELS, LABELS, plan(steps=1), tmp_path
    fit_experts(copies(), supervised(), *arguments)
    with pytest.raises(TrainingError, match="is another run's: objective"):
        fit_experts(copies(), supervised(augment=VIEWS), *arguments, resume=True)


@pytest.fixture
def tiny_fashion(monkeypatch):
    """Random images in place of the training set, an untrained network for the guide."""
    fashion = tier("fashion")
    pixels = torch.randint(256, (40, 1, 32, 32), generator=seeded()).byte()
    images = data.ImageSet(pixels, torch.arange(40) % 10, fashion.classes, "random")
    torch.manual_seed(0)
    backbone = Vision(fashion.classifier("resnet18"), 32, 1, fashion.classes)
    backbone.eval().requires_grad_(False)
    monkeypatch.setattr(datasets, "require", lambda name, split: images)
    monkeypatch.setattr(zoo, "load", lambda name, device="cpu": backbone)
    return backbone


@pytest.mark.parametrize("kind", ["transfer", "supervised"])
def test_the_command_trains_on_the_views_of_the_guides_own_training(tmp_path, tiny_fashion, kind):
    source = ["--labelled"] if kind == "transfer" else []
    common = ["distill", kind, *source, "--guide", "resnet18", "--experts", "2", "--batch", "4"]
    common += ["--steps", "2", "--quiet", "--device", "cpu"]
    before = state(tiny_fashion)
    summaries = {}
    for name, options in (("plain", []), ("views", ["--augment"])):
        assert cli.main([*common, *options, "--folder", str(tmp_path / name)]) == 0
        summaries[name] = json.loads((tmp_path / name / SUMMARY).read_text())
    assert "augment" not in summaries["plain"] and summaries["views"]["augment"] is True
    views = "augment=Augmentation(flip=True, shift=2, erase=False)"
    assert views in summaries["views"]["objective"]
    assert summaries["plain"]["sha256"] != summaries["views"]["sha256"]
    assert same(state(tiny_fashion), before)  # batch norm's statistics of the teacher among it


def test_a_finished_training_is_held_to_its_views(tmp_path, tiny_fashion):
    made = {
        augment: distill.ExpertTraining("resnet18", "supervised", experts=2, augment=augment)
        for augment in (False, True)
    }
    for augment, training in made.items():
        folder = tmp_path / str(augment)
        distill.train_experts(training, plan(steps=1, batch=4), folder)
        verify(training, folder)
        with pytest.raises(TrainingError, match=f"is another: augment {augment} there"):
            verify(made[not augment], folder)


def test_only_a_guide_of_a_tier_has_views_of_its_own_training():
    for guide in ("lite0", "resnet50", "module:function"):
        with pytest.raises(TrainingError, match="no augmentation of its training to repeat"):
            distill.ExpertTraining(guide, augment=True)
    assert distill.ExpertTraining("resnet18", tier="tin10", augment=True).augmentation == (
        Augmentation(flip=True, shift=4)
    )
    plain = distill.ExpertTraining("resnet18")
    assert plain.augmentation is None and "augment" not in plain.recorded()
