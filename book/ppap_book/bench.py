"""Forward speed of the `fashion` U-Net beside diffusers' `UNet2DModel` of equal shape.

    python -m ppap_book.bench --device cuda --batch 256 --seconds 10

Both networks have the same blocks, widths, attention and number of parameters, and compute the
same function where they share weights (`tests/test_bench.py`). They take turns in one process,
so what else the machine does falls on both; the ratio is what travels between machines.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppap_book.errors import StudyError
from ppap_book.measures.cost import size
from ppap_lib.cli import run_command
from ppap_lib.device import pick_device
from ppap_lib.diffusion.denoisers import Network, diffusers_network
from ppap_lib.zoo import tiers

DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = 3  # at least, however slow the machine


def ours() -> nn.Module:
    """The denoiser of the `fashion` tier."""
    return tiers.tier("fashion").denoiser()


def theirs() -> nn.Module:
    """diffusers' U-Net with the shape of `ours`."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise StudyError("the benchmark compares with diffusers: pip install diffusers") from error
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=2,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=32,
        attn_norm_num_groups=32,  # else the middle attention would go without a norm
        resnet_time_scale_shift="scale_shift",
    )


def take_turns(
    calls: Sequence[Callable[[], object]], seconds: float, rounds: int = ROUNDS
) -> list[tuple[float, ...]]:
    """Seconds of every call, one tuple per round (A B, A B, ...), after a warm-up of each.

    Goes on for `seconds`, and for `rounds` rounds at least.
    """
    for call in calls:
        call()
    timings: list[tuple[float, ...]] = []
    begin = time.perf_counter()
    while len(timings) < rounds or time.perf_counter() - begin < seconds:
        marks = [time.perf_counter()]
        for call in calls:
            call()
            marks.append(time.perf_counter())
        timings.append(tuple(b - a for a, b in zip(marks, marks[1:], strict=False)))
    return timings


def spread(values: Sequence[float], digits: int) -> str:
    """'median [lower quartile, upper quartile]'."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def row(dtype: torch.dtype, batch: int, timings: Sequence[tuple[float, float]]) -> str:
    """One line of the table: images/s of both and their ratio, taken round by round."""
    speeds = [(batch / mine, batch / other) for mine, other in timings]
    mine, other = zip(*speeds, strict=True)
    ratios = [a / b for a, b in speeds]
    name = str(dtype).removeprefix("torch.")
    cells = f"{spread(mine, 1):>24}{spread(other, 1):>24}{spread(ratios, 2):>22}"
    return f"{name:<10}{cells}{len(timings):>8}"


def measure(device: torch.device, dtype: torch.dtype, batch: int, seconds: float) -> str:
    """The table's line for one precision."""

    def call(network: nn.Module, forward: Network) -> Callable[[], None]:
        nn.Module.to(network, device, dtype)  # diffusers' own `to` warns of every cast
        network.eval()

        def run() -> None:
            forward(x, t)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)

        return run

    shape = tiers.tier("fashion").shape
    x: Tensor = torch.randn(batch, *shape, device=device, dtype=dtype)
    t = torch.linspace(0, 999, batch, device=device)
    mine, other = ours(), theirs()
    calls = [call(mine, mine), call(other, diffusers_network(other))]
    with torch.inference_mode():
        return row(dtype, batch, take_turns(calls, seconds))


def compare(options: argparse.Namespace) -> str:
    """Do what the command line says; prints the tables as they are measured."""
    if options.batch < 1 or not 0 < options.seconds < math.inf:
        raise StudyError(
            f"--batch and --seconds must be positive, not {options.batch} and {options.seconds}"
        )
    device = pick_device(options.device)
    shape = tiers.tier("fashion").shape
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    picture = "x".join(map(str, shape))
    print(f"forward passes, {options.batch} images of {picture}, {device}{threads}\n")
    mine, other = ours(), theirs()
    sizes = {"ppap_lib": size(mine, mine, shape)}
    sizes["diffusers"] = size(other, diffusers_network(other), shape)
    print(f"{'network':<10}{'parameters':>12}{'GMAC':>8}")
    for name, value in sizes.items():
        print(f"{name:<10}{value.parameters:>12,}{value.gmac:>8.3f}")

    heads = f"{'ppap_lib, images/s':>24}{'diffusers, images/s':>24}{'ratio':>22}{'rounds':>8}"
    print(f"\n{'':<10}{heads}")
    for dtype in DTYPES:
        print(measure(device, dtype, options.batch, options.seconds), flush=True)
    return "\nmedian [quartiles] over rounds; ratio = ppap_lib / diffusers, above 1 is faster"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m ppap_book.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument("--batch", type=int, default=4, help="images per forward pass")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time per precision")
    return run_command(parser, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
