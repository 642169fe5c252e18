"""Cards of trained networks: list them, install weights under them, recompute their numbers.

From the command line::

    python -m ppap_book cards list
    python -m ppap_book cards verify [NAME ...]
    python -m ppap_book cards install fashion/judge FILE --card "data=Fashion-MNIST train"

Weights from a training's folder bring the facts of its summary.json to their card.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppap_book.measures.noisy_accuracy import accuracy_by_t
from ppap_book.studies.denoiser_training import Quality, score
from ppap_lib import data, experts, zoo
from ppap_lib.cli import CommandLine, run_command
from ppap_lib.cli.commands import table
from ppap_lib.data.fashion import shipped
from ppap_lib.data.folders import imagenet_photographs
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.errors import DataError, InputError, WeightsError
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS
from ppap_lib.training.checkpoints import run_of
from ppap_lib.training.fit import SUMMARY
from ppap_lib.zoo import Card, datasets
from ppap_lib.zoo.cards import write
from ppap_lib.zoo.keys import untrained
from ppap_lib.zoo.loading import where
from ppap_lib.zoo.tiers import tier

Measure = Callable[[Card, Any], float | str]
"""Recomputes a number of a card's model, or says why it cannot be recomputed on this machine."""


@dataclass(frozen=True)
class Metric:
    """How to recompute one number of a card, for which cards, and how far it may be off.

    Tolerances allow for another machine's rounding: a few images that flip, or noise in the
    last digits that sampling carries along.
    """

    measure: Measure
    applies: Callable[[Card], bool]
    tolerance: float


@torch.no_grad()
def accuracy(model: nn.Module, images: data.ImageSet, batch: int = 250) -> float:
    """Top-1 accuracy in [0, 1]."""
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in images.batches(batch))
    return right / len(images)


def _where_data_are(measure: Measure) -> Measure:
    """The measure, or the reason why it has none where the images that it asks for are missing."""

    @wraps(measure)
    def measured(card: Card, model: Any) -> float | str:
        try:
            return measure(card, model)
        except DataError as error:
            if not error.missing:
                raise
            return str(error)

    return measured


@_where_data_are
def _test_accuracy(card: Card, model: nn.Module) -> float:
    return accuracy(model, datasets.require(card.network["tier"], "test"))


def _shipped_accuracy(card: Card, model: nn.Module) -> float:
    return accuracy(model, shipped())


@_where_data_are
def _photograph_accuracy(card: Card, model: nn.Module) -> float:
    return accuracy(model, imagenet_photographs(card.size))


@_where_data_are
def _kid(card: Card, model: Diffusion) -> float:
    return score(Quality(tier=card.network["tier"]), model.denoise)["kid"]


def _noisy_accuracy(t: int, card: Card, model: experts.Experts) -> float:
    images, schedule = shipped(), tier(card.network["trunk"].split("/")[0]).schedule()
    (reading,) = accuracy_by_t(model, images.images(), images.labels, schedule, [t])
    return reading.accuracy


def _classifies(card: Card, *tiers: str | None) -> bool:
    return card.kind == "classifier" and card.network.get("tier") in tiers


def _draws(card: Card) -> bool:
    return card.kind == "denoiser" and "tier" in card.network


def _reads_shipped(card: Card) -> bool:
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
"""Numbers that cards may give, by name."""


# Publishing


def publish(
    name: str, file: str | Path, changes: Mapping | None = None, assets: Path = ASSETS
) -> Card:
    """Install trained weights under `assets`, and return their new card.

    Parameters
    ----------
    name
        A card's name. The asset has the name and the dtype that the new card's `file` says.
    file
        A snapshot of the trainer (safetensors, named by the images seen), or its
        `checkpoint.pt`, of which the EMA is taken; for a set of experts, a file of
        `experts.save`, made for the backbone that ships.
    changes
        Further fields of the card. Numbers of the weights that were there before are dropped.

    Raises
    ------
    WeightsError
        If the weights do not fit the card's network or are not finite, if the card is of a network
        published elsewhere, or if a card has no field of a name in `changes`.
    """
    card, changes = zoo.card(name, assets), dict(changes or {})
    if unknown := changes.keys() - {f.name for f in fields(Card)} | changes.keys() & {"name"}:
        raise WeightsError(f"a card has no fields {', '.join(sorted(unknown))}")
    if "asset" not in card.file:
        raise WeightsError(f"{name} is published elsewhere ({where(card)}): nothing to install")
    path, seen, metadata = Path(file), None, None
    if card.kind == "experts":
        state, metadata = weights.read(path), weights.metadata(path)
        backbone = zoo.expert_backbone(path, card.network["trunk"], assets)
        parameters = _updates(experts.read(path, backbone)).parameters()
    else:
        state, seen = _snapshot(path)
        parameters = weights.load(untrained(card), state, str(file)).parameters()
    if broken := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise WeightsError(f"{name} would have NaN or infinity in {', '.join(broken[:8])}")
    card = replace(card, **{"metrics": {}, "note": "", "images_seen": seen, **changes})
    asset = assets / "weights" / card.file["asset"]
    weights.save(state, asset, getattr(torch, card.file.get("dtype", "float16")), metadata)
    card = replace(
        card,
        sha256=weights.sha256(asset),
        bytes=asset.stat().st_size,
        parameters=_count(parameters),
        tensors=len(state),
    )
    write(card, assets)
    return card


def _updates(model: experts.Experts) -> nn.Module:
    """The experts' own parameters: the backbone, which ships by itself, is not among them."""
    return nn.ModuleList(model.bank)


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _snapshot(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """The EMA's state dict, and how many images it saw where the file tells."""
    if path.suffix == ".safetensors":
        return weights.read(path), int(path.stem) if path.stem.isdigit() else None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        ema = {key: value.detach() for key, value in state["ema"].items()}
        return ema, state["progress"]["step"] * state["run"]["batch"]
    except Exception as error:  # the unpickler raises whatever foreign bytes lead it to
        raise WeightsError(
            f"{path} is neither a safetensors file nor a checkpoint of the trainer "
            f"({type(error).__name__}: {error})"
        ) from error


def trained(file: Path) -> dict[str, Any]:
    """Fields of a card from the summary of the run that left `file`; none where none lies there.

    The images seen are those of the run's end, so of no snapshot.
    """
    if not (path := run_of(file) / SUMMARY).is_file():
        return {}
    try:
        summary = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged or no training's summary ({error})") from None
    at_its_end = file.is_file() and summary.get("sha256") == weights.sha256(file)
    entries = {
        "prediction": summary.get("prediction"),
        "images_seen": summary.get("images_seen") if at_its_end else None,
    }
    return {key: value for key, value in entries.items() if value is not None}


def measured(card: Card, assets: Path = ASSETS) -> dict[str, dict[str, float]]:
    """The card's metrics, computed now on the installed weights, with tolerances."""
    model, metrics = zoo.load(card.name, assets=assets), {}
    for name, metric in METRICS.items():
        if not metric.applies(card):
            continue
        value = metric.measure(card, model)
        if isinstance(value, str):
            print(f"{name} was not measured: {value}", file=sys.stderr)
            continue
        metrics[name] = {"value": round(value, 4), "tolerance": metric.tolerance}
    return metrics


# Verifying


@dataclass(frozen=True)
class Check:
    """One statement of a card beside its recomputation; `ok` is None where there is none."""

    name: str
    statement: str
    expected: object
    computed: object
    ok: bool | None

    def __str__(self) -> str:
        verdict = {True: "ok", False: "WRONG", None: "not checked"}[self.ok]
        return (
            f"{verdict:12}{self.name}: {self.statement}: card {self.expected}, "
            f"found {self.computed}"
        )


def verify(
    name: str, measures: Mapping[str, Measure] | None = None, assets: Path = ASSETS
) -> list[Check]:
    """Check the card `name`: the network's size, the file's sha256, and its numbers.

    Numbers are recomputed by the `measures` of their names; a number without one, or whose card
    gives no tolerance, is not checked.
    """
    card = zoo.card(name, assets)
    file = _file_check(card, assets)
    if card.kind == "experts":
        if not (file.statement == "sha256" and file.ok):
            return [file]
        model = zoo.load(name, assets=assets)
        parameters = _updates(model).parameters()
        tensors = weights.read(zoo.find(card, assets))
    else:
        with torch.device("meta"):
            blank = untrained(card)
        parameters, tensors = blank.parameters(), blank.state_dict()
    checks = [
        _equal(name, "parameters", card.parameters, _count(parameters)),
        _equal(name, "tensors", card.tensors, len(tensors)),
        file,
    ]
    numbers = {key: metric for key, metric in card.metrics.items() if "tolerance" in metric}
    if numbers and file.statement == "sha256" and file.ok is not False:
        model = zoo.load(name, assets=assets)
        checks += [_number_check(card, model, *item, measures or {}) for item in numbers.items()]
    return checks


def _file_check(card: Card, assets: Path) -> Check:
    """The card's weight file against its sha256."""
    path = zoo.find(card, assets)
    if path is None:
        ok = False if card.trained and "asset" in card.file and card.ships else None
        return Check(card.name, "weights", "a file", where(card, assets), ok)
    try:
        digest = weights.sha256(path)
    except WeightsError as error:
        digest = str(error)
    if card.sha256 is None:
        return Check(card.name, "sha256", "not known", digest, None)
    return _equal(card.name, "sha256", card.sha256, digest)


def _number_check(
    card: Card, model: Any, key: str, metric: Mapping, measures: Mapping[str, Measure]
) -> Check:
    if key not in measures:
        return Check(card.name, key, metric["value"], "no measure of this name", None)
    value = measures[key](card, model)
    if isinstance(value, str):
        return Check(card.name, key, metric["value"], value, None)
    # Decimal numbers are not exact in binary: a difference of the tolerance itself passes.
    ok = abs(value - metric["value"]) <= metric["tolerance"] + 1e-9
    return Check(card.name, key, metric["value"], value, ok)


def _equal(name: str, statement: str, expected: object, computed: object) -> Check:
    return Check(name, statement, expected, computed, expected == computed)


# The command line


def _changes(pairs: list[str]) -> dict[str, Any]:
    """`key=value` pairs, values read as JSON where they are JSON."""
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--card takes key=value, not {pair!r}")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    return changes


def _install(options: argparse.Namespace) -> str:
    changes = trained(options.file) | _changes(options.card)
    card = publish(options.name, options.file, changes, options.assets)
    metrics = measured(card, options.assets) | dict(card.metrics)
    path = write(replace(card, metrics=metrics), options.assets)
    return f"{path}:\n{path.read_text('utf8')}".rstrip()


def _verify(options: argparse.Namespace) -> int:
    measures = {name: metric.measure for name, metric in METRICS.items()}
    verdicts = []
    for name in options.names or zoo.names(options.assets):
        for check in verify(name, measures, options.assets):
            verdicts.append(check.ok)
            print(check, flush=True)
    if wrong := verdicts.count(False):
        print(f"{wrong} of {len(verdicts)} checks failed", file=sys.stderr)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="python -m ppap_book cards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = parser.add_subparsers(required=True, metavar="list|verify|install")
    names.add_parser("list", help="List every network of the zoo.").set_defaults(run=table)
    elsewhere = CommandLine(add_help=False)
    elsewhere.add_argument(
        "--assets", type=Path, default=ASSETS, help="Folder of cards and weights, if another."
    )
    check = names.add_parser("verify", parents=[elsewhere], help="Recompute what cards say.")
    check.add_argument("names", nargs="*", help="Of networks. Default: all.")
    check.set_defaults(run=_verify)
    install = names.add_parser("install", parents=[elsewhere], help="Install trained weights.")
    install.add_argument("name", help="Of the network's card.")
    install.add_argument("file", type=Path, help="What the training left.")
    install.add_argument(
        "--card", nargs="*", default=[], metavar="KEY=VALUE", help="Further fields of the card."
    )
    install.set_defaults(run=_install)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 if a check failed or after saying what was wrong."""
    return run_command(_parser(), lambda options: options.run(options), arguments)
