"""The command line: `python -m ppap_lib.train denoiser --tier fashion --minutes 120`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ppap_lib import data, devices
from ppap_lib.tiers import TierError, tier
from ppap_lib.train import recipes
from ppap_lib.train.objectives import PREDICTIONS, ObjectiveError
from ppap_lib.train.settings import NETWORKS, TrainingError, settings
from ppap_lib.weights import WeightsError


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--tier", default="fashion", help="preset of data and networks (default: %(default)s)")
    add("--data", help="name of the data set (default: the tier's)")
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
    add("--folder", type=Path, help="where it is kept (default: runs/train/<tier>-<network>)")
    add("--resume", action="store_true", help="continue from the folder's checkpoint, if any")
    add("--init", type=Path, help="weight file to start from")
    add("--quiet", action="store_true", help="no progress bar")
    parser = argparse.ArgumentParser(prog="python -m ppap_lib.train", description=__doc__)
    commands = parser.add_subparsers(dest="kind", required=True)
    denoiser = commands.add_parser("denoiser", parents=[common], help="train a denoiser")
    denoiser.add_argument("--prediction", choices=PREDICTIONS, default="v", help="what it outputs")
    denoiser.add_argument("--min-snr", type=float, help="cap of the loss weight, such as 5")
    classifier = commands.add_parser("classifier", parents=[common], help="train a classifier")
    classifier.add_argument("name", choices=[n for n in NETWORKS if n != "denoiser"])
    return parser


_SETTINGS = (
    "steps",
    "minutes",
    "batch",
    "lr",
    "weight_decay",
    "warmup",
    "ema",
    "clip",
    "seed",
    "bf16",
    "channels_last",
    "compile",
    "checkpoint_every",
    "log_every",
)


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says; returns the summary."""
    chosen = tier(options.tier)
    what = "denoiser" if options.kind == "denoiser" else options.name
    device = devices.pick(options.device)
    made = settings(what, device, **{name: getattr(options, name) for name in _SETTINGS})
    changes = {}
    if what == "denoiser":
        changes = {"prediction": options.prediction, "min_snr": options.min_snr}
    loss = recipes.objective(chosen, what, **changes)
    images = data.require(options.data or chosen.name, "train")
    folder = options.folder or Path("runs", "train", f"{chosen.name}-{what}")
    with _Bar(options.quiet, f"{chosen.name}/{what}", made.fraction) as on_log:
        return recipes.fit(
            chosen,
            what,
            images.pixels,
            images.labels,
            made,
            folder,
            loss=loss,
            device=device,
            resume=options.resume,
            init=options.init,
            on_start=print,
            on_log=on_log,
        )


class _Bar:
    """A progress bar over the budget, as a context that gives the callback for logged rows."""

    def __init__(self, quiet: bool, title: str, fraction: Callable[[int, float], float]):
        self.quiet, self.title, self.fraction = quiet, title, fraction

    def __enter__(self):
        if not self.quiet:
            from tqdm import tqdm

            layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
            self.tqdm = tqdm(total=1.0, desc=self.title, bar_format=layout)
        return self

    def __call__(self, row: dict[str, Any]) -> None:
        if self.quiet:
            return
        self.tqdm.update(self.fraction(row["step"], row["seconds"]) - self.tqdm.n)
        self.tqdm.set_postfix_str(
            f"loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s, "
            f"{row['share_of_peak']:.0%} of peak, {row['images']:,} seen"
        )

    def __exit__(self, *exception) -> None:
        if not self.quiet:
            self.tqdm.close()


_EXPECTED = (
    TrainingError,
    devices.DeviceError,
    ObjectiveError,
    TierError,
    WeightsError,
    data.DataError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    options = _parser().parse_args(arguments)
    try:
        summary = train(options)
    except _EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(recipes.in_words(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
