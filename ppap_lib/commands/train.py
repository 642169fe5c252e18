"""The command line: `python -m ppap_lib train denoiser --tier fashion --minutes 120`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppap_lib.commands import options, shell
from ppap_lib.device import pick_device
from ppap_lib.diffusion.denoisers import ADAPTERS
from ppap_lib.training import fit
from ppap_lib.training.settings import NETWORKS, Settings, settings
from ppap_lib.zoo import datasets, tiers
from ppap_lib.zoo.tiers import tier


def _parser() -> argparse.ArgumentParser:
    common = options.common()
    common.add_argument("--data", help="name of the data set (default: the tier's)")
    common.add_argument("--init", type=Path, help="weight file to start from")
    parser = argparse.ArgumentParser(prog="python -m ppap_lib train", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    denoiser = kinds.add_parser("denoiser", parents=[common], help="train a denoiser")
    denoiser.add_argument(
        "--prediction", choices=tuple(ADAPTERS), default="v", help="what it outputs"
    )
    denoiser.add_argument("--min-snr", type=float, help="cap of the loss weight, such as 5")
    classifier = kinds.add_parser("classifier", parents=[common], help="train a classifier")
    classifier.add_argument("name", choices=[n for n in NETWORKS if n != "denoiser"])
    return parser


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says; returns the summary."""
    chosen = tier(given.tier)
    what = "denoiser" if given.kind == "denoiser" else given.name
    device = pick_device(given.device)
    made = settings(what, device, **options.fields_of(Settings, given))
    changes = {}
    if what == "denoiser":
        changes = {"prediction": given.prediction, "min_snr": given.min_snr}
    loss = tiers.training_objective(chosen, what, **changes)
    images = datasets.require(given.data or chosen.name, "train")
    folder = given.folder or Path("runs", "train", f"{chosen.name}-{what}")
    with options.bar(given.quiet, f"{chosen.name}/{what}", made.fraction) as on_log:
        return tiers.train_network(
            chosen,
            what,
            images.pixels,
            images.labels,
            made,
            folder,
            loss=loss,
            device=device,
            resume=given.resume,
            init=given.init,
            on_start=print,
            on_log=on_log,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    return shell.run(_parser(), lambda given: fit.in_words(train(given)), arguments)


if __name__ == "__main__":
    sys.exit(main())
