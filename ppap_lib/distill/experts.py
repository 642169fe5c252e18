"""Whole trainings of experts: what the command line and the ablations both call.

Each leaves experts.safetensors, which `experts.read` reads, and summary.json.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppap_lib import experts, zoo
from ppap_lib.data.imageset import ImageSet
from ppap_lib.data.shards import generated
from ppap_lib.distill.fitting import UPDATES, fit, updates
from ppap_lib.distill.transfer import NoisyLoss, Supervised, Transfer, teacher_logits
from ppap_lib.errors import DataError, TrainingError
from ppap_lib.experts import Experts
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.files.atomic import write_text
from ppap_lib.guidance.tasks import Classification
from ppap_lib.training.fit import SUMMARY, finished
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import crc32, described, refuse_torchrun
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier as preset

EXPERTS, TEACHER = "experts.safetensors", "teacher.safetensors"

HABITS: Mapping[str, str] = MappingProxyType(
    {"warm_start": "warm start", "shared_time": "shared time", "no_scale": "no scale"}
)
"""Other ways to train, by what records call them: fields of `ExpertTraining`.

A warm start and no LoRA scale are those of PPAP's released code. It trains with a timestep for
each image, as we do; that it *routes* by one for the whole batch is what the third is about.
"""


@dataclass(frozen=True)
class ExpertTraining:
    """Whose experts, how many, and what they learn from.

    "transfer" learns from the clean network, "supervised" from labels. The images are those of
    the set by `ppap_lib.samplers.draw` in the folder `generated`, or, where it is None, the tier's
    training images, whose labels a transfer does not read; `first` keeps to so many of them.
    Updates are trained, of the `rank` given or the guide's preset; labels can also train `whole`
    networks. `warm_start`, `shared_time` and `no_scale` are `HABITS`.
    """

    guide: str
    kind: Literal["transfer", "supervised"] = "transfer"
    experts: int = 5
    tier: str = "fashion"
    generated: Path | None = None
    first: int | None = None
    rank: int | None = None
    whole: bool = False
    temperature: float = 0.25
    warm_start: bool = False
    shared_time: bool = False
    no_scale: bool = False

    def __post_init__(self):
        if self.kind not in ("transfer", "supervised"):
            raise TrainingError(f"kind must be 'transfer' or 'supervised', not {self.kind!r}")
        if self.whole and self.transfers:
            raise TrainingError("whole networks learn from labels: a transfer trains updates")
        if self.whole and self.rank is not None:
            raise TrainingError(f"whole networks have no rank {self.rank}: give one or the other")
        if self.whole and self.no_scale:
            raise TrainingError("whole networks have no LoRA scale: leave out --no-scale")
        if self.generated is not None and not self.transfers:
            raise TrainingError("generated images have no labels to learn from: leave them out")

    @property
    def transfers(self) -> bool:
        """Whether the clean network is the teacher."""
        return self.kind == "transfer"

    @property
    def backbone(self) -> str:
        """The clean network's name in the zoo."""
        return preset(self.tier).named(self.guide)

    @property
    def intervals(self) -> Intervals:
        """The experts' own."""
        return Intervals(preset(self.tier).schedule().T, self.experts)

    def images(self) -> ImageSet:
        """What is learned from; `DataError` if it has another shape than the tier's images."""
        if self.generated is not None:
            found = generated(self.generated, self.first)
        else:
            found = datasets.require(self.tier, "train")
            found = found if self.first is None else found.first(self.first)
        if found.shape != (shape := preset(self.tier).shape):
            raise DataError(f"{found.source} are {found.shape}, {self.tier}'s {shape}")
        return found

    def loss(self) -> NoisyLoss:
        """What the experts are trained by."""
        schedule, shared = preset(self.tier).schedule(), self.shared_time
        if self.transfers:
            task = Classification(self.temperature)
            return Transfer(schedule, self.intervals, task, shared_time=shared)
        return Supervised(schedule, self.intervals, Classification(), shared_time=shared)

    def fresh(self, backbone: nn.Module, seed: int) -> Experts:
        """The untrained experts of `backbone`, which stays as it is."""
        if self.whole:
            return experts.full_copies(backbone, self.intervals)
        return updates(backbone, self.guide, self.intervals, self.rank, not self.no_scale, seed)

    def recorded(self) -> dict[str, Any]:
        """What tells it from another, but for the images: in summaries, and so in ledger rows."""
        return {
            "tier": self.tier,
            "guide": self.guide,
            "kind": self.kind,
            "experts": self.experts,
            "rank": None if self.whole else self.rank or UPDATES[self.guide].rank,
            "temperature": self.temperature if self.transfers else None,
            "released": {name: getattr(self, field) for field, name in HABITS.items()},
        }

    def start(self) -> dict[str, Any]:
        """Which clean network it starts from."""
        return {"trunk": self.backbone, "trunk_sha256": zoo.card(self.backbone).sha256}


def train_experts(
    training: ExpertTraining,
    settings: Settings,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train in `folder`; returns the summary. `on_start` and `on_log` are those of `fit`.

    Raises `DataError` where there are no images to learn from, or of another shape, and
    `TrainingError` where the folder is another training's. How well the result reads noisy images
    is for `python -m ppap_book run distillation --folder` to measure.
    """
    refuse_torchrun()  # before every process asks the teacher
    device = torch.device(device)
    loss, images = training.loss(), training.images()
    backbone = zoo.load(training.backbone)
    size = sum(parameter.numel() for parameter in backbone.parameters())
    fresh = training.fresh(backbone, settings.seed)
    trained, figures = fit(
        fresh,
        loss,
        images.pixels,
        _targets(training, images, folder, device),
        settings,
        folder,
        sequential=training.warm_start,
        device=device,
        resume=resume,
        on_start=on_start,
        on_log=on_log,
    )
    file = folder / EXPERTS
    experts.save(
        trained, file, training.backbone, zoo.card(training.backbone).sha256, dtype=torch.float16
    )
    summary = {
        **training.recorded(),
        **training.start(),
        "trunk_parameters": size,
        "share_of_trunk": round(figures["parameters"] / size, 4),
        "source": images.source,
        **figures,
        "file": file.name,
        "sha256": weights.sha256(file),
    }
    write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def verify(training: ExpertTraining, folder: Path, device: torch.device | str = "cpu") -> None:
    """Raise `TrainingError` unless the finished training in `folder` is this one, on these images.

    A summary of long ago, which does not say something, is not held to it.
    """
    summary, images = finished(folder, "distill"), training.images()
    targets = _targets(training, images, folder, torch.device(device))
    data_here = {"data": described(images.pixels, targets)}
    here = training.recorded() | training.start() | data_here
    there = {key: summary.get(key, value) for key, value in here.items()}
    if differing := [key for key in here if there[key] != here[key]]:
        raise TrainingError(
            f"the finished training in {folder} is another: "
            + "; ".join(f"{key} {there[key]} there, {here[key]} asked for" for key in differing)
            + ". Use another folder, or remove it to train again"
        )


def _targets(
    training: ExpertTraining, images: ImageSet, folder: Path, device: torch.device
) -> Tensor:
    """What the experts are told of each image: the teacher's logits, or its label."""
    if not training.transfers:
        return images.labels
    return _teacher(training.backbone, device, images.pixels, folder)


def _teacher(name: str, device: torch.device, pixels: Tensor, folder: Path) -> Tensor:
    """The teacher's logits, kept in `folder`, so that a resumed run reads the very same ones."""
    path = folder / TEACHER
    made_from = {
        "teacher": f"{name} {zoo.card(name).sha256}",
        "images": f"{len(pixels)}, crc32 {crc32(pixels):08x}",
    }
    if not path.is_file():
        logits = teacher_logits(zoo.load(name, device), pixels)
        weights.save({"logits": logits}, path, metadata=made_from)
    elif (found := weights.metadata(path)) != made_from:
        raise TrainingError(
            f"{folder} is another run's, by its {path.name}: made from {found}, not {made_from}. "
            f"Use another folder"
        )
    return weights.read(path)["logits"]
