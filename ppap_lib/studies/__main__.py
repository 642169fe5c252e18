"""`python -m ppap_lib.studies NAME ...`: studies from the command line, into the ledger."""

import argparse
from pathlib import Path

import torch

from ppap_lib import devices, metrics, weights
from ppap_lib.studies import curve, training


def _curve(given: argparse.Namespace) -> None:
    curve.run(given.tier, Path(given.folder), given.n, device=devices.pick(given.device))


def _training(given: argparse.Namespace) -> None:
    print(training.run(Path(given.folder)))


def _reference(given: argparse.Namespace) -> None:
    device = devices.pick(given.device)
    found = metrics.extract_real(given.tier, given.extractor, device)
    path = metrics.reference_file(given.tier, given.extractor)
    weights.save({"vectors": found.vectors}, path, torch.float16)
    print(f"{len(found)} real images: {path.name}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m ppap_lib.studies", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="NAME")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--tier", default="fashion", help="preset (default: fashion)")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
        return sub

    sub = command("curve", _curve, "KID and FD of every EMA snapshot of a training run")
    sub.add_argument("--folder", required=True, help="the run's folder")
    sub.add_argument("--n", type=int, default=200, help="images per snapshot (default: 200)")
    sub = command("training", _training, "file a finished training run's course")
    sub.add_argument("--folder", required=True, help="the run's folder")
    sub = command("reference", _reference, "extract the real features that ship with a tier")
    sub.add_argument("--extractor", default="lite2", help="lite2 or inception")
    return top


if __name__ == "__main__":
    arguments = parser().parse_args()
    arguments.run(arguments)
