"""Installing trained weights with their card, and recomputing what cards say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ppap_lib.errors import WeightsError
from ppap_lib.experts import files as expert_files
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS
from ppap_lib.zoo.cards import Card, write
from ppap_lib.zoo.cards import card as read_card
from ppap_lib.zoo.keys import untrained
from ppap_lib.zoo.loading import expert_backbone, find, load, load_network, where

Measure = Callable[[Card, nn.Module], float | str]
"""Recomputes a number, or says in words why it cannot be recomputed on this machine."""


@dataclass(frozen=True)
class Check:
    """One thing a card says, beside what was found. `ok` is None where it could not be checked."""

    name: str
    what: str
    expected: object
    found: object
    ok: bool | None


def publish(
    name: str, file: str | Path, changes: Mapping | None = None, assets: Path = ASSETS
) -> Card:
    """Install a trained network under `assets`, and return its new card.

    `file` is a snapshot of the trainer (safetensors, named by the images seen) or its
    `checkpoint.pt`, of which the EMA is taken; of a set of experts it is what `experts.save` wrote.
    It must fit the card's network, and experts the backbone that ships, which is not counted among
    their parameters. `changes` are further fields of the card.
    """
    card = read_card(name, assets)
    if card.kind == "experts":
        state = weights.read(file)

        def updates() -> nn.Module:
            backbone = expert_backbone(file, card.network["trunk"], assets)
            return nn.ModuleList(expert_files.read(file, backbone).bank)

        return install(card, state, updates, {}, changes, weights.metadata(file), assets)
    state, seen = _trained(Path(file))

    def network() -> nn.Module:
        return weights.load(untrained(card), state, str(file))

    return install(card, state, network, {"images_seen": seen}, changes, assets=assets)


def install(
    card: Card,
    state: Mapping[str, Tensor],
    network: Callable[[], nn.Module],
    known: Mapping,
    changes: Mapping | None = None,
    metadata: Mapping[str, str] | None = None,
    assets: Path = ASSETS,
) -> Card:
    """Write `state` as the card's weights, and the card with what is now `known` of them.

    `network` builds what the state belongs to, or raises where it does not fit; its parameters
    are counted. `known` fields that are None stay as the card has them, except the numbers of the
    weights that were there; `changes` overrule both.
    The asset has the name and the dtype that the new card's `file` says.
    """
    changes = dict(changes or {})
    if unknown := changes.keys() - {f.name for f in fields(Card)}:
        raise WeightsError(f"a card has no fields {', '.join(sorted(unknown))}")
    found = {key: value for key, value in known.items() if value is not None}
    old_numbers = {"metrics": {}, "note": "", "images_seen": None}
    card = replace(card, **{**old_numbers, **found, **changes})
    if "asset" not in card.file:
        raise WeightsError(
            f"{card.name} is published elsewhere ({where(card)}): nothing to install"
        )
    parameters = count(network())
    if broken := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise WeightsError(f"{card.name} would have NaN or infinity in {', '.join(broken[:8])}")
    path = assets / "weights" / card.file["asset"]
    weights.save(state, path, getattr(torch, card.file.get("dtype", "float16")), metadata)
    card = replace(
        card,
        sha256=weights.sha256(path),
        bytes=path.stat().st_size,
        parameters=parameters,
        tensors=len(state),
    )
    write(card, assets)
    return card


def verify(
    name: str, measures: Mapping[str, Measure] | None = None, assets: Path = ASSETS
) -> list[Check]:
    """What the card `name` says against what is found: shape, sha256, and its numbers.

    `measures` computes metrics by name; a metric that no measure computes, or whose card gives
    no tolerance, is not checked.
    """
    card = read_card(name, assets)
    if card.kind == "experts":
        found = check_file(card, lambda: load(name, assets=assets), measures, assets)
        if not (found[0].what == "sha256" and found[0].ok):
            return found
        updates = nn.ModuleList(load(name, assets=assets).bank)
        state = weights.read(find(card, assets))
        return [
            equal(name, "parameters", card.parameters, count(updates)),
            equal(name, "tensors", card.tensors, len(state)),
            *found,
        ]
    with torch.device("meta"):
        blank = untrained(card)
    checks = [
        equal(name, "parameters", card.parameters, count(blank)),
        equal(name, "tensors", card.tensors, len(blank.state_dict())),
    ]
    return checks + check_file(card, lambda: load_network(name, assets=assets), measures, assets)


def check_file(
    card: Card,
    loaded: Callable[[], nn.Module],
    measures: Mapping[str, Measure] | None = None,
    assets: Path = ASSETS,
) -> list[Check]:
    """The card's weight file against its sha256, and the `loaded` network against its numbers."""
    path = find(card, assets)
    if path is None:
        ok = False if card.trained and "asset" in card.file and card.ships else None
        return [Check(card.name, "weights", "a file", where(card, assets), ok)]
    try:
        found = weights.sha256(path)
    except weights.WeightsError as error:
        found = str(error)
    if card.sha256 is None:
        checks = [Check(card.name, "sha256", "not known", found, None)]
    else:
        checks = [equal(card.name, "sha256", card.sha256, found)]
        if not checks[-1].ok:
            return checks
    recomputed = {key: m for key, m in card.metrics.items() if "tolerance" in m}
    module = loaded() if recomputed else None
    for key, metric in recomputed.items():
        checks.append(_metric(card, module, key, metric, measures or {}))
    return checks


def _metric(card, module, key: str, metric: Mapping, measures: Mapping[str, Measure]) -> Check:
    if key not in measures:
        return Check(card.name, key, metric["value"], "no measure of this name", None)
    found = measures[key](card, module)
    if isinstance(found, str):
        return Check(card.name, key, metric["value"], found, None)
    # Decimal numbers are not exact in binary: a difference of the tolerance itself passes.
    ok = abs(found - metric["value"]) <= metric["tolerance"] + 1e-9
    return Check(card.name, key, metric["value"], found, ok)


def equal(name: str, what: str, expected, found) -> Check:
    """The check that what a card says is what was found."""
    return Check(name, what, expected, found, expected == found)


def count(network: nn.Module) -> int:
    """How many parameters it has."""
    return sum(parameter.numel() for parameter in network.parameters())


def _trained(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """The EMA's state dict, and how many images it saw where the file tells."""
    if path.suffix == ".safetensors":
        return weights.read(path), int(path.stem) if path.stem.isdigit() else None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state["ema"], state["progress"]["step"] * state["run"]["batch"]
    except Exception as error:  # the unpickler raises whatever foreign bytes lead it to
        raise WeightsError(
            f"{path} is neither a safetensors file nor a checkpoint of the trainer "
            f"({type(error).__name__}: {error})"
        ) from error
