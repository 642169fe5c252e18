"""The ADM networks against the public code: keys, outputs, architecture switches, bad input."""

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from places import GOLDEN
from torch import Tensor, nn

from ppap_lib.files import weights
from ppap_lib.networks import blocks
from ppap_lib.networks.adm import Architecture, Classifier, UNet, Upsampler, from_flags

CHECKPOINTS = json.loads(gzip.decompress((GOLDEN / "checkpoints.json.gz").read_bytes()))
TINY = Architecture(3, 32, 3, 1, (2,), channel_mult=(1, 2))  # two levels


def classifier(config: dict) -> Classifier:
    size, pool = config.pop("image_size"), config.pop("pool")
    return Classifier(Architecture(**config), size, pool)


def upsampler(config: dict) -> Upsampler:
    del config["image_size"]  # the public constructor wants it and never reads it
    return Upsampler(Architecture(**config))


MAKERS = {"adm_classifier": classifier, "adm_upsampler": upsampler}
NETWORKS = ["adm_plain", "adm_cond_new_attention", "adm_uncond", *MAKERS]


def golden(name: str) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """One network computed with the public code: the network, its inputs, its output.

    Its matrices and kernels are drawn anew from the seed they came from: the file holds vectors.
    """
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    config = json.loads(str(arrays.pop("config")))
    network = MAKERS.get(name, from_flags)(config)
    generator = torch.Generator().manual_seed(int(arrays["seed"]))
    state = {}
    for key, shape in json.loads(str(arrays["shapes"])).items():
        drawn = torch.randn(shape, generator=generator)  # for vectors too: in the same order
        if drawn.ndim > 1:
            state[key] = (drawn * (0.7 / math.sqrt(drawn[0].numel()))).half()
        else:
            state[key] = torch.from_numpy(arrays[f"w/{key}"])
    weights.load(network, state, name)
    inputs = {
        key.removeprefix("in/"): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith("in/")
    }
    return network.eval(), inputs, torch.from_numpy(arrays["out"])


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value."""
    return float((found.float() - expected).abs().max() / expected.abs().max())


def small(**switches) -> UNet:
    """A two-level U-Net on 16x16 with random (never zero) weights."""
    return randomised(UNet(replace(TINY, **switches)))


def randomised(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


def count(network: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def t() -> Tensor:
    return torch.tensor([10.0, 900.0])


# --- The public checkpoints ---------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_keys_and_shapes_are_those_of_the_public_checkpoint(name):
    published = CHECKPOINTS[name]
    with torch.device("meta"):
        network = from_flags(published["config"])
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    differing = {
        key: (ours.get(key), published["keys"].get(key))
        for key in ours.keys() | published["keys"].keys()
        if ours.get(key) != published["keys"].get(key)
    }
    assert not differing, "key: (ours, published)"
    assert sum(p.numel() for p in network.parameters()) == published["n_params"]


def test_flags_choose_the_kind_of_network():
    with torch.device("meta"):
        kinds = {name: type(from_flags(c["config"])) for name, c in CHECKPOINTS.items()}
    for name, kind in kinds.items():
        expected = (
            Classifier if "classifier" in name else Upsampler if "upsampler" in name else UNet
        )
        assert kind is expected, name


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_public_code(name):
    network, inputs, expected = golden(name)
    assert relative(network(**inputs), expected) < 1e-4  # 1e-6 in practice


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_changes_rounding_only(name):
    network, inputs, expected = golden(name)
    network = network.to(memory_format=torch.channels_last)
    inputs["x"] = inputs["x"].contiguous(memory_format=torch.channels_last)
    assert relative(network(**inputs), expected) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_stays_within_three_percent(name):
    # bfloat16 keeps 8 bits (0.4 %); some twenty layers deep that grows to 0.7 to 2.0 %.
    network, inputs, expected = golden(name)
    out = network.to(torch.bfloat16)(**inputs)
    assert out.dtype == torch.bfloat16
    assert relative(out, expected) < 0.03


@torch.no_grad()
def test_it_compiles_to_one_graph_that_computes_the_same():
    network, inputs, expected = golden("adm_plain")
    # Whether it can be captured is ours; the code that the default backend makes of it is torch's.
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert relative(compiled(**inputs), expected) < 1e-4


@torch.no_grad()
def test_an_untrained_network_predicts_zero(x, t):
    # The last convolution starts at zero, so training starts from the zero prediction.
    network = UNet(replace(TINY, out_channels=6)).eval()
    assert not network(x, t).any()


# --- Timesteps ----------------------------------------------------------------------------


@torch.no_grad()
def test_whole_timesteps_may_be_given_as_reals():
    network, inputs, expected = golden("adm_plain")
    inputs["t"] = inputs["t"].float()
    assert relative(network(**inputs), expected) < 1e-4


def test_the_embedding_of_a_real_timestep_is_the_formula():
    t, half = np.array([0.0, 0.25, 333.3, 999.0]), 16
    angles = t[:, None] * 10000.0 ** (-np.arange(half) / half)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    found = blocks.timestep_embedding(torch.tensor(t, dtype=torch.float32), 2 * half)
    assert np.abs(found.numpy() - expected).max() < 1e-4  # angles reach 1000 in float32


@torch.no_grad()
def test_real_timesteps_move_the_output_smoothly(x, t):
    network = small()
    here, near, far = (network(x, t + step) for step in (0.0, 0.01, 1.0))
    assert 0 < relative(near, here) < relative(far, here) / 10


# --- Architecture switches ----------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["residual", "attention"])
def test_rescale_residuals_multiplies_each_sum_by_sqrt_half(kind):
    x = torch.randn(2, 64, 8, 8)
    emb = torch.randn(2, 128)
    outputs = []
    for rescale in (False, True):
        block = (
            blocks.ResBlock(64, 128, 0.0, 64, True, rescale)
            if kind == "residual"
            else blocks.AttentionBlock(64, 2, False, rescale)
        )
        randomised(block)
        outputs.append(block(x, emb) if kind == "residual" else block(x))
    torch.testing.assert_close(outputs[1], outputs[0] * math.sqrt(0.5))


@torch.no_grad()
def test_rescale_residuals_reaches_every_block(x, t):
    plain, rescaled = small(), small(rescale_residuals=True)
    assert plain.state_dict().keys() == rescaled.state_dict().keys()
    scales = {
        module.residual_scale
        for module in rescaled.modules()
        if isinstance(module, blocks.ResBlock | blocks.AttentionBlock)
    }
    assert scales == {math.sqrt(0.5)}
    assert relative(rescaled(x, t), plain(x, t)) > 1e-2


@torch.no_grad()
def test_adagn_scales_and_shifts_after_the_norm():
    x, emb = torch.randn(2, 32, 8, 8), torch.randn(2, 128)
    block = randomised(blocks.ResBlock(32, 128, 0.0, 32, use_scale_shift_norm=True))
    scale, shift = block.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
    h = block.in_layers(x)
    h = block.out_layers[0](h) * (1 + scale) + shift
    torch.testing.assert_close(block(x, emb), x + block.out_layers[1:](h))


@torch.no_grad()
def test_plain_blocks_add_the_embedding_before_the_norm():
    x, emb = torch.randn(2, 32, 8, 8), torch.randn(2, 128)
    block = randomised(blocks.ResBlock(32, 128, 0.0, 32, use_scale_shift_norm=False))
    h = block.in_layers(x) + block.emb_layers(emb)[:, :, None, None]
    torch.testing.assert_close(block(x, emb), x + block.out_layers(h))


@torch.no_grad()
def test_resblock_updown_resamples_in_residual_blocks(x, t):
    plain, updown = small(), small(resblock_updown=True)
    # One transition between two levels: one block down and one up take over from convolutions.
    assert count(updown, blocks.ResBlock) == count(plain, blocks.ResBlock) + 2
    strided = [m for m in updown.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    assert not strided
    assert not any(m.use_conv for m in updown.modules() if isinstance(m, blocks.Upsample))
    assert updown(x, t).shape == x.shape


@torch.no_grad()
def test_conv_resample_off_resamples_without_parameters(x, t):
    network = small(conv_resample=False)
    resamplers = [
        m for m in network.modules() if isinstance(m, blocks.Upsample | blocks.Downsample)
    ]
    assert len(resamplers) == 2
    assert not any(list(m.parameters()) for m in resamplers)
    assert network(x, t).shape == x.shape


@torch.no_grad()
def test_heads_and_channels_per_head_are_two_names_of_one_choice(x, t):
    two_heads, of_32, of_16 = small(num_heads=2), small(num_head_channels=32), small(num_heads=4)
    assert torch.equal(two_heads(x, t), of_32(x, t))
    assert relative(of_16(x, t), of_32(x, t)) > 1e-4
    ascending = small(num_heads=2, num_heads_upsample=4)
    assert {m.heads for m in ascending.input_blocks.modules() if hasattr(m, "heads")} == {2}
    assert {m.heads for m in ascending.output_blocks.modules() if hasattr(m, "heads")} == {4}


@torch.no_grad()
@pytest.mark.parametrize(
    ("resolutions", "sizes"),
    [((), []), ((1,), [16] * 3), ((2,), [8] * 3), ((1, 2), [8] * 3 + [16] * 3)],
)
def test_attention_sits_at_the_named_resolutions(resolutions, sizes, x, t):
    network, seen = small(attention_resolutions=resolutions), []
    for module in network.modules():
        if isinstance(module, blocks.AttentionBlock):
            module.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0].shape[-1]))
    network(x, t)
    # One block down, two up; the middle (8x8) always attends.
    assert sorted(seen) == sorted([8, *sizes])


@torch.no_grad()
def test_the_new_attention_order_is_a_permutation_of_the_old(x, t):
    heads, old = 4, small(num_heads=4)
    new = small(num_heads=heads, use_new_attention_order=True)
    state = old.state_dict()
    for key, value in state.items():
        if ".qkv." in key:  # heads outside (q, k, v) become (q, k, v) outside heads
            state[key] = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    new.load_state_dict(state)
    assert relative(new(x, t), old(x, t)) < 1e-5
    new.load_state_dict(old.state_dict())
    assert relative(new(x, t), old(x, t)) > 1e-4


@torch.no_grad()
def test_attention_is_softmax_of_scaled_products():
    channels, heads = 64, 2
    block = randomised(blocks.AttentionBlock(channels, heads, new_order=True))
    x = torch.randn(1, channels, 3, 4)
    q, k, v = (
        z.view(heads, channels // heads, 12)
        for z in block.qkv(block.norm(x).flatten(2))[0].chunk(3)
    )
    attention = (q.transpose(1, 2) @ k / math.sqrt(channels // heads)).softmax(dim=-1)
    h = (v @ attention.transpose(1, 2)).reshape(1, channels, 12)
    torch.testing.assert_close(block(x), x + block.proj_out(h).view(x.shape))


@torch.no_grad()
def test_dropout_acts_in_training_only(x, t):
    network = small(dropout=0.5)
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


@torch.no_grad()
def test_labels_reach_the_output_through_the_embedding(x, t):
    network = small(num_classes=5)
    one, other = (network(x, t, torch.tensor(y)) for y in ([0, 3], [0, 4]))
    torch.testing.assert_close(one[0], other[0])
    assert relative(one[1], other[1]) > 1e-4


@torch.no_grad()
def test_the_upsampler_reads_an_enlarged_image_beside_x(x, t):
    upsampler = randomised(Upsampler(TINY))
    unet = small(in_channels=6)
    low_res = torch.full((2, 3, 4, 4), 0.5)  # a flat image stays flat when enlarged
    beside = torch.cat([x, torch.full_like(x, 0.5)], dim=1)
    torch.testing.assert_close(upsampler(x, t, low_res), unet(beside, t))


@torch.no_grad()
def test_the_average_pool_is_the_mean_of_the_map_at_any_image_size():
    network = randomised(Classifier(replace(TINY, out_channels=10), 16, pool="adaptive"))
    maps = []
    network.out.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    norm, activation, _, readout, _ = network.out
    for size in (16, 32):
        logits = network(torch.randn(2, 3, size, size), torch.tensor([5.0, 900.0]))
        mean = activation(norm(maps[-1])).mean((2, 3))
        expected = mean @ readout.weight.flatten(1).T + readout.bias
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert [tuple(found.shape[2:]) for found in maps] == [(8, 8), (16, 16)]
