"""Experts: every image is read by the owner of its timestep, whatever else is in the batch."""

import copy
import gc
import json
import shutil
from dataclasses import replace
from types import BuiltinFunctionType, FunctionType, ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ppap_lib import experts as sets
from ppap_lib import weights, zoo
from ppap_lib.denoise import Prediction
from ppap_lib.experts import Copies, Experts, ExpertsError, full_copies, low_rank
from ppap_lib.fetch import ASSETS
from ppap_lib.guidance import NoiseAware, at_xt
from ppap_lib.networks import lora
from ppap_lib.networks.lora import Adapted
from ppap_lib.schedule import Intervals, Schedule, ScheduleError
from ppap_lib.tasks import Classification
from ppap_lib.tiers import tier
from ppap_lib.weights import WeightsError
from ppap_lib.zoo import publish
from ppap_lib.zoo.cards import Card, write

LINEAR = Schedule.linear()
FIVE = Intervals(1000, 5)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()


def the_plan(net):
    return lora.plan(net, ("0", "3"), 2, 5.0, ("1.*", "3.bias"))


def shaken(experts: Experts, seed=1) -> Experts:
    """Experts that differ from each other in everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for member in experts.bank.members:
            for tensor in (*member.parameters(), *member.buffers()):
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                    tensor.add_(noise.to(tensor.dtype))
    return experts.eval()


def five(build, intervals=FIVE) -> Experts:
    net = network()
    made = build(net, intervals) if build is full_copies else build(net, the_plan(net), intervals)
    return shaken(made)


@pytest.fixture(params=[low_rank, full_copies], ids=["low_rank", "full_copies"])
def experts(request):
    return five(request.param)


def images(count, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)


def levels(*times):
    return LINEAR.at(torch.tensor(times, dtype=torch.float64))


class TestRouting:
    # Both ends of intervals, out of order; the released routing sends 200, 400, ... one below.
    TIMES = (999, 0, 200, 199, 400, 999, 799, 800, 399.5, 17)
    OWNERS = (4, 0, 1, 0, 2, 4, 3, 4, 1, 0)

    def test_mixed_levels_are_read_each_by_its_owner(self, experts):
        x = images(len(self.TIMES))
        out = experts(x, levels(*self.TIMES))
        for i, owner in enumerate(self.OWNERS):
            torch.testing.assert_close(out[i], experts.bank.run(owner, x[i : i + 1])[0])

    def test_at_a_level_is_the_same_function(self, experts):
        x = images(len(self.TIMES))
        mixed = levels(*self.TIMES)
        assert torch.equal(experts.at(mixed)(x), experts(x, mixed))
        for t, owner in zip(self.TIMES, self.OWNERS, strict=True):
            alone = experts.at(LINEAR.at(t))(x)
            torch.testing.assert_close(alone, experts.bank.run(owner, x))
            torch.testing.assert_close(alone, experts(x, LINEAR.at(t)))
        shared = levels(210, 390, 200)
        torch.testing.assert_close(experts.at(shared)(x[:3]), experts.bank.run(1, x[:3]))

    def test_a_function_outlives_a_switch(self, experts):
        x = images(2)
        early, late = experts.at(LINEAR.at(100)), experts.at(LINEAR.at(900))
        late(x)
        torch.testing.assert_close(early(x), experts.bank.run(0, x))

    def test_every_interval_differs_and_one_expert_is_one_model(self, experts):
        x = images(2)
        outputs = [experts.at(LINEAR.at(t))(x) for t in (0, 200, 400, 600, 800)]
        assert all(not torch.allclose(a, b) for a, b in zip(outputs, outputs[1:], strict=False))
        single = five(full_copies, Intervals(1000, 1))
        assert len(single) == 1
        assert torch.equal(single(x, levels(0, 999)), single.bank.run(0, x))

    def test_what_does_not_fit_is_refused(self, experts):
        with pytest.raises(ExpertsError, match="5 experts for 10 intervals"):
            Experts(experts.bank, Intervals(1000, 10))
        with pytest.raises(ExpertsError, match="2 levels for 3 images"):
            experts(images(3), levels(1, 2))
        with pytest.raises(ScheduleError, match=r"t must be in \[0, 500\)"):
            five(low_rank, Intervals(500, 5)).at(LINEAR.at(500))


class TestGuidance:
    def test_experts_are_noise_aware_models(self, experts):
        assert isinstance(experts, NoiseAware)
        target = torch.tensor([0, 1, 2, 0])
        for level, owners in (
            (LINEAR.at(500), [2] * 4),
            (levels(0, 250, 999, 999), [0, 1, 4, 4]),
        ):
            x, zero = images(4), torch.zeros(4, 1, 8, 8)
            guide = at_xt(experts, Classification(), target)
            grad = guide(x, level, Prediction(x0=zero, eps=zero))
            for i, owner in enumerate(owners):
                one = x[i : i + 1].clone().requires_grad_()
                logits = experts.bank.run(owner, one)
                value = -F.cross_entropy(logits, target[i : i + 1])
                torch.testing.assert_close(grad[i], torch.autograd.grad(value, one)[0][0])

    def test_no_gradient_stays_in_the_trunk_or_the_updates(self):
        experts, x = five(low_rank), images(2).requires_grad_()
        experts.at(LINEAR.at(300))(x).sum().backward()
        assert x.grad.any() and all(p.grad is None for p in experts.parameters())

    def test_a_float64_state_meets_float32_experts(self, experts):
        x = images(2)
        wide = experts.at(LINEAR.at(300))(x)
        narrow = experts.float().at(LINEAR.at(300))(x)
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("spacing", ["ddim25", "250"])
    def test_one_switch_per_interval_and_none_per_step(self, spacing, monkeypatch):
        experts, x = five(low_rank), images(1)
        merges, composed = [], []
        merge, tensors = lora.merge, lora.Update.tensors
        monkeypatch.setattr(lora, "merge", lambda *a: merges.append(a) or merge(*a))
        monkeypatch.setattr(lora.Update, "tensors", lambda *a: composed.append(a) or tensors(*a))
        for sample in (1, 2):
            for level in LINEAR.grid(spacing)[:-1]:
                experts.at(level)(x)
            assert len(merges) == len(composed) == 5 * sample


def bytes_reachable_from(root) -> int:
    """Bytes of all distinct tensors that the garbage collector can reach."""
    skip = (type, ModuleType, FunctionType, BuiltinFunctionType)
    seen, storages, stack = set(), {}, [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, skip):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        stack += gc.get_referents(item)
    return sum(storages.values())


def nbytes(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


class TestMemory:
    @pytest.mark.parametrize("n", [1, 5, 10])
    def test_n_experts_weigh_the_trunk_and_n_updates(self, n):
        experts = five(low_rank, Intervals(1000, n))
        trunk = nbytes(*network().state_dict().values())
        update = nbytes(*experts.bank.members[0].state_dict().values())
        assert bytes_reachable_from(experts) == trunk + n * update
        # While guiding, the adapted layers' weights exist once more, for any number of experts.
        merged = nbytes(*(network()[i].weight for i in (0, 3)))
        for t in (0, 500, 999):
            experts.at(LINEAR.at(t))(images(1))
            assert bytes_reachable_from(experts) == trunk + n * update + merged
        experts.bank.unmerge()
        assert bytes_reachable_from(experts) == trunk + n * update

    def test_n_copies_weigh_n_networks(self):
        one = nbytes(*network().state_dict().values())
        assert bytes_reachable_from(five(full_copies)) == 5 * one


class TestTraining:
    def test_a_batch_trains_only_the_experts_in_it(self, experts):
        before = [copy.deepcopy(member.state_dict()) for member in experts.bank.members]
        bare = copy.deepcopy(getattr(experts.bank, "trunk", nn.Identity()).state_dict())
        experts.train()
        optimisers = [torch.optim.AdamW(experts.parameters_of(k), lr=0.01) for k in range(5)]
        experts(images(6), levels(10, 900, 20, 950, 30, 999)).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
        for k, member in enumerate(experts.bank.members):
            changed = {n for n, v in member.state_dict().items() if not v.equal(before[k][n])}
            assert changed == (set(before[k]) if k in (0, 4) else set())
        trunk = getattr(experts.bank, "trunk", nn.Identity()).state_dict()
        assert all(torch.equal(trunk[name], bare[name]) for name in bare)

    def test_one_batched_pass_is_each_expert_s_own_pass(self, experts):
        x, level = images(6), levels(10, 900, 20, 950, 30, 999)
        alone = copy.deepcopy(experts)
        for each in (experts, alone):
            each.train()
        experts(x, level).square().sum().backward()
        for k, own in ((0, [0, 2, 4]), (4, [1, 3, 5])):
            alone(x[own], level[own]).square().sum().backward()
            pairs = zip(experts.parameters_of(k), alone.parameters_of(k), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours.grad, theirs.grad)
            buffers = zip(
                experts.bank.members[k].buffers(), alone.bank.members[k].buffers(), strict=True
            )
            for ours, theirs in buffers:
                torch.testing.assert_close(ours, theirs)

    def test_in_train_mode_guidance_reads_unmerged(self, experts):
        x, level = images(4), LINEAR.at(300)
        experts.train()
        first = experts.at(level)(x)
        torch.testing.assert_close(first, experts(x, level))
        assert not torch.allclose(first, experts.eval().at(level)(x))

    def test_parameters_of_all_experts_are_disjoint_and_all_that_is_trained(self, experts):
        parts = [{id(p) for p in experts.parameters_of(k)} for k in range(5)]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert set.union(*parts) == {id(p) for p in experts.parameters() if p.requires_grad}

    def test_experts_begin_as_the_trunk_and_leave_it_alone(self):
        net, x = network().eval(), images(3)
        expected = net(x)
        for fresh in (full_copies(net, FIVE), low_rank(net, the_plan(net), FIVE)):
            torch.testing.assert_close(fresh.eval()(x, levels(0, 500, 999)), expected)
            assert torch.equal(fresh.at(LINEAR.at(500))(x), expected)
        assert torch.equal(net(x), expected)


class TestFiles:
    def test_a_set_returns_as_it_was(self, experts, tmp_path):
        path, x = tmp_path / "set.safetensors", images(3)
        sets.save(experts, path)
        again = sets.read(path, network())
        assert again.intervals == experts.intervals and type(again.bank) is type(experts.bank)
        for t in (0, 450, 999):
            assert torch.equal(again.at(LINEAR.at(t))(x), experts.at(LINEAR.at(t))(x))
        assert not again.training and not any(p.requires_grad for p in again.parameters())

    def test_a_set_of_updates_holds_nothing_of_the_trunk(self, tmp_path):
        experts = five(low_rank)
        sets.save(experts, tmp_path / "set.safetensors", dtype=torch.float16)
        state = weights.read(tmp_path / "set.safetensors")
        own = experts.bank.members[0].state_dict()
        assert state.keys() == {f"{k}.{name}" for k in range(5) for name in own}
        assert state["3.0.lora_A"].dtype == torch.float16
        entries = json.loads(weights.metadata(tmp_path / "set.safetensors")["experts"])
        plan = lora.Plan.from_json(entries["plan"])
        assert (entries["n"], entries["T"], plan) == (5, 1000, the_plan(network()))

    def test_what_is_no_set_or_of_another_trunk_is_refused(self, tmp_path):
        path = tmp_path / "set.safetensors"
        weights.save(network().state_dict(), path)
        with pytest.raises(ExpertsError, match="not a set of experts"):
            sets.read(path, network())
        weights.save(network().state_dict(), path, metadata={"experts": '{"n": 5, "x": 1}'})
        with pytest.raises(ExpertsError, match="unreadably"):
            sets.read(path, network())
        sets.save(five(low_rank), path)
        with pytest.raises(ExpertsError, match="does not fit this trunk: the trunk has no param"):
            sets.read(path, nn.Sequential(nn.Linear(2, 2)))
        sets.save(five(full_copies), path)
        with pytest.raises(WeightsError, match="unexpected"):
            sets.read(path, nn.Sequential(nn.Conv2d(1, 16, 3, bias=False)))

    def test_updates_of_different_plans_are_no_set(self, tmp_path):
        net = network()
        plans = (the_plan(net), replace(the_plan(net), rank=3))
        mixed = Experts(Adapted(net, [lora.Update(net, p) for p in plans]), Intervals(1000, 2))
        with pytest.raises(ExpertsError, match="different plans"):
            sets.save(mixed, tmp_path / "set.safetensors")


class TestZoo:
    NAME, TRUNK = "fashion/ppap2-judge", "fashion/judge"

    @pytest.fixture
    def assets(self, tmp_path):
        """The zoo's cards with a published trunk (the judge: the smallest) and a set on it."""
        folder = tmp_path / "assets"
        shutil.copytree(ASSETS / "cards", folder / "cards")
        self.publish_trunk(0, tmp_path, folder)
        trunk = zoo.load(self.TRUNK, assets=folder)
        convolutions = lora.plan(trunk, lambda n, m: isinstance(m, nn.Conv2d), 2, 4.0)
        made = shaken(low_rank(trunk, convolutions, Intervals(1000, 2)))
        path = folder / "weights" / f"{self.NAME}.safetensors"
        sets.save(made, path, self.TRUNK, assets=folder)
        trunk_card = zoo.card(self.TRUNK, folder)
        card = Card(
            name=self.NAME,
            kind="experts",
            summary="two updates",
            network={"trunk": self.TRUNK},
            file={"asset": f"{self.NAME}.safetensors"},
            license="Apache-2.0",
            data="none",
            channels=trunk_card.channels,
            size=trunk_card.size,
            parameters=1,
            tensors=1,
            sha256=weights.sha256(path),
        )
        write(card, folder)
        return folder, made, card

    def publish_trunk(self, seed, tmp_path, folder):
        torch.manual_seed(seed)
        state = tier("fashion").classifier("judge").state_dict()
        weights.save(state, tmp_path / "000000001.safetensors")
        publish(self.TRUNK, tmp_path / "000000001.safetensors", assets=folder)

    def test_a_set_comes_with_its_trunk(self, assets):
        folder, made, _ = assets
        again, x = sets.load(self.NAME, assets=folder), torch.randn(2, 1, 32, 32)
        for t in (0, 999):
            level = LINEAR.at(t)
            assert torch.equal(again.at(level)(x), made.at(level)(x))

    def test_a_set_is_refused_after_its_trunk_was_trained_again(self, assets, tmp_path):
        self.publish_trunk(1, tmp_path, assets[0])
        with pytest.raises(ExpertsError, match="train the experts again"):
            sets.load(self.NAME, assets=assets[0])

    def test_a_tampered_or_untrained_set_is_refused(self, assets):
        folder, _, card = assets
        write(replace(card, sha256="0" * 64), folder)
        with pytest.raises(WeightsError, match="sha256"):
            sets.load(self.NAME, assets=folder)
        write(replace(card, sha256=None, note="its training has not finished"), folder)
        with pytest.raises(ExpertsError, match="not trained yet: its training"):
            sets.load(self.NAME, assets=folder)

    def test_an_unknown_set_is_refused_with_what_there_is(self, assets):
        with pytest.raises(ExpertsError, match="there are .*fashion/ppap2-judge.*; train one, or"):
            sets.load("fashion/ppap7-resnet18", assets=assets[0])
        with pytest.raises(ExpertsError, match="no set of experts 'fashion/judge'"):
            sets.load("fashion/judge", assets=assets[0])
        with pytest.raises(zoo.ZooError, match="is a set of experts: experts.load"):
            zoo.load(self.NAME, assets=assets[0])

    def test_a_set_is_published_and_verified(self, assets, tmp_path):
        folder, made, card = assets
        file = tmp_path / "new.safetensors"
        with torch.no_grad():
            for parameter in made.bank.members.parameters():
                parameter.mul_(1.5)
        sets.save(made, file, self.TRUNK, torch.float16, folder)
        metrics = {"accuracy": {"value": 0.5, "tolerance": 0.01}}
        new = sets.publish(self.NAME, file, {"images_seen": 7, "metrics": metrics}, folder)
        assert new.sha256 != card.sha256 and new.images_seen == 7
        assert new.parameters == sum(p.numel() for p in made.bank.members.parameters())
        x, level = torch.randn(2, 1, 32, 32), LINEAR.at(3)
        installed = sets.load(self.NAME, assets=folder).at(level)(x)
        assert torch.equal(
            installed, sets.read(file, zoo.load(self.TRUNK, assets=folder)).at(level)(x)
        )
        # float16 keeps ten bits.
        torch.testing.assert_close(installed, made.at(level)(x), rtol=0.01, atol=0.01)

        def verdicts(found):
            measures = {"accuracy": lambda card, experts: found * isinstance(experts, Experts)}
            return {c.what: c.ok for c in sets.verify(self.NAME, measures, folder)}

        fine = dict.fromkeys(("parameters", "tensors", "sha256", "accuracy"), True)
        assert verdicts(0.505) == fine and verdicts(0.52) == {**fine, "accuracy": False}
        write(replace(new, parameters=1), folder)
        assert verdicts(0.5) == {**fine, "parameters": False}
        write(replace(new, sha256="0" * 64), folder)
        assert verdicts(0.5) == {"sha256": False}

    def test_publishing_refuses_what_is_no_set_of_this_trunk(self, assets, tmp_path):
        folder = assets[0]
        path = folder / "weights" / f"{self.NAME}.safetensors"
        with pytest.raises(ExpertsError, match="is a classifier, not a set of experts"):
            sets.publish(self.TRUNK, path, assets=folder)
        with pytest.raises(ExpertsError, match="not a set of experts written by"):
            trunk = folder / "weights" / f"{self.TRUNK}.safetensors"
            sets.publish(self.NAME, trunk, assets=folder)
        self.publish_trunk(1, tmp_path, folder)
        with pytest.raises(ExpertsError, match="train the experts again"):
            sets.publish(self.NAME, path, assets=folder)


def test_copies_are_a_bank_of_their_own():
    nets = [network(0), network(1)]
    experts = Experts(Copies(nets), Intervals(1000, 2)).eval()
    x = images(2)
    assert torch.equal(experts.at(LINEAR.at(700))(x), nets[1].eval()(x))
