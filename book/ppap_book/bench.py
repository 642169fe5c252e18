"""Forward speed of the `fashion` U-Net beside diffusers' `UNet2DModel` of equal shape.

On a GPU::

    python -m ppap_book.bench --device cuda --batch 256 --seconds 10

Both networks have the same blocks, widths, attention and number of parameters, and compute the
same function where they share weights (`tests/book/test_bench.py`). They take turns in one
process, so that other work of the machine falls on both; the ratio travels between machines.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ppap_book.errors import StudyError
from ppap_book.measures.cost import size
from ppap_lib.cli import CommandLine, add_options, given_of, run_command
from ppap_lib.device import pick_device
from ppap_lib.diffusion.denoisers import Network, diffusers_network
from ppap_lib.parameters import Parameters, param
from ppap_lib.zoo import tiers

DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = 3  # at least, however slow the machine


def ours() -> nn.Module:
    """Return the denoiser of the `fashion` tier, untrained, in evaluation mode."""
    return tiers.tier("fashion").denoiser().eval()


def theirs() -> nn.Module:
    """Return diffusers' U-Net with the shape of `ours`, in evaluation mode."""
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
    ).eval()


def take_turns(
    calls: Sequence[Callable[[], object]], seconds: float, rounds: int = ROUNDS
) -> list[tuple[float, ...]]:
    """Return the seconds of every call, one tuple per round (A B, A B, ...), after a warm-up.

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
    """Return 'median [lower quartile, upper quartile]'."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def row(dtype: torch.dtype, batch: int, timings: Sequence[tuple[float, float]]) -> str:
    """Return a line of the table: images/s of both and their ratio, taken round by round."""
    speeds = [(batch / mine, batch / other) for mine, other in timings]
    mine, other = zip(*speeds, strict=True)
    ratios = [a / b for a, b in speeds]
    name = str(dtype).removeprefix("torch.")
    cells = f"{spread(mine, 1):>24}{spread(other, 1):>24}{spread(ratios, 2):>22}"
    return f"{name:<10}{cells}{len(timings):>8}"


def measure(device: torch.device, dtype: torch.dtype, batch: int, seconds: float) -> str:
    """Return the table's line for one precision."""

    def call(network: nn.Module, forward: Network) -> Callable[[], None]:
        nn.Module.to(network, device, dtype)  # diffusers' own `to` warns of every cast

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


@dataclass(frozen=True)
class Benchmark(Parameters):
    """Where and for how long both networks run."""

    device: str = param("cpu", help="auto, cpu, cuda or cuda:1.")
    batch: int = param(4, low=1, help="Images per forward pass.")
    seconds: float = param(5.0, low=0.0, help="Time measured per precision.")


def compare(benchmark: Benchmark) -> str:
    """Print the tables as they are measured, and return the line below them."""
    device = pick_device(benchmark.device)
    shape = tiers.tier("fashion").shape
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    picture = "x".join(map(str, shape))
    print(f"forward passes, {benchmark.batch} images of {picture}, {device}{threads}\n")
    mine, other = ours(), theirs()
    sizes = {"ppap_lib": size(mine, mine, shape)}
    sizes["diffusers"] = size(other, diffusers_network(other), shape)
    print(f"{'network':<10}{'parameters':>12}{'GMAC':>8}")
    for name, value in sizes.items():
        print(f"{name:<10}{value.parameters:>12,}{value.gmac:>8.3f}")

    heads = f"{'ppap_lib, images/s':>24}{'diffusers, images/s':>24}{'ratio':>22}{'rounds':>8}"
    print(f"\n{'':<10}{heads}")
    for dtype in DTYPES:
        print(measure(device, dtype, benchmark.batch, benchmark.seconds), flush=True)
    return "\nmedian [quartiles] over rounds; ratio = ppap_lib / diffusers, above 1 is faster"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after saying what was wrong."""
    parser = CommandLine(
        prog="python -m ppap_book.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, Benchmark)
    return run_command(
        parser, lambda given: compare(Benchmark.of(given_of(Benchmark, given))), arguments
    )


if __name__ == "__main__":
    sys.exit(main())
