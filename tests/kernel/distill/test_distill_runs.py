"""Runs of distillation: resumed ones, the released habits, and that it helps at high noise."""

import pytest
import torch
from small_experts import (
    FIVE,
    LABELS,
    LINEAR,
    LOGITS,
    PIXELS,
    TWO,
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
from torch import nn

from ppap_lib.data.pixels import from_bytes
from ppap_lib.diffusion.noise import Noise
from ppap_lib.distill import fit_experts, teacher_outputs, updates
from ppap_lib.errors import TrainingError
from ppap_lib.experts import full_copies, lora, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.guidance import model_at
from ppap_lib.training.checkpoints import load_checkpoint
from ppap_lib.zoo.tiers import tier

pytestmark = pytest.mark.usefixtures("quick_training")


class Stop(Exception):
    """What ends a run in the middle, as a kill would."""


class TestResume:
    @pytest.mark.parametrize("sequential", [False, True])
    def test_a_resumed_run_is_bitwise_the_unbroken_one(self, tmp_path, sequential):
        def run(folder, resume=False, stop=None):
            def on_log(row):
                rows.append((row["step"], row["loss"]))
                if row["step"] == stop:
                    raise Stop

            rows: list = []
            made = plan(checkpoint_every=0.0, ema=0.9)
            trained, _ = fit_experts(
                *(adapted(), transfer(), PIXELS, LOGITS, made, folder),
                sequential=sequential,
                resume=resume,
                on_log=on_log,
            )
            return rows, state(trained)

        straight = run(tmp_path / "straight")
        with pytest.raises(Stop):
            run(tmp_path / "broken", stop=6)
        rows, end = run(tmp_path / "broken", resume=True)
        assert [step for step, _ in straight[0]] == list(range(1, 9))
        assert rows == straight[0][-len(rows) :] and len(rows) == 3
        assert same(end, straight[1])
        with pytest.raises(TrainingError, match="resume"):
            run(tmp_path / "broken")

    def test_experts_one_after_another_are_not_given_more_of_a_budget(self, tmp_path):
        """What starts where the one before had ended would have to begin again."""
        what = (adapted(), transfer(), PIXELS, LOGITS)
        fit_experts(*what, plan(), tmp_path, sequential=True)
        with pytest.raises(TrainingError, match="budget 8 steps.* there, 24 steps.* here"):
            fit_experts(*what, plan(steps=24), tmp_path, sequential=True, resume=True)

    @pytest.mark.parametrize(
        ("build", "other", "says"),
        [
            (adapted, lambda: adapted(alpha=2.0), "trained .* scale 0.5 there, .* scale 1 here"),
            (adapted, lambda: adapted(backbone=network(7)), r"trunk crc32 \w+ there, .* here"),
            (copies, lambda: full_copies(network(7), TWO), r"trunk crc32 \w+ there, .*folder"),
        ],
    )
    def test_other_updates_and_another_backbone_are_refused(self, tmp_path, build, other, says):
        """Of tensors of the same names and shapes, as the checkpoint holds them."""
        arguments = transfer(), PIXELS, LOGITS, plan(steps=1), tmp_path
        fit_experts(build(), *arguments)
        with pytest.raises(TrainingError, match=f"is another run's: {says}"):
            fit_experts(other(), *arguments, resume=True)
        fit_experts(build(), *arguments, resume=True)


class TestReleased:
    def test_a_warm_start_continues_the_expert_before(self, tmp_path):
        """Its weights, and the state of its optimiser."""
        still = plan(lr=1e-12, weight_decay=0.0)
        together, _ = fit_experts(
            adapted(), transfer(), PIXELS, LOGITS, still, tmp_path / "together"
        )
        trained, figures = fit_experts(
            adapted(), transfer(), PIXELS, LOGITS, still, tmp_path / "warm", sequential=True
        )

        def factors(experts):
            return [member.get_parameter("4.lora_A") for member in experts.bank]

        torch.testing.assert_close(*factors(trained))
        assert not torch.allclose(*factors(together))
        assert figures["images_per_expert"] == [32, 32] and figures["images_seen"] == 64
        assert figures["steps"] == 8
        for k, steps in ((1, 4), (2, 8)):
            path = tmp_path / "warm" / f"expert-{k}" / "checkpoint.pt"
            saved = load_checkpoint(path, torch.device("cpu"))["optimizer"]["state"]
            assert {int(entry["step"]) for entry in saved.values()} == {steps}

    def test_a_warm_start_leaves_finished_experts_alone(self, tmp_path):
        trained, _ = fit_experts(
            adapted(), transfer(), PIXELS, LOGITS, plan(), tmp_path, sequential=True
        )
        path = tmp_path / "expert-1" / "checkpoint.pt"
        first = load_checkpoint(path, torch.device("cpu"))["ema"]
        prefix = "bank.updates.0."
        kept = {k.removeprefix(prefix): v for k, v in first.items() if k.startswith(prefix)}
        assert same(kept, state(trained.bank[0]))
        assert not same(kept, state(trained.bank[1]))

    def test_every_expert_of_a_sequence_is_the_average_of_its_own_training(self, tmp_path):
        made = plan(ema=0.9, lr=0.01)
        experts = adapted()
        trained, _ = fit_experts(
            experts, transfer(), PIXELS, LOGITS, made, tmp_path, sequential=True
        )
        assert trained is experts
        for k in range(2):
            saved = load_checkpoint(
                tmp_path / f"expert-{k + 1}" / "checkpoint.pt", torch.device("cpu")
            )
            own = state(trained.bank[k])
            of_run = {
                part: {n: saved[part][f"bank.updates.{k}.{n}"] for n in own}
                for part in ("ema", "network")
            }
            assert same(own, of_run["ema"]) and not same(own, of_run["network"])

    def test_a_sequence_takes_every_step_of_the_budget_and_refuses_too_few(self, tmp_path):
        _, figures = fit_experts(
            adapted(), transfer(), PIXELS, LOGITS, plan(steps=9), tmp_path, sequential=True
        )
        assert figures["steps"] == 9 and figures["images_per_expert"] == [40, 32]
        with pytest.raises(TrainingError, match="1 steps are none for some of 2 experts"):
            fit_experts(
                adapted(), transfer(), PIXELS, LOGITS, plan(steps=1), tmp_path, sequential=True
            )

    def test_one_timestep_for_the_batch_trains_one_expert_a_step(self, tmp_path):
        start = [state(member) for member in copies(FIVE).bank]
        loss = supervised(FIVE, shared_time=True)
        trained, _ = fit_experts(copies(FIVE), loss, PIXELS, LABELS, plan(steps=1), tmp_path)
        after = [state(member) for member in trained.bank]
        assert sum(not same(a, b) for a, b in zip(start, after, strict=True)) == 1

    def test_without_the_scale_alpha_is_the_rank(self):
        backbone = tier("fashion").classifier("vit")
        released, ours = (updates(backbone, "vit", TWO, rank=3, scaled=s) for s in (False, True))
        assert released.bank[0].config.scale == 1
        assert ours.bank[0].config.scale == 8 / 32
        assert ours.bank[0].config.rank == 3


class TestSyntheticTask:
    """Two classes, bright and dark all over. The teacher looks at one pixel, as a network looks
    at whatever tells clean images apart; under noise only the whole image still tells them."""

    @staticmethod
    def images(count, seed):
        labels = torch.arange(count) % 2
        grain = 20 * torch.randn(count, 1, 8, 8, generator=seeded(seed))
        return (32 + 191 * labels.view(-1, 1, 1, 1) + grain).clamp(0, 255).byte(), labels

    @staticmethod
    def teacher():
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        nn.init.zeros_(made[1].weight)
        nn.init.zeros_(made[1].bias)
        made[1].weight.data[:, 27] = torch.tensor([-4.0, 4.0])
        return made.eval()

    @pytest.mark.parametrize("method", ["data-free updates", "supervised copies", "single"])
    def test_students_beat_the_clean_teacher_at_high_noise(self, tmp_path, method):
        teacher = self.teacher()
        pixels, labels = self.images(200, 1)
        intervals = Intervals(1000, 1 if method == "single" else 2)
        targets = labels
        if method == "data-free updates":
            backbone = self.teacher()
            experts = low_rank(
                backbone, lora.lora_config(backbone, ("1",), 2, 2.0, ("1.bias",)), intervals
            )
            loss, targets = transfer(intervals), teacher_outputs(teacher, pixels)
        else:
            experts, loss = full_copies(teacher, intervals), supervised(intervals)
        torch.manual_seed(0)
        made = plan(batch=40, steps=150, lr=0.03, log_every=50)
        trained, _ = fit_experts(experts, loss, pixels, targets, made, tmp_path)
        held_out, truth = self.images(400, 2)
        x0 = from_bytes(held_out)
        eps = Noise(range(len(x0)), x0.shape[1:], x0.dtype)()

        def accuracy(model, t):
            level = LINEAR.at(t)
            with torch.no_grad():
                answers = model_at(model, level)(level.noised(x0, eps)).argmax(1)
            return float((answers == truth).double().mean())

        clean, aware = ([accuracy(model, t) for t in (0, 300, 500)] for model in (teacher, trained))
        assert clean[0] > 0.97 and aware[0] > 0.97
        assert clean[1] < 0.8 and aware[1] > 0.95
        assert clean[2] < 0.65 and aware[2] > 0.8
