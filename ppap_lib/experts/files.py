"""Sets of experts as files: one safetensors with what is trained, and how to rebuild it.

A file of updates holds nothing of the backbone; it names the backbone and its weights' sha256.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ppap_lib.errors import InputError, WeightsError
from ppap_lib.experts.bank import Experts, full_copies, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.experts.lora import LoraConfig, LoraUpdate
from ppap_lib.files import weights

_KEY = "experts"  # of the file's metadata


@dataclass(frozen=True)
class ExpertsFile:
    """Facts that a file of experts records beside its tensors.

    Parameters
    ----------
    n, T
        Numbers of experts and of timesteps, which decide the intervals.
    config
        The configuration of the updates; None for full copies.
    backbone, backbone_sha256
        The zoo's name of the network that the experts were made from, and its weights' digest.
    """

    n: int
    T: int
    config: LoraConfig | None
    backbone: str | None = None
    backbone_sha256: str | None = None

    def to_json(self) -> str:
        """Return the facts as a file holds them, where a backbone is "trunk", a config "plan"."""
        entries = {
            "n": self.n,
            "T": self.T,
            "plan": self.config and self.config.to_json(),
            "trunk": self.backbone,
            "trunk_sha256": self.backbone_sha256,
        }
        return json.dumps(entries)

    @classmethod
    def from_json(cls, text: str) -> "ExpertsFile":
        """Return the facts that `to_json` wrote; raise `WeightsError` for any other text."""
        try:
            entries = json.loads(text)
            plan = entries["plan"]
            return cls(
                n=entries["n"],
                T=entries["T"],
                config=None if plan is None else LoraConfig.from_json(plan),
                backbone=entries.get("trunk"),
                backbone_sha256=entries.get("trunk_sha256"),
            )
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise WeightsError(f"not the facts of a set of experts ({error!r})") from None


def save(
    experts: Experts,
    path: str | Path,
    backbone: str | None = None,
    backbone_sha256: str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the experts' updates, or their whole networks, as one safetensors file.

    Parameters
    ----------
    experts
        The set; all its updates must have one configuration.
    path
        The file to write.
    backbone, backbone_sha256
        The zoo's name of the network that the experts were made from, and its weights' digest:
        the zoo then loads the experts on no other weights.
    dtype
        What floating tensors are cast to, or torch.int8 for 8 bits; see `weights.save`.

    Raises
    ------
    InputError
        If the updates have different configurations.
    """
    intervals = experts.intervals
    configs = {one.config if isinstance(one, LoraUpdate) else None for one in experts.bank}
    if len(configs) > 1:
        raise InputError(
            "the experts' updates have different configurations: one file holds one configuration"
        )
    record = ExpertsFile(len(intervals), intervals.T, configs.pop(), backbone, backbone_sha256)
    state = nn.ModuleList(experts.bank).state_dict()
    weights.save(state, path, dtype, {_KEY: record.to_json()})


def read(path: str | Path, backbone: nn.Module, digest: str | None = None) -> Experts:
    """Return the experts in a file of `save`, frozen and in evaluation mode.

    Parameters
    ----------
    path
        The file.
    backbone
        The network that the experts update, which is frozen; or one of the architecture of full
        copies, which stays as it is.
    digest
        The expected sha256 of the file; None accepts any.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, not a set of experts, of another digest or of another
        backbone.
    """
    state, record = weights.read(path, digest), describe(path)
    intervals = Intervals(record.T, record.n)
    if record.config is None:
        experts = full_copies(backbone, intervals)
    else:
        try:
            experts = low_rank(backbone, record.config, intervals)
        except InputError as error:
            raise WeightsError(f"{Path(path).name} does not fit this backbone: {error}") from error
    weights.load(nn.ModuleList(experts.bank), state, Path(path).name)
    return experts.eval().requires_grad_(False)


def describe(path: str | Path) -> ExpertsFile:
    """Return the facts that the file of experts at `path` records.

    Raises
    ------
    WeightsError
        If there is no such file, or it is not a set of experts that `save` wrote.
    """
    path = Path(path)
    text = weights.metadata(path).get(_KEY)
    if text is None:
        raise WeightsError(f"{path.name} is not a set of experts written by experts.save")
    try:
        return ExpertsFile.from_json(text)
    except WeightsError as error:
        raise WeightsError(f"{path.name} describes its experts unreadably: {error}") from error
