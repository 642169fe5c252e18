"""Sets of experts as files: one safetensors with what is trained, and how to rebuild it.

A file of updates holds nothing of the trunk; it names the trunk and its weights' sha256.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ppap_lib.errors import InputError
from ppap_lib.experts.bank import Experts, full_copies, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.experts.lora import LoraBank, LoraConfig
from ppap_lib.files import weights

_KEY = "experts"  # of the file's metadata


@dataclass(frozen=True)
class ExpertsFile:
    """What a file says beside its tensors; `plan` is None for full copies."""

    n: int
    T: int
    plan: str | None
    trunk: str | None = None
    trunk_sha256: str | None = None


def save(
    experts: Experts,
    path: str | Path,
    backbone: str | None = None,
    backbone_sha256: str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the experts as one safetensors: their updates, or their whole networks.

    `backbone` names the zoo's network they were made from and `backbone_sha256` its weights; the
    zoo then loads them with no others. Floating tensors are cast to `dtype`, or kept in 8 bits: see `weights.save`.
    """
    bank, intervals = experts.bank, experts.intervals
    plans = {member.plan for member in bank.members} if isinstance(bank, LoraBank) else {None}
    if len(plans) > 1:
        raise InputError("the experts' updates have different plans: one file holds one plan")
    plan = plans.pop()
    record = ExpertsFile(
        n=len(intervals),
        T=intervals.T,
        plan=plan and plan.to_json(),
        trunk=backbone,
        trunk_sha256=backbone_sha256,
    )
    weights.save(bank.members.state_dict(), path, dtype, {_KEY: json.dumps(asdict(record))})


def read(path: str | Path, trunk: nn.Module, digest: str | None = None) -> Experts:
    """The experts in a file of `save`, in evaluation mode, frozen.

    `trunk` is the network they update, or one of the architecture of full copies, which then
    stays as it is. `digest`, where given, is the expected sha256 of the file.
    """
    state, record = weights.read(path, digest), describe(path)
    intervals = Intervals(record.T, record.n)
    try:
        experts = (
            full_copies(trunk, intervals)
            if record.plan is None
            else low_rank(trunk, LoraConfig.from_json(record.plan), intervals)
        )
    except InputError as error:
        raise InputError(f"{Path(path).name} does not fit this trunk: {error}") from error
    weights.load(experts.bank.members, state, Path(path).name)
    return experts.eval().requires_grad_(False)


def describe(path: str | Path) -> ExpertsFile:
    """What the file of experts `path` says of itself; `InputError` if it is none."""
    path = Path(path)
    text = weights.metadata(path).get(_KEY)
    if text is None:
        raise InputError(f"{path.name} is not a set of experts written by experts.save")
    try:
        return ExpertsFile(**json.loads(text))
    except (TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path.name} describes its experts unreadably: {error}") from error
