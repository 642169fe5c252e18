"""The benchmark compares like with like, and its arithmetic is right."""

import pytest
import torch
from torch import nn

from ppap_book import bench
from ppap_lib.diffusion.denoisers import diffusers_network

pytest.importorskip("diffusers", reason="the benchmark compares with diffusers")
SHAPE = (1, 32, 32)


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module]:
    """Both networks, diffusers' with the weights of ours (random, nowhere zero)."""
    mine, other = bench.ours(), bench.theirs()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    copy_weights(mine, other)
    return mine, other


def residual(mine: nn.Module, other: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    pairs = [
        (mine.in_layers[0], other.norm1),
        (mine.in_layers[2], other.conv1),
        (mine.emb_layers[1], other.time_emb_proj),
        (mine.out_layers[0], other.norm2),
        (mine.out_layers[3], other.conv2),
    ]
    if other.conv_shortcut is not None:
        pairs.append((mine.skip_connection, other.conv_shortcut))
    return pairs


def attention(mine: nn.Module, other: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    pairs = [(mine.norm, other.group_norm), (mine.proj_out, other.to_out[0])]
    parts = ((other.to_q, 0), (other.to_k, 1), (other.to_v, 2))
    for linear, index in parts:  # ours holds [heads, (q, k, v), channels] in one convolution
        for name, parameter in linear.named_parameters():
            value = getattr(mine.qkv, name).unflatten(0, (mine.heads, 3, -1))[:, index]
            parameter.data.copy_(value.reshape(parameter.shape))
    return pairs


@torch.no_grad()
def copy_weights(mine: nn.Module, other: nn.Module) -> None:
    """The weights of our U-Net into diffusers': every parameter has its counterpart."""
    down, middle, up = mine.input_blocks, mine.middle_block, mine.output_blocks
    pairs = [
        (mine.time_embed[0], other.time_embedding.linear_1),
        (mine.time_embed[2], other.time_embedding.linear_2),
        (down[0][0], other.conv_in),
        (mine.out[0], other.conv_norm_out),
        (mine.out[2], other.conv_out),
        *residual(middle[0], other.mid_block.resnets[0]),
        *attention(middle[1], other.mid_block.attentions[0]),
        *residual(middle[2], other.mid_block.resnets[1]),
        *attention(down[5][1], other.down_blocks[2].attentions[0]),
    ]
    for level in range(3):
        pairs += residual(down[1 + 2 * level][0], other.down_blocks[level].resnets[0])
        for i in range(2):
            pairs += residual(up[2 * level + i][0], other.up_blocks[level].resnets[i])
        if level < 2:
            pairs.append((down[2 + 2 * level][0].op, other.down_blocks[level].downsamplers[0].conv))
            pairs.append((up[2 * level + 1][-1].conv, other.up_blocks[level].upsamplers[0].conv))
    for i in range(2):
        pairs += attention(up[i][1], other.up_blocks[0].attentions[i])
    for source, target in pairs:
        for name, parameter in target.named_parameters():
            parameter.copy_(getattr(source, name).reshape(parameter.shape))


def test_both_have_the_same_size(networks):
    mine, other = networks
    sizes = bench.size(mine, mine, SHAPE), bench.size(other, diffusers_network(other), SHAPE)
    assert sizes[0].parameters == sizes[1].parameters == 2_854_946
    assert sizes[0].gmac == pytest.approx(sizes[1].gmac, rel=1e-3)
    assert sizes[0].gmac == pytest.approx(0.381, abs=1e-3)


@torch.no_grad()
def test_both_compute_the_same_function(networks):
    mine, other = networks
    x, t = torch.randn(2, *SHAPE), torch.tensor([3.0, 700.0])
    expected = mine(x, t)
    assert expected.std() > 1e-3
    error = (diffusers_network(other)(x, t) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


def test_calls_take_turns_after_a_warm_up():
    log: list[str] = []
    timings = bench.take_turns([lambda: log.append("A"), lambda: log.append("B")], 0.0, rounds=4)
    assert "".join(log) == "AB" * 5
    assert len(timings) == 4
    assert all(len(pair) == 2 and min(pair) >= 0 for pair in timings)


def test_a_row_gives_speeds_and_the_median_of_the_paired_ratios():
    # Rounds in which the machine was one, two and four times as slow, for both alike.
    timings = [(0.1, 0.2), (0.2, 0.4), (0.4, 0.8)]
    words = " ".join(bench.row(torch.bfloat16, 8, timings).split())
    assert words == "bfloat16 40.0 [30.0, 60.0] 20.0 [15.0, 30.0] 2.00 [2.00, 2.00] 3"


def test_the_spread_is_the_quartiles():
    assert bench.spread([5, 1, 3, 2, 4], 1) == "3.0 [2.0, 4.0]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "0"], "batch must be at least 1, not 0"),
        (["--seconds", "-1"], "seconds must be at least 0.0, not -1.0"),
        (["--device", "abacus"], "no device 'abacus': write auto, cpu, cuda or cuda:1"),
    ],
)
def test_bad_options_are_refused(arguments, says, capsys):
    assert bench.main(arguments) == 1
    assert f"error: {says}" in capsys.readouterr().err


def test_the_command_prints_both_tables(capsys):
    assert bench.main(["--batch", "1", "--seconds", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = [line.split()[1] for line in lines if line.startswith(("ppap_lib ", "diffusers "))]
    assert sizes == ["2,854,946", "2,854,946"]
    assert [line.split()[0] for line in lines if line.endswith(f" {bench.ROUNDS}")] == [
        "float32",
        "bfloat16",
    ]
