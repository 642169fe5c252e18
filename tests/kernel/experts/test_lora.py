"""Low-rank updates: nothing at first, equal merged or not, and no change to the backbone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ppap_lib.errors import InputError
from ppap_lib.experts import LoraBank, bank, lora
from ppap_lib.experts.lora import LoraConfig, LoraUpdate
from ppap_lib.files import weights
from ppap_lib.zoo.tiers import tier


class Net(nn.Module):
    """Every kind of layer that updates know, in 1,000 parameters."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.oblong = nn.Conv2d(12, 8, (1, 3), padding=(0, 1))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = self.oblong(self.depthwise(self.grouped(x)).relu()).relu()
        return self.head(self.drop(x.mean((2, 3))))


LAYERS = ("stem", "grouped", "oblong", "head")


def backbone(seed=0) -> Net:
    torch.manual_seed(seed)
    net = Net().double().eval()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return net


def images(count=4, seed=1):
    return torch.randn(
        count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def the_config(net, rank=2, alpha=5.0) -> LoraConfig:
    return lora.lora_config(net, LAYERS, rank, alpha, ("norm.*", "head.bias"))


def moved(net, seed=2, config=None) -> LoraUpdate:
    """An update away from its start in every tensor."""
    update = LoraUpdate(net, config or the_config(net))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*update.parameters(), *update.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(7)
    return update


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(module, state):
    now = module.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[k], state[k]) for k in state)


class TestPlans:
    def test_names_globs_and_predicates_select_in_the_backbone_s_order(self):
        net = backbone()
        config = lora.lora_config(net, ["head", "st*"], 2, 4.0)
        assert config.layers == ("stem", "head") and config.scale == 2.0
        wide = lora.lora_config(net, lambda name, layer: layer.weight.shape[0] == 8, 1, 1.0)
        assert wide.layers == ("stem", "oblong")
        assert lora.lora_config(net, "head", 2, 4.0).layers == ("head",)
        assert lora.lora_config(net, iter(["head", "stem"]), 2, 4.0) == config

    def test_a_name_or_glob_that_matches_nothing_is_an_error(self):
        net = backbone()
        with pytest.raises(InputError, match="no layer matches 'layer4.*': there are stem"):
            lora.lora_config(net, ["stem", "layer4.*"], 2, 4.0)
        with pytest.raises(InputError, match="no parameter matches 'stem.bias'"):
            lora.lora_config(net, "stem", 2, 4.0, "stem.bias")
        with pytest.raises(InputError, match="matches no layer"):
            lora.lora_config(net, lambda name, layer: False, 2, 4.0)

    @pytest.mark.parametrize("layers", ["depthwise", "*", lambda name, layer: True])
    def test_depthwise_convolutions_are_refused_with_the_reason(self, layers):
        with pytest.raises(InputError, match="depthwise is a depthwise .* larger than the layer"):
            lora.lora_config(backbone(), layers, 2, 4.0)

    def test_other_layers_are_refused_by_kind(self):
        with pytest.raises(InputError, match="norm is a BatchNorm2d: expected a Linear or a Conv"):
            lora.lora_config(backbone(), "norm", 2, 4.0)

    @pytest.mark.parametrize(
        ("rank", "alpha", "trained", "message"),
        [
            (0, 4.0, (), "rank must be at least 1"),
            (2, 0.0, (), "alpha must be"),
            (2, float("nan"), (), "alpha must be"),
            (2, 4.0, "stem.weight", "stem.weight cannot be trained in full and have low-rank"),
        ],
    )
    def test_impossible_configs_are_refused(self, rank, alpha, trained, message):
        with pytest.raises(InputError, match=message):
            lora.lora_config(backbone(), "stem", rank, alpha, trained)

    def test_a_config_survives_json_and_nothing_else_passes(self):
        config = the_config(backbone())
        assert LoraConfig.from_json(config.to_json()) == config
        for text in ("{", "[]", "{}", '{"layers": [], "trained": [], "rank": 1, "colour": 2}'):
            with pytest.raises(InputError, match="not a LoRA configuration"):
                LoraConfig.from_json(text)

    def test_a_config_of_another_backbone_is_refused(self):
        config = the_config(backbone())
        with pytest.raises(InputError, match="no parameter stem.weight: .* is another"):
            LoraUpdate(nn.Sequential(nn.Linear(2, 2)), config)

    def test_norms_biases_and_statistics_by_name(self):
        net = backbone()
        assert lora.norm_affines(net) == ("norm.weight", "norm.bias")
        assert set(lora.biases(net)) == {n for n, _ in net.named_parameters() if "bias" in n}
        assert set(lora.statistics(net)) == {n for n, _ in net.named_buffers()}


class TestConvention:
    @given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.data())
    @settings(max_examples=30, deadline=None)
    def test_the_product_is_read_row_by_row_as_the_kernel(self, groups, ins, outs, rank, data):
        k = data.draw(st.integers(1, 3))
        ins = 1 + ins if groups > 1 else ins  # one input per group would be depthwise
        conv = nn.Conv2d(ins * groups, outs * groups, k, groups=groups).double()
        update = moved(conv_net := nn.Sequential(conv), config=LoraConfig(("0",), (), rank, 3.0))
        a, b = update.get_parameter("0.lora_A"), update.get_parameter("0.lora_B")
        assert a.shape == (rank * k, groups * ins * k) and b.shape == (outs * k, rank * k)
        delta = update.tensors(conv_net)["0.weight"] - conv.weight
        o, i, y, x = (data.draw(st.integers(0, n - 1)) for n in (outs * groups, ins, k, k))
        row, column = divmod(((o * ins + i) * k + y) * k + x, ins * groups * k)
        expected = 3.0 / rank * (b[row] * a[:, column]).sum()
        torch.testing.assert_close(delta[o, i, y, x], expected)

    def test_a_linear_layer_adds_a_scaled_low_rank_path(self):
        linear = nn.Linear(6, 4).double()
        net = nn.Sequential(linear)
        update = moved(net, config=LoraConfig(("0",), (), 2, 6.0))
        x = torch.randn(3, 6, dtype=torch.float64)
        a, b = update.get_parameter("0.lora_A"), update.get_parameter("0.lora_B")
        torch.testing.assert_close(update(net, x), linear(x) + 3 * (x @ a.T) @ b.T)

    def test_the_factors_gradients_are_those_of_the_weight_projected(self):
        net, x = backbone(), images()
        update = moved(net)
        update(net, x).square().sum().backward()
        changed = {name: tensor.detach() for name, tensor in update.tensors(net).items()}
        for layer in LAYERS:
            changed[f"{layer}.weight"].requires_grad_()
        torch.func.functional_call(net, changed, (x,)).square().sum().backward()
        for layer in LAYERS:
            a, b = (update.get_parameter(f"{layer}.lora_{f}") for f in "AB")
            grad = 2.5 * changed[f"{layer}.weight"].grad.reshape(len(b), -1)
            torch.testing.assert_close(b.grad, grad @ a.T)
            torch.testing.assert_close(a.grad, b.T @ grad)


class TestStart:
    def test_an_update_changes_no_bit_at_first(self):
        net, x = backbone(), images()
        update = LoraUpdate(net, the_config(net))
        assert torch.equal(update(net, x), net(x))
        assert torch.equal(lora.merge(net, update)(x), net(x))

    @pytest.mark.parametrize(
        ("name", "config"), [("resnet18", lora.resnet_lora), ("vit", lora.vit_lora)]
    )
    def test_nor_in_the_tier_s_guides(self, name, config):
        net = tier("fashion").classifier(name).eval()
        update = LoraUpdate(net, config(net, 2))
        x = torch.randn(2, 1, 32, 32)
        with torch.no_grad():
            assert torch.equal(update(net, x), net(x))

    def test_factors_start_at_random_times_zero(self):
        net = backbone()
        update = LoraUpdate(net, the_config(net))
        for layer in LAYERS:
            assert update.get_parameter(f"{layer}.lora_A").all()
            assert not update.get_parameter(f"{layer}.lora_B").any()


class TestMerging:
    @pytest.mark.parametrize(("rank", "alpha"), [(2, 5.0), (3, 3.0), (4, 1.0)])
    def test_merged_equals_unmerged(self, rank, alpha):
        net, x = backbone(), images()
        update = moved(net, config=the_config(net, rank, alpha))
        assert not torch.allclose(update(net, x), net(x))
        torch.testing.assert_close(lora.merge(net, update)(x), update(net, x))

    def test_also_where_a_layer_pads_by_itself(self):
        from timm.layers import Conv2dSame

        net = nn.Sequential(Conv2dSame(3, 6, 3, stride=2)).double().eval()
        update, x = moved(net, config=LoraConfig(("0",), ("0.bias",), 2, 5.0)), images()
        torch.testing.assert_close(lora.merge(net, update)(x), update(net, x))
        x = F.pad(x, (0, 1, 0, 1))  # what SAME means at stride 2 on 8 x 8
        changed = update.tensors(net)
        expected = F.conv2d(x, changed["0.weight"], changed["0.bias"], stride=2)
        torch.testing.assert_close(update(net, images()), expected)

    def test_the_gradient_in_x_is_the_same(self):
        net, update = backbone(), moved(backbone())
        net.requires_grad_(False)
        grads = []
        for read in (lambda x: update(net, x), lora.merge(net, update)):
            x = images().requires_grad_()
            grads.append(torch.autograd.grad(read(x).square().sum(), x)[0])
        torch.testing.assert_close(*grads)

    def test_a_merged_network_is_one_of_the_backbone_s_kind(self):
        net = backbone()
        update = moved(net)
        merged = lora.merge(net, update)
        fresh = weights.load(Net().double(), merged.state_dict()).eval()
        assert torch.equal(fresh(images()), merged(images()))
        assert type(merged) is Net and not merged.training

    def test_it_shares_what_it_does_not_change(self):
        net = backbone()
        update = moved(net)
        own = {name: t.data_ptr() for name, t in lora.merge(net, update).state_dict().items()}
        for name, tensor in net.state_dict().items():
            trained = name in (*update.config.trained, *lora.statistics(net))
            if name.removesuffix(".weight") in LAYERS:
                assert own[name] != tensor.data_ptr()
            else:
                held = update.state_dict()[name] if trained else tensor
                assert own[name] == held.data_ptr()

    def test_switching_leaves_the_backbone_and_no_trace(self):
        net, x = backbone(), images()
        bare, clean = snapshot(net), net(x)
        adapted = LoraBank(net, [moved(net, 2), moved(net, 3)])
        outputs = [adapted.merged(k)(x) for k in (0, 1, 0, 1, 1)]
        assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[4])
        for k in (0, 1):
            torch.testing.assert_close(outputs[k], adapted.run(k, x))
        assert not torch.allclose(outputs[0], outputs[1])
        adapted.unmerge()
        assert same(net, bare) and torch.equal(net(x), clean)

    def test_a_merged_network_is_made_once_and_again_when_the_update_changes(self, monkeypatch):
        net, x = backbone(), images()
        adapted = LoraBank(net, [moved(net)])
        made = []
        plain = lora.merge
        monkeypatch.setattr(bank, "merge", lambda *a: made.append(a) or plain(*a))
        for _ in range(3):
            adapted.merged(0)(x)
        assert len(made) == 1
        optimiser = torch.optim.AdamW(adapted.updates[0].parameters(), lr=0.1)
        adapted.run(0, x).square().sum().backward()
        optimiser.step()
        torch.testing.assert_close(adapted.merged(0)(x), adapted.run(0, x))
        assert len(made) == 2
        for seed, replace in ((9, False), (10, True)):  # written to, or replaced by another
            adapted.updates[0].load_state_dict(moved(net, seed).state_dict(), assign=replace)
            torch.testing.assert_close(adapted.merged(0)(x), adapted.run(0, x))

    def test_a_merged_network_follows_its_backbone(self):
        net, x = backbone(), images()
        adapted = LoraBank(net, [moved(net)])
        adapted.merged(0)
        for seed, replace in ((3, False), (4, True)):  # written to, or replaced by another
            other = backbone(seed).state_dict()
            net.load_state_dict(other, assign=replace)
            net.requires_grad_(False)
            torch.testing.assert_close(adapted.merged(0)(x), adapted.run(0, x))
            assert adapted.merged(0) is adapted.merged(0)

    def test_a_merged_network_follows_a_part_of_its_backbone_that_no_update_changes(self):
        net, x = backbone(), images()
        adapted = LoraBank(net, [LoraUpdate(net, lora.lora_config(net, "stem", 2, 1.0))])
        adapted.merged(0)
        net.head.weight = nn.Parameter(net.head.weight + 1, False)
        torch.testing.assert_close(adapted.merged(0)(x), adapted.run(0, x))

    @pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}], ids=str)
    def test_a_merged_network_follows_training(self, how):
        """Also by optimisers that leave no trace of what they write."""
        net, x = backbone(), images()
        adapted = LoraBank(net, [moved(net)]).eval()
        before = adapted.merged(0)(x)
        optimiser = torch.optim.AdamW(adapted.updates[0].parameters(), lr=0.1, **how)
        adapted.train()
        adapted.run(0, x).square().sum().backward()
        optimiser.step()
        adapted.eval()
        after = adapted.merged(0)(x)
        torch.testing.assert_close(after, adapted.run(0, x))
        assert not torch.allclose(before, after)

    def test_updates_loaded_in_inference_mode_can_be_merged(self):
        net, x = backbone(), images()
        with torch.inference_mode():
            adapted = LoraBank(net, [moved(net)])
            torch.testing.assert_close(adapted.merged(0)(x), adapted.run(0, x))
            assert adapted.merged(0) is adapted.merged(0)

    def test_what_was_read_in_inference_mode_can_be_differentiated_later(self):
        net, x = backbone(), images()
        adapted = LoraBank(net, [moved(net)])
        with torch.inference_mode():
            adapted.merged(0)(x)
        x = x.requires_grad_()
        (found,) = torch.autograd.grad(adapted.merged(0)(x).sum(), x)
        (expected,) = torch.autograd.grad(adapted.run(0, x).sum(), x)
        torch.testing.assert_close(found, expected)

    def test_a_copy_makes_its_own_merged_network(self):
        """After as many writes its tensors' versions are those of the original's."""
        net, x = backbone(), images()
        adapted = LoraBank(net, [moved(net)])
        for module in adapted.modules():  # version 0, as of tensors that were just read
            for name, tensor in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(tensor.detach().clone(), False)
            for name, tensor in module.named_buffers(recurse=False):
                module._buffers[name] = tensor.clone()
        adapted.updates[0].load_state_dict(moved(net, 3).state_dict())
        for buffer in adapted.updates[0].buffers():
            buffer.add_(0)  # a copy's buffers, unlike its parameters, begin at version 1
        adapted.merged(0)
        other = copy.deepcopy(adapted)
        other.updates[0].load_state_dict(moved(net, 4).state_dict())
        torch.testing.assert_close(other.merged(0)(x), other.run(0, x))

    def test_a_weight_that_two_layers_share_is_not_updated(self):
        net = backbone()
        net.other = nn.Linear(8, 5).double()
        net.other.weight = net.head.weight
        with pytest.raises(InputError, match="head.weight is another layer's, too"):
            LoraUpdate(net, the_config(net))

    def test_a_trained_parameter_that_two_layers_share_is_not_updated(self):
        net = backbone()
        net.other = nn.Linear(8, 5).double()
        net.other.bias = net.head.bias
        with pytest.raises(InputError, match="head.bias is another layer's, too"):
            LoraUpdate(net, lora.lora_config(net, "stem", 2, 1.0, "head.bias"))

    def test_moving_to_another_dtype_moves_the_merged_network(self):
        net, x = backbone(), images()
        adapted = LoraBank(net, [moved(net)])
        adapted.merged(0)
        adapted.float()
        torch.testing.assert_close(adapted.merged(0)(x.float()), adapted.run(0, x.float()))
        assert adapted.merged(0)(x.float()).dtype == torch.float32


class TestModes:
    def test_training_equals_training_the_network_s_own_tensors(self):
        """Biases and norms in full: the same steps, statistics and outputs as a plain network."""
        net = backbone()
        names = ("norm.weight", "norm.bias", "head.bias", "grouped.bias")
        update = LoraUpdate(net, LoraConfig((), names, 1, 1.0))
        plain = copy.deepcopy(net)
        net.requires_grad_(False).train()
        plain.requires_grad_(False).train()
        own = [plain.get_parameter(name).requires_grad_() for name in names]
        bare = snapshot(net)
        optimisers = [torch.optim.SGD(p, lr=0.1) for p in (update.parameters(), own)]
        for step in range(3):
            for evaluate, optimiser in zip(
                (lambda x: update(net, x), plain), optimisers, strict=True
            ):
                torch.manual_seed(step)  # of dropout
                optimiser.zero_grad()
                evaluate(images(6, step)).square().sum().backward()
                optimiser.step()
        for name, value in update.state_dict().items():
            torch.testing.assert_close(value, plain.state_dict()[name])
        assert update.get_buffer("norm.num_batches_tracked") == 3
        net.eval(), plain.eval()
        torch.testing.assert_close(update(net, images()), plain(images()))
        assert same(net, bare)

    def test_evaluation_moves_no_statistics_and_drops_nothing_out(self):
        net = backbone()
        update = moved(net)
        before = snapshot(update)
        assert torch.equal(update(net, images()), update(net, images()))
        assert same(update, before)
        net.train()
        torch.manual_seed(0)
        first = update(net, images())
        assert not torch.allclose(first, update(net, images()))
        assert not same(update, before)

    def test_only_the_update_is_trained(self):
        net = backbone()
        adapted = LoraBank(net, [LoraUpdate(net, the_config(net))])
        adapted.run(0, images()).sum().backward()
        assert all(parameter.grad is None for parameter in net.parameters())
        trainable = {n for n, p in adapted.named_parameters() if p.requires_grad}
        assert trainable == {n for n, _ in adapted.named_parameters() if n.startswith("updates")}
