"""Trainings of experts as ledger rows: cost, size, and how well noisy images are read.

A run of `python -m ppap_lib distill` leaves a folder; `run` files it, with the reading of every
snapshot, so that quality can be seen against the images a method was trained on.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ppap_book import ledger
from ppap_book.measures.noisy_accuracy import accuracy_by_t
from ppap_book.study import training_provenance
from ppap_lib import experts, zoo
from ppap_lib.distill import snapshots
from ppap_lib.errors import InputError
from ppap_lib.files import provenance
from ppap_lib.parameters import Parameters, param
from ppap_lib.training import fit
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier as preset

STUDY = "distillation"
TIMES = tuple(range(0, 1000, 100))
HELD_OUT = 500
"""Test images on which snapshots are read, at most."""


@dataclass(frozen=True)
class Distillation(Parameters):
    """Which training: its kind, its guide, and what was varied. `sha256` is the result's."""

    tier: str
    guide: str
    kind: Literal["transfer", "supervised"]
    experts: int = param(low=1)
    rank: int | None = None
    temperature: float | None = None
    released: tuple[str, ...] = ()
    source: str = ""
    images_seen: int = param(0, low=0)
    sha256: str = ""


def varied(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What a row holds of `ExpertTraining.recorded`, or of a summary, which says the same."""
    names = ("tier", "guide", "kind", "experts", "rank", "temperature")
    habits = [name for name, on in recorded["released"].items() if on]
    return {name: recorded[name] for name in names} | {"released": habits}


def finished(folder: Path) -> tuple[Distillation, experts.Experts, dict[str, Any]]:
    """A finished run in `folder`: its parameters, its experts, and all that its summary says.

    Raises `TrainingError` if there is none, `WeightsError` if the file of experts is not the one
    that the summary is about, or was made for another backbone than the zoo's.
    """
    summary = fit.finished(folder, "distill")
    result = {name: summary[name] for name in ("source", "images_seen", "sha256")}
    params = Distillation(**varied(summary), **result)
    file = folder / summary["file"]
    backbone = zoo.expert_backbone(file, summary["trunk"])
    return params, experts.read(file, backbone, summary["sha256"]), summary


def shipped(name: str) -> tuple[Distillation, experts.Experts]:
    """The set of experts `name` of the zoo, and the training that made it, as the ledger has it.

    Raises `InputError` if there is no such set, or no row of its training.
    """
    trained, digest = zoo.load(name), zoo.card(name).sha256
    for row in ledger.rows(STUDY):
        if row["params"]["sha256"] == digest:
            return Distillation.of(row["params"]), trained
    raise InputError(
        f"the ledger has no training of {name} with sha256 {digest}: file the folder it was "
        f"trained in by python -m ppap_book run distillation"
    )


def run(folder: Path, device: torch.device | str = "cpu") -> Path:
    """File the finished run in `folder`; returns the row's path."""
    provenance.commit()  # of the code that reads, not of what is committed meanwhile
    began = time.monotonic()
    params, trained, summary = finished(folder)
    trained = trained.to(device)
    results: dict[str, Any] = {
        key: summary[key]
        for key in ("parameters", "share_of_trunk", "trunk_parameters", "images_per_second")
    }
    results["memory_bytes"] = held(trained)
    results["training_seconds"] = summary["seconds"]
    results |= training_provenance(summary)
    results["readings"] = readings(trained, params.tier, device)
    results["course"] = [
        {"images": seen, "readings": readings(then, params.tier, device)}
        for seen, then in snapshots(trained, folder)
    ]
    seconds = time.monotonic() - began
    return ledger.record(STUDY, params.recorded(), results, seconds=seconds, device=device)


def readings(
    model: experts.Experts, tier: str, device: torch.device | str = "cpu"
) -> list[dict[str, float]]:
    """How the experts read the test images at `TIMES`, as dicts of `Reading`."""
    chosen = preset(tier)
    test = datasets.test_images(tier).evenly(HELD_OUT).to(device)
    found = accuracy_by_t(model, test.images(), test.labels, chosen.schedule(), TIMES)
    return [asdict(reading) for reading in found]


def held(module: nn.Module) -> int:
    """Bytes of all parameters and buffers that a set of experts keeps, its backbone's included."""
    tensors = {t.data_ptr(): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
