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
from ppap_lib.training.objectives import Objective
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer

WEIGHTS, SUMMARY = "ema.safetensors", "summary.json"
OnLog = Callable[[dict[str, Any]], None]


def fit(
    network: nn.Module,
    objective: Objective,
    data: Tensor,
    labels: Tensor,
    settings: Settings,
    folder: str | Path,
    *,
    title: str = "network",
    facts: Mapping[str, Any] = MappingProxyType({}),
    init: str | Path | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: OnLog = lambda row: None,
) -> dict[str, Any]:
    """Train `network` in `folder`, and leave `ema.safetensors` (float16) and `summary.json` there.

    Parameters
    ----------
    network
        The untrained network; it is trained in place.
    objective
        `(network, samples [B, ...], labels [B, ...], generator) -> loss []`.
    data
        Samples [N, ...]: uint8 pixels, which are read in [-1, 1], or floating numbers as they are.
    labels
        What the objective is told of each sample, [N, ...].
    settings
        Budget, batch size, learning rate and the like.
    folder
        Where the run is kept: checkpoint, log, snapshots, weights, summary.
    title
        The name of the run in its first line.
    facts
        Further entries of the summary, which come first.
    init
        A weight file to start from. A checkpoint of a run that started from another is refused.
    device
        Where to train.
    resume
        Whether to continue from the folder's checkpoint, if there is one.
    on_start, on_log
        Are told one line at the start, and each logged row.

    Returns
    -------
    dict
        The summary.

    Raises
    ------
    TrainingError
        If the loss diverges, or the folder holds another run.
    WeightsError
        If `init` does not fit the network.
    """
    started_from = None
    if init is not None:
        started_from = weights.sha256(init)
        weights.load(network, weights.read(init), str(init))
    about = {"init": started_from or "none"}
    trainer = Trainer(network, objective, data, labels, settings, folder, device, about=about)
    ema, figures = complete(trainer, title, resume, on_start, on_log)
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
    on_start: Callable[[str], None] = lambda line: None,
    on_log: OnLog = lambda row: None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train to the end of the budget, and return the averaged network and the run's figures.

    `resume`, `on_start` and `on_log` are those of `fit`; `parameters` counts what is trained.
    """
    commit = provenance.commit()  # of the code that trains, not of what is committed meanwhile
    if resume:
        trainer.resume()
    parameters = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
    on_start(f"{title}: {parameters:,} parameters are trained on {device_title(trainer.device)}")
    ema = trainer.run(on_log)
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
        "final_loss": rows[-1]["loss"] if rows else None,
        "images_per_second": round(rate, 2),
        "device": device_title(trainer.device),
        "commit": commit,
        "versions": provenance.versions(),
    }


def finished(folder: Path, command: str) -> dict[str, Any]:
    """The summary that a training by `ppap COMMAND` left in `folder`.

    Raises `TrainingError` if there is none.
    """
    if not (path := folder / SUMMARY).is_file():
        raise TrainingError(f"no finished training in {folder}: run ppap {command} first")
    return json.loads(path.read_text("utf8"))


def in_words(summary: Mapping[str, Any]) -> str:
    """A summary in one line."""
    return (
        f"{summary['images_seen']:,} images in {summary['seconds'] / 60:.1f} minutes, "
        f"{summary['images_per_second']:.1f} images/s, final loss {summary['final_loss']:.4f}"
    )
