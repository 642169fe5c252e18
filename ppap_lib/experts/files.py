"""Sets of experts as files: one safetensors with what is trained, and how to rebuild it.

A file of updates holds nothing of the trunk; it names the trunk and its weights' sha256.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ppap_lib import devices, weights, zoo
from ppap_lib.experts.routing import Experts, ExpertsError, full_copies, low_rank
from ppap_lib.fetch import ASSETS
from ppap_lib.networks.lora import Adapted, LoraError, Plan
from ppap_lib.schedule import Intervals

_KEY = "experts"  # of the file's metadata


@dataclass(frozen=True)
class _Record:
    """What a file says beside its tensors; `plan` is None for full copies."""

    n: int
    T: int
    plan: str | None
    trunk: str | None = None
    trunk_sha256: str | None = None


def save(
    experts: Experts,
    path: str | Path,
    trunk: str | None = None,
    dtype: torch.dtype | None = None,
    assets: Path = ASSETS,
) -> None:
    """Write the experts as one safetensors: their updates, or their whole networks.

    `trunk` names the zoo's network they were made from; `load` then checks that its weights
    are the same. Floating tensors are cast to `dtype`, or kept in 8 bits: see `weights.save`.
    """
    bank, intervals = experts.bank, experts.intervals
    plans = {member.plan for member in bank.members} if isinstance(bank, Adapted) else {None}
    if len(plans) > 1:
        raise ExpertsError("the experts' updates have different plans: one file holds one plan")
    plan = plans.pop()
    record = _Record(
        n=len(intervals),
        T=intervals.T,
        plan=plan and plan.to_json(),
        trunk=trunk,
        trunk_sha256=zoo.card(trunk, assets).sha256 if trunk else None,
    )
    weights.save(bank.members.state_dict(), path, dtype, {_KEY: json.dumps(asdict(record))})


def read(path: str | Path, trunk: nn.Module, digest: str | None = None) -> Experts:
    """The experts in a file of `save`, in evaluation mode, frozen.

    `trunk` is the network they update, or one of the architecture of full copies, which then
    stays as it is. `digest`, where given, is the expected sha256 of the file.
    """
    state, record = weights.read(path, digest), _record(Path(path))
    intervals = Intervals(record.T, record.n)
    try:
        experts = (
            full_copies(trunk, intervals)
            if record.plan is None
            else low_rank(trunk, Plan.from_json(record.plan), intervals)
        )
    except LoraError as error:
        raise ExpertsError(f"{Path(path).name} does not fit this trunk: {error}") from error
    weights.load(experts.bank.members, state, Path(path).name)
    return experts.eval().requires_grad_(False)


def load(name: str, device: torch.device | str = "cpu", assets: Path = ASSETS) -> Experts:
    """The set of experts `name`, with its trunk: for example "fashion/ppap5-resnet18"."""
    sets = [n for n in zoo.names(assets) if zoo.card(n, assets).kind == "experts"]
    if name not in sets:
        raise ExpertsError(
            f"no set of experts {name!r} ships with this version: there "
            f"{'are ' + ', '.join(sets) if sets else 'is none yet'}; train one, or give a file "
            f"of your own to experts.read(path, trunk)"
        )
    card, device = zoo.card(name, assets), devices.pick(device)
    path = asset(card, assets)
    if not path.is_file() and not card.ships:
        raise ExpertsError(f"{name} does not ship: {card.note}")
    if card.sha256 is None or not path.is_file():
        raise ExpertsError(f"{name} is not trained yet: {card.note or f'there is no {path.name}'}")
    return read(path, trunk(path, card.network["trunk"], assets), card.sha256).to(device)


def model(name: str, device: torch.device | str = "cpu", assets: Path = ASSETS) -> nn.Module:
    """The network or the set of experts `name` of the zoo, by the kind that its card says."""
    loader = load if zoo.card(name, assets).kind == "experts" else zoo.load
    return loader(name, device, assets=assets)


def asset(card: zoo.Card, assets: Path = ASSETS) -> Path:
    """Where the set of experts of this card ships."""
    return assets / "weights" / card.file["asset"]


def trunk(path: str | Path, name: str, assets: Path = ASSETS) -> nn.Module:
    """The zoo's network `name`, if the experts in the file were made from these very weights."""
    made_for = _record(Path(path))
    current = zoo.card(name, assets).sha256
    if made_for.plan is not None and made_for.trunk is None:
        raise ExpertsError(
            f"{Path(path).name} does not say which trunk it was made for: give experts.save the "
            f"zoo's name of it, trunk={name!r}"
        )
    if made_for.trunk_sha256 not in (None, current):
        raise ExpertsError(
            f"{Path(path).name} was made for the {made_for.trunk} with sha256 "
            f"{made_for.trunk_sha256}, this {name} has {current}: train the experts again"
        )
    return zoo.load(name, assets=assets)


def _record(path: Path) -> _Record:
    text = weights.metadata(path).get(_KEY)
    if text is None:
        raise ExpertsError(f"{path.name} is not a set of experts written by experts.save")
    try:
        return _Record(**json.loads(text))
    except (TypeError, json.JSONDecodeError) as error:
        raise ExpertsError(f"{path.name} describes its experts unreadably: {error}") from error
