"""Installing trained sets of experts with their card, and recomputing what cards say of them."""

from collections.abc import Mapping
from pathlib import Path

from ppap_lib import weights, zoo
from ppap_lib.experts.files import asset, load, read, trunk
from ppap_lib.experts.routing import ExpertsError
from ppap_lib.fetch import ASSETS
from ppap_lib.zoo.publishing import Measure, check_file, count, equal, install


def publish(
    name: str, file: str | Path, changes: Mapping | None = None, assets: Path = ASSETS
) -> zoo.Card:
    """Install the set of experts in `file`, as `save` wrote it; returns its new card.

    The file must have been made from the trunk that ships. Trunk parameters are not counted:
    the card's `parameters` are what is trained. `changes` are further fields of the card.
    """
    card = _card(name, assets)
    state = weights.read(file)

    def members():
        return read(file, trunk(file, card.network["trunk"], assets)).bank.members

    return install(card, state, members, {}, changes, weights.metadata(file), assets)


def verify(
    name: str, measures: Mapping[str, Measure] | None = None, assets: Path = ASSETS
) -> list[zoo.Check]:
    """`zoo.verify` for a set of experts: its size, sha256 and numbers."""
    card = _card(name, assets)
    found = check_file(card, lambda: load(name, assets=assets), measures, assets)
    if not (found[0].what == "sha256" and found[0].ok):
        return found
    experts = load(name, assets=assets)
    state = weights.read(asset(card, assets))
    return [
        equal(name, "parameters", card.parameters, count(experts.bank.members)),
        equal(name, "tensors", card.tensors, len(state)),
        *found,
    ]


def _card(name: str, assets: Path) -> zoo.Card:
    card = zoo.card(name, assets)
    if card.kind != "experts":
        raise ExpertsError(f"{name} is {card.called}, not a set of experts: use zoo.publish")
    return card
