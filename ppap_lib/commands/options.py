"""What the command lines that train have in common: options, and a progress bar."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any


def common() -> argparse.ArgumentParser:
    """The parent parser of every command that trains."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--tier", default="fashion", help="preset of data and networks (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    add("--steps", type=int, help="budget in optimiser steps")
    add("--minutes", type=float, help="budget in minutes of training (default: the preset's)")
    add("--batch", type=int, help="images in a step")
    add("--lr", type=float, help="highest learning rate")
    add("--weight-decay", type=float, help="AdamW's, on matrices and kernels")
    add("--warmup", type=int, help="steps over which the learning rate rises")
    add("--ema", type=float, help="decay of the averaged weights")
    add("--clip", type=float, help="bound of the gradient's norm, 0 for none")
    add("--seed", type=int, help="of weights, order, noise (default: 0)")
    for name in ("bf16", "channels-last", "compile"):
        add(f"--{name}", action=argparse.BooleanOptionalAction, help="default: the preset's")
    add("--checkpoint-every", type=float, help="seconds between checkpoints (default: 180)")
    add("--log-every", type=int, help="steps between log lines")
    add("--folder", type=Path, help="where the run is kept (default: one below runs/)")
    add("--resume", action="store_true", help="continue from the folder's checkpoint, if any")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def fields_of(kind: type, given: argparse.Namespace) -> dict[str, Any]:
    """The options that are fields of the dataclass `kind`, by name; None where not given."""
    names = (field.name for field in fields(kind))
    return {name: getattr(given, name) for name in names if hasattr(given, name)}


@contextmanager
def bar(
    quiet: bool, title: str, fraction: Callable[[int, float], float]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A progress bar over the budget, as a context that gives the callback for logged rows."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(total=1.0, desc=title, bar_format=layout, disable=quiet) as shown:

        def on_log(row: dict[str, Any]) -> None:
            shown.update(fraction(row["step"], row["seconds"]) - shown.n)
            shown.set_postfix_str(
                f"loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s, "
                f"{row['images']:,} seen"
            )

        yield on_log
