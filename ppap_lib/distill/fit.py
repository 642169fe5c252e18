"""Training a set of experts: fresh updates, and all at once or one after another."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.distill.transfer import (
    TEACHER,
    Augment,
    NoisyLoss,
    Supervised,
    Transfer,
    cached_outputs,
)
from ppap_lib.errors import TrainingError
from ppap_lib.experts import Experts, LoraBank, files, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.files.atomic import write_text
from ppap_lib.files.locks import hold
from ppap_lib.guidance.tasks import Classification, Task
from ppap_lib.training import checkpoints
from ppap_lib.training.checkpoints import SUMMARY, crc32, make_room
from ppap_lib.training.fit import OnLog, complete
from ppap_lib.training.preparation import refuse_torchrun
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer
from ppap_lib.zoo.presets import expert_preset

EXPERTS = "experts.safetensors"


def updates(
    backbone: nn.Module,
    guide: str,
    intervals: Intervals,
    rank: int | None = None,
    scaled: bool = True,
    seed: int = 0,
) -> Experts:
    """Return fresh updates of a network, one for each interval, by a preset.

    Parameters
    ----------
    backbone : nn.Module
        The network that they update; it is frozen.
    guide : str
        Whose preset of `zoo.presets.EXPERTS` to take; "any" is for any network.
    intervals : Intervals
        The timesteps of each expert.
    rank : int, optional
        In place of the preset's.
    scaled : bool
        Without it alpha is the rank: no LoRA scale, as in the linear layers of PPAP's released
        code.
    seed : int
        Decides the factors A; the factors B are zero.

    Raises
    ------
    TrainingError
        If there is no such preset, or no linear layer that could do without the scale.
    """
    preset = expert_preset(guide)
    rank = preset.rank if rank is None else rank
    config = preset.config(backbone, rank, rank * preset.scale if scaled else float(rank))
    layers = [backbone.get_submodule(name) for name in config.layers]
    if not scaled and not any(isinstance(layer, nn.Linear) for layer in layers):
        raise TrainingError(
            f"{guide}'s updates are of convolutions only, which the released code scales: keep "
            f"the LoRA scale, or take a guide with linear layers"
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return low_rank(backbone, config, intervals)


def distil(
    backbone: nn.Module,
    samples: Tensor,
    schedule: Schedule,
    settings: Settings,
    folder: str | Path,
    *,
    task: Task = Classification(),  # noqa: B008 (frozen)
    labels: Any = None,
    experts: Experts | int = 5,
    name: str = "backbone",
    digest: str | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    shared_time: bool = False,
    augment: Augment | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train experts of any network on samples, in `folder`, and return the summary.

    It leaves there `experts.safetensors`, which `experts.read` reads, and `summary.json`.

    Parameters
    ----------
    backbone : nn.Module
        A network in evaluation mode that reads clean samples: the teacher, and what the experts
        are made of. It is moved to the device and frozen.
    samples : Tensor
        uint8 pixels [N, C, H, W], which are read in [-1, 1], or floating samples [N, ...].
    schedule : Schedule
        The denoiser's, whose noise the experts learn to read.
    settings : Settings
        The budget, for all experts together, and the like; `clip` is 0.
    folder : str or Path
        Where the run is kept.
    task : Task
        What the network's output means. By default it is logits [B, K].
    labels : tree of Tensor, optional
        Train on these by the task's `log_prob`. Without them nothing but the network teaches.
    experts : Experts or int
        The untrained set, or how many low-rank updates to make: see `updates`.
    name, digest : str
        What the file of experts says of the network that they belong to: its name, and what its
        weights are known by.
    facts : mapping
        Further entries of the summary, which come first.
    shared_time, augment
        See `NoisyLoss`.
    **options
        `sequential`, `device`, `resume`, `fresh`, `on_start` and `on_log` of `fit_experts`.

    Raises
    ------
    TrainingError
        As `fit_experts` does, and if the task cannot read what the network returns.
    """
    refuse_torchrun()  # before every process asks the teacher
    folder = Path(folder)
    if isinstance(experts, int):  # on the CPU, so that one seed makes the same on any device
        experts = updates(backbone, "any", Intervals(schedule.T, experts), seed=settings.seed)
    _require_apart(experts, settings)
    backbone = backbone.to(torch.device(options.get("device", "cpu")))
    habits = {"shared_time": shared_time, "augment": augment}
    with hold(folder):
        if not options.get("resume"):
            make_room(folder, options.get("fresh", False))
        if options.get("fresh"):
            (folder / TEACHER).unlink(missing_ok=True)
        if labels is None:
            targets = cached_outputs(lambda: backbone, samples, folder, name, digest)
            if isinstance(task, Classification):
                _require_logits(targets)
            if augment is not None:  # a copy: training puts the experts' own backbone in train mode
                habits["teacher"] = copy.deepcopy(backbone).eval().requires_grad_(False)
            loss = Transfer(schedule, experts.intervals, task, **habits)
        else:
            targets, loss = labels, Supervised(schedule, experts.intervals, task, **habits)
        trained, figures = fit_experts(experts, loss, samples, targets, settings, folder, **options)
        file, size = folder / EXPERTS, sum(parameter.numel() for parameter in backbone.parameters())
        files.save(trained, file, name, digest, dtype=torch.float16)
        summary = {
            **facts,
            "trunk": name,
            "trunk_sha256": digest,
            "trunk_parameters": size,
            "share_of_trunk": round(figures["parameters"] / size, 4),
            **figures,
            "file": file.name,
            "sha256": weights.sha256(file),
        }
        write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def _require_logits(outputs: Any) -> None:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        shape = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TrainingError(
            f"the network returns {shape}, and classification reads logits [N, K]: give the task "
            f"that says what the output means"
        )


def _require_apart(experts: Experts, settings: Settings) -> None:
    if settings.clip and len(experts) > 1:
        raise TrainingError(
            f"clip = {settings.clip} bounds the norm of all experts' gradients together, so that "
            f"one expert's would change another's: use clip=0"
        )


def fit_experts(
    experts: Experts,
    loss: NoisyLoss,
    samples: Tensor,
    targets: Any,
    settings: Settings,
    folder: str | Path,
    *,
    sequential: bool = False,
    device: torch.device | str = "cpu",
    resume: bool = False,
    fresh: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: OnLog = lambda row: None,
) -> tuple[Experts, dict[str, Any]]:
    """Train a set of experts, and return the averaged ones and the run's figures.

    All experts are trained in one pass, each from where it stands and with optimiser state of its
    own.

    Parameters
    ----------
    experts : Experts
        The untrained set, of the loss's intervals.
    loss : NoisyLoss
        `Transfer` or `Supervised`.
    samples : Tensor
        uint8 pixels [N, C, H, W] or floating samples [N, ...].
    targets : tree of Tensor
        The teacher's outputs or the labels [N, ...], as the loss reads them.
    settings : Settings
        The budget is for all experts together; `clip` is 0, unless there is one expert.
    folder : str or Path
        Where the run is kept.
    sequential : bool
        Train as PPAP's released code does: one expert after another, each with its share of the
        budget, and each from the weights and the optimiser state of the one before. Each has a
        folder of its own then, there are no snapshots, and `experts` itself becomes the averages.
    device, resume, fresh, on_start, on_log
        As for `training.fit.fit`.

    Returns
    -------
    (Experts, dict)
        The averages, in evaluation mode and frozen; and what a summary says of the run, among it
        `images_per_expert`, as expected of uniform timesteps.

    Raises
    ------
    TrainingError
        If the loss has other intervals, `clip` would tie the experts to each other, the loss
        diverges, or the folder holds another run.
    """
    if loss.intervals != experts.intervals:
        raise TrainingError(
            f"the loss is for {loss.intervals}, the experts are for {experts.intervals}"
        )
    _require_apart(experts, settings)
    about = _about(experts)
    if sequential:  # each starts from the one before: with more of a budget all would be others
        about["budget"] = f"{settings.steps} steps, {settings.minutes} minutes"
    folder, title = Path(folder), "1 model" if len(experts) == 1 else f"{len(experts)} experts"

    def run(
        loss: NoisyLoss, settings: Settings, folder: Path, on_log: OnLog, optimizer: Any = None
    ) -> tuple[Experts, dict[str, Any], dict[str, Any]]:
        trainer = Trainer(experts, loss, samples, targets, settings, folder, device, about=about)
        if optimizer is not None:
            trainer.optimizer.load_state_dict(optimizer)
        averaged, figures = complete(trainer, title, resume, fresh, on_start, on_log)
        return averaged, figures, trainer.optimizer.state_dict()

    try:
        if sequential:
            return _one_after_another(experts, loss, settings, folder, run, on_log)
        averaged, figures, _ = run(loss, settings, folder, on_log)
        return averaged, {**figures, "images_per_expert": _shares(loss, figures["images_seen"])}
    finally:
        experts.eval()  # the backbone is the caller's


def snapshots(experts: Experts, folder: str | Path) -> Iterator[tuple[int, Experts]]:
    """Yield (images seen, experts as they then were), in order, of the run in `folder`.

    `experts` is a set of the run's architecture and stays as it is; each snapshot is loaded into
    one copy of it, over the one before. A run that kept none yields nothing.
    """
    then = copy.deepcopy(experts).eval().requires_grad_(False)
    for images, path in checkpoints.snapshots(Path(folder)):
        weights.load(then, weights.read(path), str(path))
        yield images, then


def _about(experts: Experts) -> dict[str, str]:
    """What is trained, and what it starts from: a checkpoint's tensors do not tell."""
    bank = experts.bank
    if isinstance(bank, LoraBank):
        config, backbone = bank[0].config, bank.backbone
        trained = f"updates of rank {config.rank} and scale {config.scale:g}"
    else:
        trained, backbone = "whole networks", bank[0]
    return {
        "trained": trained,
        "trunk": f"crc32 {crc32(*backbone.state_dict().values()):08x}",
    }


def _shares(loss: NoisyLoss, images: int) -> list[int]:
    """How many of the images each expert sees, in expectation: timesteps are uniform."""
    return [round(images * len(interval) / loss.intervals.T) for interval in loss.intervals]


def _one_after_another(
    experts: Experts,
    loss: NoisyLoss,
    settings: Settings,
    folder: Path,
    run: Callable,
    on_log: OnLog,
) -> tuple[Experts, dict[str, Any]]:
    """`fit_experts`'s sequential training; `run` trains what has gradients."""
    count, bank = len(experts), experts.bank
    steps = settings.steps
    if steps is not None and steps < count:
        raise TrainingError(f"{steps} steps are none for some of {count} experts: give each one")
    shares = [
        replace(
            settings,
            steps=steps and steps // count + (k < steps % count),
            minutes=settings.minutes and settings.minutes / count,
            snapshots=(),
        )
        for k in range(count)
    ]
    stages: list[dict[str, Any]] = []
    optimizer = None
    for k in range(count):
        if k:
            bank[k].load_state_dict(bank[k - 1].state_dict())
        for j, member in enumerate(bank):
            member.requires_grad_(j == k)
        averaged, figures, optimizer = run(
            replace(loss, only=k),
            shares[k],
            folder / f"expert-{k + 1}",
            _behind(stages, on_log),
            optimizer,
        )
        experts.load_state_dict(averaged.state_dict())
        stages.append(figures)
    total = {key: _sum(stages, key) for key in _TOTALS}
    return experts.requires_grad_(False), {
        **stages[-1],
        **total,
        "objective": repr(loss),
        "settings": asdict(settings),
        "final_loss": _mean(stages, "final_loss"),
        "images_per_second": round(total["images_seen"] / max(total["seconds"], 1e-9), 2),
        "images_per_expert": [stage["images_seen"] for stage in stages],
    }


_TOTALS = ("parameters", "steps", "images_seen", "seconds", "cpu_seconds")


def _sum(stages: list[dict[str, Any]], key: str) -> Any:
    return sum(stage[key] for stage in stages)


def _mean(stages: list[dict[str, Any]], key: str) -> float | None:
    """The mean, or None where a stage does not know its own."""
    values = [stage[key] for stage in stages]
    return None if None in values else sum(values) / len(values)


def _behind(stages: list[dict[str, Any]], on_log: OnLog) -> OnLog:
    """`on_log`, told of rows as if the finished stages were part of the same run."""
    before = {
        "step": _sum(stages, "steps"),
        "images": _sum(stages, "images_seen"),
        "seconds": _sum(stages, "seconds"),
    }
    return lambda row: on_log({**row, **{key: row[key] + more for key, more in before.items()}})
