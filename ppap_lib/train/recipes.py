"""Whole trainings by tier and network: what the command line and the notebooks both call."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib import atomic, ledger, weights
from ppap_lib.tiers import Tier
from ppap_lib.train import speed
from ppap_lib.train.loop import Trainer
from ppap_lib.train.objectives import ClassifierLoss, DenoiserLoss, Objective
from ppap_lib.train.settings import NETWORKS, OBJECTIVES, Settings, TrainingError

WEIGHTS, SUMMARY = "ema.safetensors", "summary.json"


def build(tier: Tier, what: str, seed: int) -> nn.Module:
    """The tier's untrained network, initialised by `seed` alone."""
    _known(what)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return tier.denoiser() if what == "denoiser" else tier.classifier(what)


def objective(tier: Tier, what: str, **overrides) -> Objective:
    """What the tier's network is trained by: the preset, with `overrides`."""
    _known(what)
    arguments = {**OBJECTIVES.get((tier.name, what), {}), **overrides}
    if what == "denoiser":
        return DenoiserLoss(tier.schedule(), **arguments)
    return ClassifierLoss(**arguments)


def fit(
    tier: Tier,
    what: str,
    data: Tensor,
    labels: Tensor,
    settings: Settings,
    folder: str | Path,
    *,
    loss: Objective | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    init: str | Path | None = None,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train the tier's `what` on uint8 `data` [N, C, H, W] in `folder`; returns the summary.

    Leaves `ema.safetensors` (float16) and `summary.json` beside checkpoint and log. `init`
    warm-starts from a weight file; a checkpoint of a run that started from another is not
    resumed. `on_start` is told the cost and the device's speed in one line, `on_log` each logged
    row with the `share_of_peak` added.
    """
    if tuple(data.shape[1:]) != tier.shape:
        raise TrainingError(
            f"tier {tier.name} trains on images {list(tier.shape)}, not {list(data.shape[1:])}"
        )
    device = torch.device(device)
    network = build(tier, what, settings.seed)
    if init is not None:
        weights.load(network, weights.read(init), str(init))
    started_from = None if init is None else weights.sha256(init)
    loss = loss or objective(tier, what)
    trainer = Trainer(
        network,
        loss,
        data,
        labels,
        settings,
        folder,
        device,
        about={"init": started_from or "none"},
    )
    ema, figures = complete(trainer, f"{tier.name}/{what}", resume, on_start, on_log)
    file = trainer.folder / WEIGHTS
    weights.save(ema.state_dict(), file, torch.float16)
    summary = {
        "tier": tier.name,
        "network": what,
        "class": type(network).__name__,
        "prediction": loss.prediction if isinstance(loss, DenoiserLoss) else None,
        "init": started_from,
        **figures,
        "file": file.name,
        "sha256": weights.sha256(file),
    }
    atomic.write(trainer.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def complete(
    trainer: Trainer,
    title: str,
    resume: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train to the end of the budget: the averaged network, and what a summary says of the run.

    `resume`, `on_start` and `on_log` are those of `fit`; `parameters` counts what is trained.
    """
    commit = ledger.commit()  # of the code that trains, not of what is committed meanwhile
    if resume:
        trainer.resume()
    network, settings = trainer.network, trainer.settings
    cost = speed.measured(
        network, trainer.objective, trainer.data, trainer.labels, settings.batch, settings.bf16
    )
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    on_start(f"{title}: {parameters:,} parameters, {cost}")

    def log(row: dict[str, Any]) -> None:
        on_log({**row, "share_of_peak": cost.share(row["images_per_second"])})

    ema = trainer.run(log)
    rate = trainer.images_seen / max(trainer.progress.seconds, 1e-9)
    rows = trainer.log.rows()
    return ema, {
        "parameters": parameters,
        "objective": trainer.identity["objective"],
        "settings": asdict(settings),
        "data": trainer.identity["data"],
        "steps": trainer.progress.step,
        "images_seen": trainer.images_seen,
        "seconds": round(trainer.progress.seconds, 1),
        "final_loss": rows[-1]["loss"] if rows else None,
        "images_per_second": round(rate, 2),
        "share_of_peak": round(cost.share(rate), 4),
        "speed": asdict(cost),
        "commit": commit,
        "versions": ledger.versions(),
    }


def finished(folder: Path, command: str) -> dict[str, Any]:
    """The summary that a training by `python -m ppap_lib.{command}` left in `folder`."""
    if not (path := folder / SUMMARY).is_file():
        raise TrainingError(
            f"no finished training in {folder}: run python -m ppap_lib.{command} first"
        )
    return json.loads(path.read_text("utf8"))


def provenance(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger row says of the training itself: how, on what, by which code.

    A row's own commit and versions are those of its filing, which may be weeks later. Summaries
    of old trainings lack some of it.
    """
    settings = {key: value for key, value in summary["settings"].items() if key != "snapshots"}
    found = {
        "trained_on": summary["speed"]["device"],
        "trained_by": summary.get("commit"),
        "trained_with": summary.get("versions"),
        "data": summary.get("data"),
    }
    return {"settings": settings} | {key: value for key, value in found.items() if value}


def in_words(summary: dict[str, Any]) -> str:
    """A summary in one line."""
    return (
        f"{summary['images_seen']:,} images in {summary['seconds'] / 60:.1f} minutes, "
        f"{summary['images_per_second']:.1f} images/s, {summary['share_of_peak']:.1%} of peak, "
        f"final loss {summary['final_loss']:.4f}"
    )


def _known(what: str) -> None:
    if what not in NETWORKS:
        raise TrainingError(f"no network {what!r}: there are {', '.join(NETWORKS)}")
