"""Experts: every image is read by the owner of its timestep, whatever else is in the batch."""

import copy
import gc
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from five_experts import FIVE, LINEAR, five, images, levels, network, the_config
from torch import nn
from torch.utils._pytree import tree_map

from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.errors import InputError, ScheduleError
from ppap_lib.experts import Experts, FullCopies, bank, full_copies, lora, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.guidance import at_xt
from ppap_lib.guidance.tasks import Classification


@pytest.fixture(params=[low_rank, full_copies], ids=["low_rank", "full_copies"])
def experts(request):
    return five(request.param)


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
        with pytest.raises(InputError, match="5 experts for 10 intervals"):
            Experts(experts.bank, Intervals(1000, 10))
        for read in (experts, lambda x, level: experts.at(level)(x)):
            for times in ((1, 2), (1, 999)):  # of one expert, and of two
                with pytest.raises(InputError, match="2 levels for 3 images"):
                    read(images(3), levels(*times))
        with pytest.raises(ScheduleError, match=r"\[0, 500\), .* with T = 500"):
            five(low_rank, Intervals(500, 5)).at(LINEAR.at(500))


class TestGuidance:
    def test_experts_are_noise_aware_models(self, experts):
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

    def test_no_gradient_stays_in_the_backbone_or_the_updates(self):
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
        merge, tensors = lora.merge, lora.LoraUpdate.tensors
        monkeypatch.setattr(bank, "merge", lambda *a: merges.append(a) or merge(*a))
        monkeypatch.setattr(
            lora.LoraUpdate, "tensors", lambda *a: composed.append(a) or tensors(*a)
        )
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
    def test_n_experts_weigh_the_backbone_and_n_updates(self, n):
        experts = five(low_rank, Intervals(1000, n))
        backbone = nbytes(*network().state_dict().values())
        update = nbytes(*experts.bank[0].state_dict().values())
        assert bytes_reachable_from(experts) == backbone + n * update
        # While guiding, the adapted layers' weights exist once more, for any number of experts.
        merged = nbytes(*(network()[i].weight for i in (0, 3)))
        for t in (0, 500, 999):
            experts.at(LINEAR.at(t))(images(1))
            assert bytes_reachable_from(experts) == backbone + n * update + merged
        experts.bank.unmerge()
        assert bytes_reachable_from(experts) == backbone + n * update

    def test_n_copies_weigh_n_networks(self):
        one = nbytes(*network().state_dict().values())
        assert bytes_reachable_from(five(full_copies)) == 5 * one


class TestTraining:
    def test_a_batch_trains_only_the_experts_in_it(self, experts):
        before = [copy.deepcopy(member.state_dict()) for member in experts.bank]
        bare = copy.deepcopy(getattr(experts.bank, "backbone", nn.Identity()).state_dict())
        experts.train()
        optimisers = [torch.optim.AdamW(experts.bank[k].parameters(), lr=0.01) for k in range(5)]
        experts(images(6), levels(10, 900, 20, 950, 30, 999)).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
        for k, member in enumerate(experts.bank):
            changed = {n for n, v in member.state_dict().items() if not v.equal(before[k][n])}
            assert changed == (set(before[k]) if k in (0, 4) else set())
        backbone = getattr(experts.bank, "backbone", nn.Identity()).state_dict()
        assert all(torch.equal(backbone[name], bare[name]) for name in bare)

    def test_one_batched_pass_is_each_expert_s_own_pass(self, experts):
        x, level = images(6), levels(10, 900, 20, 950, 30, 999)
        alone = copy.deepcopy(experts)
        for each in (experts, alone):
            each.train()
        experts(x, level).square().sum().backward()
        for k, own in ((0, [0, 2, 4]), (4, [1, 3, 5])):
            alone(x[own], level[own]).square().sum().backward()
            pairs = zip(experts.bank[k].parameters(), alone.bank[k].parameters(), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours.grad, theirs.grad)
            buffers = zip(experts.bank[k].buffers(), alone.bank[k].buffers(), strict=True)
            for ours, theirs in buffers:
                torch.testing.assert_close(ours, theirs)

    def test_in_train_mode_guidance_reads_unmerged(self, experts):
        x, level = images(4), LINEAR.at(300)
        experts.train()
        first = experts.at(level)(x)
        torch.testing.assert_close(first, experts(x, level))
        assert not torch.allclose(first, experts.eval().at(level)(x))

    def test_the_parameters_of_all_experts_are_disjoint_and_all_that_is_trained(self, experts):
        parts = [{id(p) for p in experts.bank[k].parameters()} for k in range(5)]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert set.union(*parts) == {id(p) for p in experts.parameters() if p.requires_grad}

    def test_experts_begin_as_the_backbone_and_leave_it_alone(self):
        net, x = network().eval(), images(3)
        expected = net(x)
        for fresh in (full_copies(net, FIVE), low_rank(net, the_config(net), FIVE)):
            torch.testing.assert_close(fresh.eval()(x, levels(0, 500, 999)), expected)
            assert torch.equal(fresh.at(LINEAR.at(500))(x), expected)
        assert torch.equal(net(x), expected)


def test_copies_are_a_bank_of_their_own():
    nets = [network(0), network(1)]
    experts = Experts(FullCopies(nets), Intervals(1000, 2)).eval()
    x = images(2)
    assert torch.equal(experts.at(LINEAR.at(700))(x), nets[1].eval()(x))


class Outputs(nn.Module):
    """A network of samples of any shape that returns whatever `form` makes of its output."""

    def __init__(self, width, form):
        super().__init__()
        self.layer, self.form = nn.Linear(width, 6), form

    def forward(self, x):
        return self.form(self.layer(x))


class Pair(NamedTuple):
    depth: torch.Tensor
    inside: dict


FORMS = {
    "map": lambda out: out.unflatten(-1, (2, 3)),
    "tuple": lambda out: (out, out[:, :1]),
    "nested": lambda out: Pair(out, {"sum": out.flatten(1).sum(1), "none": None}),
}


class TestAnyOutput:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
    def test_whatever_networks_return_is_put_back_in_order(self, form, shape):
        torch.manual_seed(0)
        experts = Experts(FullCopies(Outputs(4, FORMS[form]) for _ in range(5)), FIVE)
        times = (999, 0, 200, 199, 999)
        x = torch.randn(len(times), *shape)
        found = experts(x, levels(*times))
        for i, t in enumerate(times):
            own = experts.at(LINEAR.at(t))(x[i : i + 1])
            tree_map(torch.testing.assert_close, tree_map(lambda v, i=i: at(v, i), found), own)

    @pytest.mark.parametrize(
        ("form", "message"),
        [
            (lambda out: out.mean(0), r"each of 1 samples, not \[6\]"),
            (lambda out: (out, "depth"), "each of 1 samples, not 'depth'"),
            (lambda out: out.sum(), r"not \[\]"),
        ],
    )
    def test_what_has_no_entry_for_each_sample_is_refused(self, form, message):
        experts = full_copies(Outputs(4, form), FIVE)
        with pytest.raises(InputError, match=message):
            experts(torch.zeros(3, 4), levels(0, 999, 998))


def at(value, index):
    """One sample's part of an output, as a batch of one."""
    return None if value is None else value[index : index + 1]
