"""Whole trainings: a network, its data and a folder in, averaged weights and a summary out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.device import device_title
from ppap_lib.errors import TrainingError
from ppap_lib.files import provenance, weights
from ppap_lib.files.atomic import write_text
from ppap_lib.files.locks import hold
from ppap_lib.files.records import read_record
from ppap_lib.training.checkpoints import SUMMARY
from ppap_lib.training.objectives import Objective
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer

WEIGHTS = "ema.safetensors"
OnLog = Callable[[dict[str, Any]], None]


def fit(
    network: nn.Module,
    objective: Objective,
    data: Tensor,
    labels: Any,
    settings: Settings,
    folder: str | Path,
    *,
    title: str = "network",
    facts: Mapping[str, Any] = MappingProxyType({}),
    init: str | Path | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    fresh: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: OnLog = lambda row: None,
) -> dict[str, Any]:
    """Train `network` in `folder`, and return the summary.

    It leaves there the averaged weights, `ema.safetensors` (float16), and `summary.json`.

    Parameters
    ----------
    network : nn.Module
        The untrained network; it is trained in place.
    objective : Objective
        `(network, samples [B, ...], labels, generator) -> loss []`.
    data : Tensor
        Samples [N, ...]: uint8 pixels [N, C, H, W], which are read in [-1, 1], or floating numbers
        of any shape, which are read as they are.
    labels : tree of Tensor
        What the objective is told of each sample, [N, ...].
    settings : Settings
        Budget, batch size, learning rate and the like.
    folder : str or Path
        Where the run is kept: checkpoint, log, snapshots, weights, summary.
    title : str
        The name of the run in its first line.
    facts : mapping
        Further entries of the summary, which come first.
    init : str or Path, optional
        A weight file to start from. A checkpoint of a run that started from another is refused.
    device : torch.device or str
        Where to train.
    resume : bool
        Whether to continue from the folder's checkpoint, if there is one.
    fresh : bool
        Whether to start afresh in a folder that holds an earlier run, which is removed.
    on_start, on_log : callable
        Are told one line at the start, and each logged row.

    Returns
    -------
    dict
        What `summary.json` says: the objective, the settings, images seen, time, the loss, the
        device, the code's commit and versions, and the sha256 of the weights.

    Raises
    ------
    TrainingError
        If the loss diverges, or the folder holds another run.
    WeightsError
        If `init` does not fit the network.
    """
    started_from = None
    if init is not None:
        weights.load(network, weights.read(init), str(init))
        started_from = weights.sha256(init)
    about = {"init": started_from or "none"}
    trainer = Trainer(network, objective, data, labels, settings, folder, device, about=about)
    with hold(trainer.folder):
        ema, figures = complete(trainer, title, resume, fresh, on_start, on_log)
        file = trainer.folder / WEIGHTS
        weights.save(ema.state_dict(), file, torch.float16)
        summary = {
            **facts,
            "class": type(network).__name__,
            "prediction": getattr(objective, "prediction", None),
            "init": started_from,
            **figures,
            "file": file.name,
            "sha256": weights.sha256(file),
        }
        write_text(trainer.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def complete(
    trainer: Trainer,
    title: str,
    resume: bool = False,
    fresh: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: OnLog = lambda row: None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train to the end of the budget, and return the averaged network and the run's figures.

    Parameters
    ----------
    trainer : Trainer
        What is trained, and where.
    title, resume, fresh, on_start, on_log
        As for `fit`.

    Returns
    -------
    (nn.Module, dict)
        The average, and what a summary says of any run; `parameters` counts what is trained.
    """
    commit = provenance.commit()  # of the code that trains, not of what is committed meanwhile
    if resume and fresh:
        raise TrainingError("a run is resumed or starts afresh: give one of the two")
    if resume and not trainer.resume():
        on_start(f"no checkpoint in {trainer.folder} to resume: it starts anew")
    parameters = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
    on_start(f"{title}: {parameters:,} parameters are trained on {device_title(trainer.device)}")
    ema = trainer.run(on_log, fresh)
    rate = trainer.images_seen / max(trainer.progress.seconds, 1e-9)
    rows = trainer.log.rows()
    return ema, {
        "parameters": parameters,
        "objective": trainer.identity["objective"],
        "settings": asdict(trainer.settings),
        "data": trainer.identity["data"],
        "steps": trainer.progress.step,
        "images_seen": trainer.images_seen,
        "seconds": round(trainer.progress.seconds, 1),
        "cpu_seconds": round(trainer.progress.cpu_seconds, 1),
        "final_loss": rows[-1].get("loss") if rows else None,
        "images_per_second": round(rate, 2),
        "device": device_title(trainer.device),
        "commit": commit,
        "versions": provenance.versions(),
    }


def finished(folder: Path, command: str) -> dict[str, Any]:
    """Return the summary that a training by ppap's `command` left in `folder`.

    Raises `TrainingError` if there is none, or what is there is damaged.
    """
    if not (path := folder / SUMMARY).is_file():
        raise TrainingError(f"no finished training in {folder}: run ppap {command} first")
    summary = read_record(path, "the summary of a training", TrainingError)
    if not isinstance(summary.get("images_seen"), int):
        raise TrainingError(
            f"{path} is not the summary of a training: images_seen is "
            f"{summary.get('images_seen')!r}; train again (--fresh)"
        )
    return summary


def in_words(summary: Mapping[str, Any]) -> str:
    """Return a summary in one line of words."""
    loss = summary["final_loss"]  # None where the log of a finished run was removed
    return (
        f"{summary['images_seen']:,} images in {summary['seconds'] / 60:.1f} minutes, "
        f"{summary['images_per_second']:.1f} images/s, final loss "
        f"{'unknown' if loss is None else f'{loss:.4f}'}"
    )
