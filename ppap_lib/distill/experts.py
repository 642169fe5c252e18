"""Trainings of experts by name: what the command line and the ablations both call.

Each leaves experts.safetensors, which `experts.read` reads, and summary.json.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ppap_lib import experts, zoo
from ppap_lib.data.imageset import ImageSet
from ppap_lib.data.shards import generated
from ppap_lib.distill.fit import distil, updates
from ppap_lib.distill.transfer import cached_outputs
from ppap_lib.errors import DataError, TrainingError
from ppap_lib.experts import Experts
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.guidance.tasks import Classification, Task
from ppap_lib.parameters import Parameters, param
from ppap_lib.training.checkpoints import fingerprint
from ppap_lib.training.fit import finished
from ppap_lib.training.objectives import Augmentation
from ppap_lib.training.preparation import refuse_torchrun
from ppap_lib.training.settings import Settings
from ppap_lib.zoo import datasets
from ppap_lib.zoo.own import own_guide, own_task
from ppap_lib.zoo.presets import NETWORKS, ExpertKind, expert_preset
from ppap_lib.zoo.tiers import tier as preset
from ppap_lib.zoo.tiers import training_objective


@dataclass(frozen=True)
class ExpertTraining(Parameters):
    """Experts to be trained: of which network, how many, and what they learn from.

    A transfer learns from the clean network, a supervised training from labels. Updates are
    trained; labels can also train `whole` networks.

    Parameters
    ----------
    guide : str
        A classifier of the tier, or a network of your own as "module:function": a function without
        arguments that returns a module, which reads the tier's images in [-1, 1].
    kind : {"transfer", "supervised"}
        What teaches.
    experts : int
        Their number, one for each interval of timesteps.
    tier : str
        Whose images, schedule and classes.
    generated : Path, optional
        The folder of a set of generated images, for a transfer. Without it the images are the
        tier's training images, whose labels a transfer does not read.
    first : int, optional
        How many of the images are used; all by default.
    rank : int, optional
        The updates' rank, in place of the preset's.
    whole : bool
        Whether whole networks are trained.
    temperature : float
        The teacher's softmax is sharpened by it.
    warm_start, shared_time, lora_scale
        Habits of PPAP's released code: one expert after another, each from the one before; and no
        LoRA scale. It trains with a timestep for each image, as is done here; that it *routes* by
        one for the whole batch is what a shared time is about.
    augment : bool
        Whether images are moved and mirrored as in the guide's own training, the teacher's and the
        student's alike.
    task : str, optional
        What the output of a network of your own means, if not logits: "module:function" returns
        a task.

    Raises
    ------
    InputError
        If a value is of a wrong type or out of its range.
    TrainingError
        If the values contradict each other.
    """

    guide: str = param(help="A guide of the tier, or your own network as module:function.")
    kind: Literal["transfer", "supervised"] = param(
        "transfer", help="Learn from the clean network, or from labels."
    )
    experts: int = param(5, low=1, help="Number of experts, one an interval of timesteps.")
    tier: str = param("fashion", help="Whose images, schedule and classes.")
    generated: Path | None = param(None, help="Folder of a set by ppap generate.")
    first: int | None = param(None, low=1, help="Use only so many of the images.")
    rank: int | None = param(None, low=1, help="Rank of the updates, in place of the guide's.")
    whole: bool = param(False, help="Train whole networks.")
    temperature: float = param(0.25, low=0, help="Sharpens the teacher's softmax.")
    warm_start: bool = param(False, help="Train one expert after another, as released.")
    shared_time: bool = param(False, help="Draw one timestep for the whole batch.")
    lora_scale: bool = param(True, help="Scale the updates; the release does not.")
    augment: bool = param(False, help="Move and mirror images as the guide's own training did.")
    task: str | None = param(None, help="What your network's output means, as module:function.")

    def __post_init__(self):
        super().__post_init__()
        if self.whole and self.transfers:
            raise TrainingError("whole networks learn from labels: a transfer trains updates")
        if self.whole and self.rank is not None:
            raise TrainingError(f"whole networks have no rank {self.rank}: give one or the other")
        if self.whole and not self.lora_scale:
            raise TrainingError("whole networks have no LoRA scale to leave out")
        if self.generated is not None and not self.transfers:
            raise TrainingError("generated images have no labels to learn from: leave them out")
        if self.augment and self.guide not in NETWORKS:
            raise TrainingError(
                f"{self.guide} was not trained here: there is no augmentation of its training to "
                f"repeat; leave augment out"
            )
        if self.task is not None and not self.own:
            raise TrainingError(f"{self.guide} is a classifier: a task is for your own network")

    @property
    def transfers(self) -> bool:
        """Whether the clean network is the teacher."""
        return self.kind == "transfer"

    @property
    def own(self) -> bool:
        """Whether the guide is a network of the user's own."""
        return ":" in self.guide

    @property
    def trains(self) -> ExpertKind:
        """Which kind of experts, as `zoo.presets.settings` asks."""
        return "copies" if self.whole else "updates"

    @property
    def backbone(self) -> str:
        """The clean network's name: in the zoo, or the function that makes it."""
        return self.guide if self.own else preset(self.tier).named(self.guide)

    @property
    def intervals(self) -> Intervals:
        """The experts' own."""
        return Intervals(preset(self.tier).schedule().T, self.experts)

    def load_network(self, device: torch.device | str = "cpu") -> nn.Module:
        """Load the clean network on `device`, frozen and in evaluation mode."""
        if self.own:
            shape = preset(self.tier).shape
            return own_guide(self.guide, shape, logits=self.task is None).to(device)
        if self.guide not in (guides := zoo.guides(self.tier)):
            raise TrainingError(
                f"{self.tier} has no guide {self.guide!r}: use {' or '.join(guides)}, or a network "
                f"of your own as module:function"
            )
        return zoo.load(self.backbone, device)

    def images(self) -> ImageSet:
        """Read what is learned from; `DataError` if its shape is not the tier's."""
        if self.generated is not None:
            images = generated(self.generated, self.first)
        else:
            images = datasets.require(self.tier, "train")
            images = images if self.first is None else images.first(self.first)
        if images.shape != (shape := preset(self.tier).shape):
            raise DataError(f"{images.source} are {images.shape}, {self.tier}'s {shape}")
        return images

    def load_task(self) -> Task:
        """Make the task, which says what the network's output means."""
        if self.task is not None:
            return own_task(self.task)
        return Classification(self.temperature) if self.transfers else Classification()

    @property
    def augmentation(self) -> Augmentation | None:
        """The views of images that are learned from; None for the images themselves."""
        if not self.augment:
            return None
        return training_objective(preset(self.tier), self.guide).augmentation

    def fresh(self, backbone: nn.Module, seed: int) -> Experts:
        """Return untrained experts of the clean network, `backbone`; `seed` decides updates."""
        if self.whole:
            return experts.full_copies(backbone, self.intervals)
        return updates(backbone, self.guide, self.intervals, self.rank, self.lora_scale, seed)

    def recorded(self) -> dict[str, Any]:
        """Return what tells it from another, but for the images, as summaries and rows say it."""
        facts = {
            "tier": self.tier,
            "guide": self.guide,
            "kind": self.kind,
            "experts": self.experts,
            "rank": None if self.whole else self.rank or expert_preset(self.guide).rank,
            "temperature": self.temperature if self.transfers and self.task is None else None,
            "released": {
                "warm start": self.warm_start,
                "shared time": self.shared_time,
                "no scale": not self.lora_scale,
            },
        }
        # What is off or left out is not named: what was trained before knew nothing of it.
        extras = {"augment": self.augment, "task": self.task}
        return facts | {name: value for name, value in extras.items() if value}

    def digest(self, backbone: nn.Module) -> str | None:
        """Return by which sha256 the weights of the clean network, `backbone`, are known."""
        if self.own:
            return weights.state_sha256(backbone.state_dict())
        return zoo.card(self.backbone).sha256


def train_experts(
    training: ExpertTraining,
    settings: Settings,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    fresh: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train experts in `folder`, and return the summary.

    Parameters
    ----------
    training : ExpertTraining
        Which experts.
    settings, folder, device, resume, fresh, on_start, on_log
        As for `distil`.

    Raises
    ------
    DataError
        If there are no images to learn from, or they have another shape than the tier's.
    InputError
        If a network or task of the user's own cannot be had, or is none.
    TrainingError
        If the folder is another training's, or as `distil` does.
    """
    refuse_torchrun()  # before every process reads its images
    images, backbone = training.images(), training.load_network()
    facts = training.recorded() | {"source": images.source}
    return distil(
        backbone,
        images.pixels,
        preset(training.tier).schedule(),
        settings,
        folder,
        task=training.load_task(),
        labels=None if training.transfers else images.labels,
        experts=training.fresh(backbone, settings.seed),
        name=training.backbone,
        digest=training.digest(backbone),
        facts=facts | {"generated": images.origin and asdict(images.origin)},
        shared_time=training.shared_time,
        augment=training.augmentation,
        sequential=training.warm_start,
        device=device,
        resume=resume,
        fresh=fresh,
        on_start=on_start,
        on_log=on_log,
    )


def verify(training: ExpertTraining, folder: Path, device: torch.device | str = "cpu") -> None:
    """Raise `TrainingError` unless the finished training in `folder` is this one, on these images.

    A summary of long ago, which does not say something, is not held to it.
    """
    summary, images = {"augment": False} | finished(folder, "distill"), training.images()
    backbone = training.load_network(device)
    name, digest = training.backbone, training.digest(backbone)
    targets = images.labels
    if training.transfers:
        targets = cached_outputs(lambda: backbone, images.pixels, folder, name, digest)
    expected = {
        **training.recorded(),
        "augment": training.augment,
        "trunk": name,
        "trunk_sha256": digest,
        "data": fingerprint(images.pixels, targets),
    }
    recorded = {key: summary.get(key, value) for key, value in expected.items()}
    if differing := [key for key in expected if recorded[key] != expected[key]]:
        raise TrainingError(
            f"the finished training in {folder} is another: "
            + "; ".join(
                f"{key} {recorded[key]} there, {expected[key]} asked for" for key in differing
            )
            + ". Use another folder, or remove it to train again"
        )
