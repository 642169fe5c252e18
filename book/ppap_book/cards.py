"""List the zoo, install trained weights, recompute what the cards say.

python -m ppap_book cards list
python -m ppap_book cards verify [NAME ...]
python -m ppap_book cards install fashion/judge FILE --card "data=Fashion-MNIST train"

What is installed from a training's folder takes from its summary.json what a card says of it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path

import torch
from torch import nn

from ppap_book.measures.noisy_accuracy import accuracy_by_t
from ppap_book.publishing import Check, Measure, publish, verify
from ppap_book.studies.quality import Quality, score
from ppap_lib import data, experts, zoo
from ppap_lib.commands import shell
from ppap_lib.data.fashion import shipped
from ppap_lib.data.folders import imagenet_photographs
from ppap_lib.diffusion.denoisers import ADAPTERS
from ppap_lib.errors import DataError, WeightsError
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS
from ppap_lib.training.checkpoints import run_of
from ppap_lib.training.fit import SUMMARY
from ppap_lib.zoo import datasets
from ppap_lib.zoo.cards import write
from ppap_lib.zoo.tiers import tier


@torch.no_grad()
def accuracy(model: nn.Module, images: data.ImageSet, batch: int = 250) -> float:
    """Top-1 accuracy in [0, 1]."""
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in images.batches(batch))
    return right / len(images)


def _of_data(measure: Measure) -> Measure:
    """The measure, or the reason why it has none where the images that it asks for are missing."""

    @wraps(measure)
    def measured(card: zoo.Card, model: nn.Module) -> float | str:
        try:
            return measure(card, model)
        except DataError as error:
            if not error.missing:
                raise
            return str(error)

    return measured


@_of_data
def _test_accuracy(card: zoo.Card, model: nn.Module) -> float:
    return accuracy(model, datasets.require(card.network["tier"], "test"))


def _shipped_accuracy(card: zoo.Card, model: nn.Module) -> float:
    return accuracy(model, shipped())


@_of_data
def _photograph_accuracy(card: zoo.Card, model: nn.Module) -> float:
    return accuracy(model, imagenet_photographs(card.size))


@_of_data
def _kid(card: zoo.Card, network: nn.Module) -> float:
    denoise = ADAPTERS[card.prediction](network, learned_variance=True)
    return score(Quality(tier=card.network["tier"]), denoise)["kid"]


def _noisy_accuracy(t: int, card: zoo.Card, found: experts.Experts) -> float:
    images, schedule = shipped(), tier(card.network["trunk"].split("/")[0]).schedule()
    (reading,) = accuracy_by_t(found, images.images(), images.labels, schedule, [t])
    return reading.accuracy


@dataclass(frozen=True)
class Metric:
    """How to recompute one number of a card, for which cards, and how far it may be off.

    Tolerances allow for another machine's rounding: a few images that flip, or noise in the
    last digits that sampling carries along.
    """

    measure: Measure
    applies: Callable[[zoo.Card], bool]
    tolerance: float


def _classifies(card: zoo.Card, *tiers: str | None) -> bool:
    return card.kind == "classifier" and card.network.get("tier") in tiers


def _draws(card: zoo.Card) -> bool:
    return card.kind == "denoiser" and "tier" in card.network


def _reads_shipped(card: zoo.Card) -> bool:
    """Whether it is a set of experts for the tier whose images ship."""
    return card.kind == "experts" and card.network["trunk"].startswith("fashion/")


METRICS: Mapping[str, Metric] = {
    "test accuracy": Metric(_test_accuracy, lambda c: _classifies(c, "fashion", "tin10"), 0.001),
    "accuracy on the 1,000 shipped images": Metric(
        _shipped_accuracy, lambda c: _classifies(c, "fashion"), 0.003
    ),
    "accuracy on foolbox's 20 photographs": Metric(
        _photograph_accuracy, lambda c: _classifies(c, None), 0.0
    ),
    "KID-lite2, n = 200, DDIM-25": Metric(_kid, _draws, 0.01),
    **{
        f"accuracy at t = {t} on the 1,000 shipped images": Metric(
            partial(_noisy_accuracy, t), _reads_shipped, 0.003
        )
        for t in (100, 300, 500, 700)
    },
}


def measured(card: zoo.Card, assets: Path = ASSETS) -> dict[str, dict[str, float]]:
    """The card's metrics, computed now on the installed weights, with tolerances."""
    loader = zoo.load if card.kind == "experts" else zoo.load_network
    module = loader(card.name, assets=assets)
    metrics = {}
    for name, metric in METRICS.items():
        if not metric.applies(card):
            continue
        value = metric.measure(card, module)
        if isinstance(value, str):
            print(f"{name} was not measured: {value}", file=sys.stderr)
            continue
        metrics[name] = {"value": round(value, 4), "tolerance": metric.tolerance}
    return metrics


def _changes(pairs: list[str]) -> dict:
    """`key=value` pairs, values read as JSON where they are JSON."""
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise WeightsError(f"--card takes key=value, not {pair!r}")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    return changes


def trained(file: Path) -> dict:
    """What the summary of the run that left `file` says for a card; nothing where none lies there.

    The images seen are those of the run's end, so of no snapshot.
    """
    if not (path := run_of(file) / SUMMARY).is_file():
        return {}
    summary = json.loads(path.read_text("utf8"))
    at_its_end = file.is_file() and summary.get("sha256") == weights.sha256(file)
    found = {
        "prediction": summary.get("prediction"),
        "images_seen": summary.get("images_seen") if at_its_end else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _install(options) -> str:
    changes = trained(options.file) | _changes(options.card)
    card = publish(options.name, options.file, changes, options.assets)
    metrics = measured(card, options.assets) | dict(card.metrics)
    path = write(replace(card, metrics=metrics), options.assets)
    return f"{path}:\n{path.read_text('utf8')}".rstrip()


def _verify(options) -> int:
    computed = {name: metric.measure for name, metric in METRICS.items()}
    names = options.names or zoo.names(options.assets)
    verdicts = []
    for name in names:
        for check in verify(name, computed, options.assets):
            verdicts.append(check.ok)
            print(_line(check), flush=True)
    if wrong := verdicts.count(False):
        print(f"{wrong} of {len(verdicts)} checks failed", file=sys.stderr)
    return 1 if wrong else 0


def _line(check: Check) -> str:
    verdict = {True: "ok", False: "WRONG", None: "not checked"}[check.ok]
    return f"{verdict:12}{check.name}: {check.what}: card {check.expected}, found {check.found}"


def _list(options) -> str:
    rows = (row.values() for row in zoo.table(options.assets))
    return "\n".join(
        " | ".join(str(value) for value in row if value not in (None, "")) for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 if a check failed or after saying what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m ppap_book cards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--assets", type=Path, default=ASSETS, help="folder of cards and weights, if another"
    )
    names = parser.add_subparsers(required=True)
    names.add_parser("list").set_defaults(run=_list)
    check = names.add_parser("verify")
    check.add_argument("names", nargs="*")
    check.set_defaults(run=_verify)
    install = names.add_parser("install")
    install.add_argument("name")
    install.add_argument("file", type=Path)
    install.add_argument("--card", nargs="*", default=[], metavar="KEY=VALUE")
    install.set_defaults(run=_install)
    return shell.run(parser, lambda options: options.run(options), arguments)


if __name__ == "__main__":
    sys.exit(main())
