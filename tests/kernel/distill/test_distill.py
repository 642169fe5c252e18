"""Distillation: what is minimised, who is trained by what, and how well the result reads."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
    noised,
    plan,
    same,
    seeded,
    state,
    supervised,
    transfer,
)
from torch import nn

from ppap_lib.data.pixels import from_bytes
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.distill import Transfer, fit_experts, snapshots, teacher_outputs
from ppap_lib.errors import TrainingError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.guidance.tasks import Classification
from ppap_lib.training.preparation import parameter_groups

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.mark.parametrize("build", [adapted, copies])
class TestLoss:
    def test_transfer_is_the_kl_from_the_sharpened_teacher(self, build):
        experts, loss = build().eval(), transfer()
        images, logits = from_bytes(PIXELS[:8]), LOGITS[:8]
        t, _, x_t = noised(loss, images)
        by_hand = []
        for i in range(8):
            student = experts.bank.run(int(t[i] >= 500), x_t[i : i + 1])[0].tolist()
            p = [math.exp(v / 0.25) for v in logits[i].tolist()]
            q = [math.exp(v) for v in student]
            p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
            by_hand.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
        found = loss(experts, images, logits, seeded())
        assert found.item() == pytest.approx(sum(by_hand) / 8, rel=1e-4)

    def test_supervised_is_the_cross_entropy(self, build):
        experts, loss = build().eval(), supervised()
        images, labels = from_bytes(PIXELS[:8]), LABELS[:8]
        _, level, x_t = noised(loss, images)
        expected = nn.functional.cross_entropy(experts(x_t, level), labels)
        torch.testing.assert_close(loss(experts, images, labels, seeded()), expected)

    def test_each_experts_gradient_is_that_of_its_own_mean(self, build):
        """Also where the experts have different numbers of images."""
        experts, loss = build(Intervals(1000, 3)).train(), transfer(Intervals(1000, 3))
        images, logits = from_bytes(PIXELS[:10]), LOGITS[:10]
        t, _, x_t = noised(loss, images)
        owners = loss.intervals.indices_of(t)
        assert len(set(owners.bincount().tolist())) > 1
        loss(experts, images, logits, seeded()).backward()
        for k in range(3):
            found = [p.grad.clone() for p in experts.bank[k].parameters()]
            output = experts.bank.run(k, x_t[owners == k])
            own = loss.task.divergence(output, logits[owners == k]).mean()
            expected = torch.autograd.grad(own, experts.bank[k].parameters())
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class TestTimes:
    @given(st.integers(1, 10), st.integers(1, 6), st.integers(0, 2**40))
    def test_experts_share_a_batch_evenly(self, n, each, seed):
        loss = transfer(Intervals(1000, n))
        t = loss.times(n * each, seeded(seed))
        if 1000 % n == 0:
            assert loss.intervals.indices_of(t).bincount(minlength=n).tolist() == [each] * n
        assert bool((t.diff() >= 0).all()) and t.min() >= 0 and t.max() < 1000

    def test_every_timestep_is_equally_likely(self):
        short = Transfer(Schedule.cosine(10), Intervals(10, 3), Classification())
        drawn = torch.cat([short.times(7, seeded(seed)) for seed in range(2000)])
        share = drawn.bincount(minlength=10) / len(drawn)
        assert (share - 0.1).abs().max() < 0.01

    @given(st.integers(1, 7), st.integers(0, 2**40), st.data())
    def test_one_interval_only(self, n, seed, source):
        k = source.draw(st.integers(0, n - 1))
        interval = Intervals(1000, n)[k]
        loss = transfer(Intervals(1000, n), only=k)
        assert all(t in interval for t in loss.times(9, seeded(seed)).tolist())
        shared = replace(loss, shared_time=True).times(9, seeded(seed))
        assert len(set(shared.tolist())) == 1 and shared[0] in interval

    def test_times_and_noise_are_drawn_apart(self):
        """From one seed by two generators: the same stream twice would tie t to the noise."""
        t = torch.stack([transfer().times(1, seeded(seed)) for seed in range(500)])[:, 0].double()
        first = torch.stack([torch.rand(1, generator=seeded(seed)) for seed in range(500)])[:, 0]
        assert abs(torch.corrcoef(torch.stack([t, first.double()]))[0, 1]) < 0.15

    def test_every_expert_reads_only_its_own_interval(self, monkeypatch):
        experts, loss = copies(FIVE).train(), transfer(FIVE)
        read = []
        run = experts.bank.run
        monkeypatch.setattr(experts.bank, "run", lambda k, x: read.append((k, x)) or run(k, x))
        images = from_bytes(PIXELS[:20])
        loss(experts, images, LOGITS[:20], seeded())
        t, _, x_t = noised(loss, images)
        assert [k for k, _ in read] == [0, 1, 2, 3, 4]
        for k, x in read:
            torch.testing.assert_close(x, x_t[torch.tensor([i in FIVE[k] for i in t.tolist()])])


class TestTeacher:
    def test_it_reads_clean_images_in_eval_mode_and_stays_as_it_is(self, tmp_path):
        teacher = network(seed=3)
        before, modes = state(teacher), []
        teacher.register_forward_hook(lambda module, *_: modes.append(module.training))
        logits = teacher_outputs(teacher, PIXELS, batch=7)
        fit_experts(adapted(), transfer(), PIXELS, logits, plan(), tmp_path)
        assert modes == [False] * 6  # once over the 40 images, never while students train
        with torch.no_grad():
            torch.testing.assert_close(logits, teacher(from_bytes(PIXELS)))
        assert same(state(teacher), before)

    def test_train_mode_is_refused(self):
        teacher = network()
        teacher[1].train()
        with pytest.raises(TrainingError, match="train mode"):
            teacher_outputs(teacher, PIXELS)


class TestFit:
    def test_the_backbone_stays_and_every_update_moves(self, tmp_path):
        backbone = network()
        before, experts = state(backbone), adapted(FIVE, backbone)
        fresh = [state(member) for member in experts.bank]
        trained, _ = fit_experts(experts, transfer(FIVE), PIXELS, LOGITS, plan(batch=10), tmp_path)
        assert same(state(backbone), before) and same(state(trained.bank.backbone), before)
        for start, member in zip(fresh, trained.bank, strict=True):
            unmoved = [
                key for key, tensor in member.state_dict().items() if start[key].equal(tensor)
            ]
            assert not unmoved
        assert not backbone.training and not trained.training
        assert not any(p.requires_grad for p in trained.parameters())

    @pytest.mark.parametrize("build", [adapted, copies])
    def test_an_expert_does_not_notice_the_other(self, tmp_path, build):
        """Bitwise the same whether the other one is trained beside it or frozen."""
        both, _ = fit_experts(build(), transfer(), PIXELS, LOGITS, plan(), tmp_path / "both")
        for k in range(2):
            alone = build()
            alone.bank[1 - k].requires_grad_(False)
            alone, _ = fit_experts(alone, transfer(), PIXELS, LOGITS, plan(), tmp_path / f"{k}")
            assert same(state(alone.bank[k]), state(both.bank[k]))
            assert not same(state(alone.bank[1 - k]), state(both.bank[1 - k]))

    def test_it_is_plain_adamw_on_each_experts_own_images(self, tmp_path, monkeypatch):
        """Against a loop by hand that trains expert 1 on the images in its interval alone."""
        seen, loss = [], transfer()
        call = Transfer.__call__

        def recorded(self, network, images, targets, generator):
            seen.append((images, targets, generator.initial_seed()))
            return call(self, network, images, targets, generator)

        with monkeypatch.context() as patch:
            patch.setattr(Transfer, "__call__", recorded)
            trained, _ = fit_experts(adapted(), loss, PIXELS, LOGITS, plan(), tmp_path)
        assert len(seen) == plan().steps
        experts = adapted().train()
        optimizer = torch.optim.AdamW(parameter_groups(experts.bank[1], 0.05))
        for step, (images, logits, seed) in enumerate(seen):
            t, _, x_t = noised(loss, images, seed)
            own = t >= 500
            for group in optimizer.param_groups:
                group["lr"] = plan().learning_rate(step, 0)
            optimizer.zero_grad()
            loss.task.divergence(experts.bank.run(1, x_t[own]), logits[own]).mean().backward()
            optimizer.step()
        found = trained.bank[1].state_dict()
        for name, tensor in experts.bank[1].state_dict().items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)

    def test_the_budget_is_images_in_all(self, tmp_path):
        for n in (1, 2, 5):
            intervals = Intervals(1000, n)
            made = plan(batch=10, steps=4)
            _, figures = fit_experts(
                copies(intervals), supervised(intervals), PIXELS, LABELS, made, tmp_path / str(n)
            )
            assert figures["images_seen"] == 40 and figures["steps"] == 4
            assert figures["images_per_expert"] == [40 // n] * n
        assert figures["parameters"] == 5 * sum(p.numel() for p in network().parameters())

    def test_snapshots_are_the_experts_as_they_were(self, tmp_path):
        made = plan(snapshots=(16, 64))
        trained, _ = fit_experts(adapted(), transfer(), PIXELS, LOGITS, made, tmp_path)
        fresh = adapted()
        before = state(fresh)
        seen = [(count, state(experts)) for count, experts in snapshots(fresh, tmp_path)]
        assert [count for count, _ in seen] == [16, 64]
        assert not same(seen[0][1], seen[1][1]) and same(state(fresh), before)
        for name, tensor in trained.state_dict().items():
            torch.testing.assert_close(seen[1][1][name], tensor, rtol=1e-3, atol=1e-3)
        assert not list(snapshots(fresh, tmp_path / "elsewhere"))

    @pytest.mark.parametrize("shaped", [lambda v: v.mean(), lambda v: v[:, None]])
    def test_a_task_without_a_loss_for_each_image_is_refused(self, tmp_path, shaped):
        """Broadcast, it would train with other weights than it says."""

        class Odd(Classification):
            def divergence(self, student, teacher):
                return shaped(super().divergence(student, teacher))

        with pytest.raises(TrainingError, match="for 8 samples, expected one loss each"):
            fit_experts(adapted(), Transfer(LINEAR, TWO, Odd()), PIXELS, LOGITS, plan(), tmp_path)

    def test_what_does_not_fit_is_refused(self, tmp_path):
        with pytest.raises(TrainingError, match="experts are for"):
            fit_experts(adapted(FIVE), transfer(TWO), PIXELS, LOGITS, plan(), tmp_path)
        with pytest.raises(TrainingError, match="clip=0"):
            fit_experts(adapted(), transfer(), PIXELS, LOGITS, plan(clip=1.0), tmp_path)
        with pytest.raises(TrainingError, match="one label each"):
            fit_experts(adapted(), transfer(), PIXELS, LOGITS[:-1], plan(), tmp_path)
        with pytest.raises(TrainingError, match="timesteps"):
            Transfer(LINEAR, Intervals(100, 2), Classification())
        with pytest.raises(TrainingError, match="no interval 2"):
            transfer(only=2)
