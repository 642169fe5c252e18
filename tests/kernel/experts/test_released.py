"""The authors' released checkpoints, in random weights of their format, become our experts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ppap_lib import experts as sets
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError, WeightsError
from ppap_lib.experts import released
from ppap_lib.networks.vision import Vision
from ppap_lib.zoo.tiers import tier

LINEAR = Schedule.linear()


class TheirConv(nn.Module):
    """How the authors' adapted convolution computes, from the published description."""

    def __init__(self, conv, rank, scale):
        super().__init__()
        self.conv, self.scale, (k, _) = conv, scale, conv.kernel_size
        self.lora_A = nn.Parameter(torch.randn(rank * k, conv.in_channels * k) * 0.1)
        self.lora_B = nn.Parameter(torch.randn(conv.out_channels * k, rank * k) * 0.1)

    def forward(self, x):
        extra = (self.lora_B @ self.lora_A).reshape(self.conv.weight.shape)
        return self.conv(x) + self.scale * F.conv2d(
            x, extra, None, self.conv.stride, self.conv.padding
        )


class TheirLinear(nn.Module):
    """Their adapted linear layer: the low-rank path without alpha / r."""

    def __init__(self, linear, rank):
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Parameter(torch.randn(rank, linear.in_features) * 0.1)
        self.lora_B = nn.Parameter(torch.randn(linear.out_features, rank) * 0.1)

    def forward(self, x):
        return self.linear(x) + x @ self.lora_A.T @ self.lora_B.T


def their_resnet(backbone, seed):
    """Their ResNet: adapted conv1, conv2; an own norm and statistics; frozen shortcut weights."""
    torch.manual_seed(seed)
    net = copy.deepcopy(backbone)
    blocks = [block for i in range(1, 5) for block in getattr(net, f"layer{i}")]
    for owner, name in [(net, "conv1"), *((b, f"conv{i}") for b in blocks for i in (1, 2))]:
        setattr(owner, name, TheirConv(getattr(owner, name), 16, 8 / 16))
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if "downsample" not in name:
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return wrapped(net.eval(), "resnet")


def their_deit(backbone, seed):
    torch.manual_seed(seed)
    net = copy.deepcopy(backbone)
    for block in net.blocks:
        block.attn.qkv = TheirLinear(block.attn.qkv, 4)
        block.attn.proj = TheirLinear(block.attn.proj, 4)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.2, 0.2)
    return wrapped(net.eval(), "deit", "classifier")


def wrapped(network, *path):
    for name in reversed(path):
        outer = nn.Module()
        outer.add_module(name, network)
        outer.inside = network.inside if hasattr(network, "inside") else [network]
        network = outer
    return network


def small_resnet():
    import timm

    # A bottleneck ResNet, thin; only the stem keeps its width.
    return timm.create_model("resnet26", channels=(4, 8, 8, 16), num_classes=7)


def small_deit():
    return tier("fashion").classifier("vit")


class TestReleasedCheckpoints:
    @pytest.mark.parametrize(
        ("make_backbone", "theirs", "shape", "scale"),
        [
            (small_resnet, their_resnet, (2, 3, 32, 32), 0.5),
            (small_deit, their_deit, (2, 1, 32, 32), 1.0),
        ],
        ids=["resnet", "deit"],
    )
    def test_converted_experts_compute_the_same(self, make_backbone, theirs, shape, scale):
        torch.manual_seed(0)
        backbone = make_backbone()
        models = [theirs(backbone, seed) for seed in (1, 2)]
        experts = released([model.state_dict() for model in models], make_backbone())
        assert experts.bank[0].config.scale == scale
        x = torch.randn(shape)
        with torch.no_grad():
            for k, t in enumerate((499, 500)):
                expected = models[k].inside[0](x)
                torch.testing.assert_close(experts.bank.run(k, x), expected, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(
                    experts.at(LINEAR.at(t))(x), expected, rtol=1e-4, atol=1e-5
                )

    @pytest.mark.parametrize("size", [32, 48])
    def test_their_transformer_reads_images_of_another_size_resized(self, size):
        torch.manual_seed(0)
        backbone = small_deit()
        models = [their_deit(backbone, seed) for seed in (1, 2)]
        reads = Vision(small_deit(), 32, 1, "0123456789")
        experts = released([model.state_dict() for model in models], reads)
        x = torch.randn(2, 1, size, size)
        with torch.no_grad():
            for model, t in zip(models, (0, 999), strict=True):
                expected = model.inside[0](reads.prepare(x))
                found = experts.at(LINEAR.at(t))(x)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("inside", [False, True], ids=["bare", "resizing"])
    @pytest.mark.parametrize(
        ("make_backbone", "prefix", "shape"),
        [(small_resnet, "", (3, 32, 32)), (small_deit, "classifier.", (1, 32, 32))],
        ids=["resnet", "deit"],
    )
    @pytest.mark.parametrize("count", [1, 5], ids=["single", "multi-experts"])
    def test_their_supervised_networks_are_whole(self, make_backbone, prefix, shape, count, inside):
        """The single finetuned model, and multi-experts-5."""
        models = []
        for seed in range(count):
            torch.manual_seed(seed)
            models.append(make_backbone().eval())
        states = [{prefix + k: v for k, v in m.state_dict().items()} for m in models]
        backbone = make_backbone()
        if inside:
            backbone = Vision(backbone, shape[-1], shape[0], range(models[0].num_classes))
        experts = released(states, backbone)
        assert not any(p.requires_grad for p in experts.parameters())
        x = torch.randn(2, *shape)
        with torch.no_grad():
            for model, t in zip(models, range(0, 1000, 1000 // count), strict=True):
                assert torch.equal(experts.at(LINEAR.at(t))(x), model(x))

    def test_their_names_are_those_of_the_design(self):
        resnet, deit = their_resnet(small_resnet(), 1), their_deit(small_deit(), 1)
        assert {"resnet.layer1.0.conv1.conv.weight", "resnet.layer1.0.conv1.lora_A"} < (
            resnet.state_dict().keys()
        )
        assert {"deit.classifier.blocks.0.attn.qkv.linear.weight"} < deit.state_dict().keys()

    def test_what_is_not_theirs_is_refused(self):
        backbone = small_resnet()
        good, other = (their_resnet(backbone, seed).state_dict() for seed in (1, 2))
        adapter = {k: v for k, v in good.items() if "lora_" in k or "bn" in k or "bias" in k}
        lost_b = {k: v for k, v in good.items() if k != "resnet.conv1.lora_B"}
        of_another_backbone = other | {"resnet.fc.weight": other["resnet.fc.weight"] + 1}
        whole = backbone.state_dict()
        for states, message in [
            ([{}], "state dict 0 lacks .* of the backbone's tensors"),
            ([{"weight": torch.zeros(1)}], "lacks .* of a network like the backbone"),
            ([adapter], "an adapter file, .* give the full state dict"),
            (
                [good, {k: v for k, v in other.items() if "fc" not in k}],
                "1 lacks 2 of the backbone's",
            ),
            ([good, whole], "adapt different layers"),
            ([lost_b], "lacks conv1.lora_B"),
            ([good, of_another_backbone], "differ in fc.weight, which PPAP freezes"),
        ]:
            with pytest.raises(WeightsError, match=message):
                released(states, small_resnet())
        with pytest.raises(InputError, match="no state dicts"):
            released([], small_resnet())
        with pytest.raises(WeightsError, match="0 lacks .* of a network like the backbone"):
            released([good], small_deit())
        with pytest.raises(WeightsError, match="state dict 0 does not fit .* 1 unexpected: extra"):
            released([whole | {"extra": torch.zeros(1)}], small_resnet())

    def test_a_set_of_theirs_can_be_saved_as_ours(self, tmp_path):
        backbone = small_resnet()
        states = [their_resnet(backbone, seed).state_dict() for seed in (1, 2)]
        experts = released(states, backbone)
        sets.save(experts, tmp_path / "set.safetensors")
        again, x = sets.read(tmp_path / "set.safetensors", backbone), torch.randn(1, 3, 32, 32)
        assert torch.equal(again.at(LINEAR.at(700))(x), experts.at(LINEAR.at(700))(x))
