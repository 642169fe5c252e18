"""Trainings of experts: cost, size, how well noisy images are read, and worth as guides.

`ppap distill` leaves a folder. The study `distillation` files it, with the reading of every
snapshot, so that quality can be seen against the images a method was trained on. The study
`ablation` guides the tier's denoiser on the guidance study's seeds by what was trained, whether it
ships or not: so the number of experts, their rank, the labels, the images and all else that a
training can vary are compared by what they are for.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ppap_book.errors import StudyError
from ppap_book.measures import protocol
from ppap_book.measures.features import ExtractorName
from ppap_book.measures.noisy_accuracy import accuracy_by_t
from ppap_book.statistics.comparisons import Pooled, pool
from ppap_book.studies import guidance, methods
from ppap_book.study import Labelled, Study, training_provenance
from ppap_lib import experts, zoo
from ppap_lib.distill import snapshots
from ppap_lib.errors import InputError
from ppap_lib.guidance import at_xt
from ppap_lib.guidance.tasks import Classification
from ppap_lib.parameters import Parameters, param
from ppap_lib.training import fit
from ppap_lib.zoo import datasets, tiers

TIMES = tuple(range(0, 1000, 100))
HELD_OUT = 500
"""Test images on which snapshots are read, at most."""

SAMPLER = "ddim25"
"""By which experts guide in the study `ablation`."""


@dataclass(frozen=True)
class Distillation(Parameters):
    """A training: its kind, its guide, what was varied, and the `sha256` of its result.

    `place` is where the result lies: the folder of the finished training, or a name in the zoo.
    """

    tier: str
    guide: str
    kind: Literal["transfer", "supervised"]
    experts: int = param(low=1)
    rank: int | None = None
    temperature: float | None = None
    released: tuple[str, ...] = ()
    augment: bool = False
    source: str = ""
    images_seen: int = param(0, low=0)
    sha256: str = ""
    place: str = param("", recorded=False)

    def recorded(self) -> dict[str, Any]:
        """Name the augmentation only where there is one: the first rows knew of none."""
        params = super().recorded()
        return params if self.augment else {k: v for k, v in params.items() if k != "augment"}


def varied(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row holds of `ExpertTraining.recorded`, or of a summary, which says as much."""
    names = ("tier", "guide", "kind", "experts", "rank", "temperature")
    habits = [name for name, on in recorded["released"].items() if on]
    varied = {name: recorded[name] for name in names}
    return varied | {"released": habits, "augment": recorded.get("augment", False)}


def finished(folder: Path) -> tuple[Distillation, experts.Experts, dict[str, Any]]:
    """Return a finished run in `folder`: its parameters, its experts, and its summary.

    Raises `TrainingError` if there is none, and `WeightsError` if the file of experts is not the
    one that the summary is about, or if they were made for another backbone than the zoo's.
    """
    summary = fit.finished(folder, "distill")
    result = {name: summary[name] for name in ("source", "images_seen", "sha256")}
    run = Distillation(**varied(summary), **result, place=str(folder))
    file = folder / summary["file"]
    backbone = zoo.expert_backbone(file, summary["trunk"])
    return run, experts.read(file, backbone, summary["sha256"]), summary


def of_the_zoo(name: str) -> tuple[Distillation, experts.Experts]:
    """Return the training that made the zoo's set `name`, as the ledger has it, and the set.

    Raises `InputError` if there is no such set, or no row of its training.
    """
    trained, digest = zoo.load(name), zoo.card(name).sha256
    for row in DISTILLATION.rows():
        if row["params"]["sha256"] == digest:
            return Distillation.of(row["params"] | {"place": name}), trained
    raise InputError(
        f"the ledger has no training of {name} with sha256 {digest}: file the folder it was "
        f"trained in by python -m ppap_book run distillation"
    )


def distillations(folder: Path) -> list[Distillation]:
    """Return the one training that finished in a folder.

    Parameters
    ----------
    folder : Path
        The folder of the finished training.
    """
    return [finished(folder)[0]]


def measure_distillation(
    params: Distillation, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return the training's cost and size, and the reading of its result and of its snapshots."""
    folder = Path(params.place)
    _, trained, summary = finished(folder)
    trained = trained.to(device)
    results: dict[str, Any] = {
        key: summary[key]
        for key in ("parameters", "share_of_trunk", "trunk_parameters", "images_per_second")
    }
    results["memory_bytes"] = held(trained)
    results["training_seconds"] = summary["seconds"]
    results |= training_provenance(summary)
    if drawn := summary.get("generated"):
        results["generated"] = drawn
    results["readings"] = readings(trained, params.tier, device)
    results["course"] = [
        {"images": seen, "readings": readings(then, params.tier, device)}
        for seen, then in snapshots(trained, folder)
    ]
    return results


def readings(
    model: experts.Experts, tier_name: str, device: torch.device | str = "cpu"
) -> list[dict[str, float]]:
    """Return how the experts read the test images at `TIMES`, as dicts of `Reading`."""
    test = datasets.test_images(tier_name).evenly(HELD_OUT).to(device)
    schedule = tiers.tier(tier_name).schedule()
    by_t = accuracy_by_t(model, test.images(), test.labels, schedule, TIMES)
    return [asdict(reading) for reading in by_t]


def held(module: nn.Module) -> int:
    """Return the bytes of all parameters and buffers of a set of experts, its backbone's too."""
    tensors = {t.data_ptr(): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


DISTILLATION = Study(
    "distillation",
    "What did a training of experts cost, and how well do they read noisy images?",
    Distillation,
    distillations,
    measure_distillation,
)


@dataclass(frozen=True)
class Ablation(Labelled, Distillation):
    """A training whose experts guide, and the images that they guide: by `SAMPLER`."""

    scale: float = param(guidance.PUBLISHED_SCALE, low=0.0)
    n: int = param(100, low=2)
    first_seed: int = param(0, low=0)
    extractor: ExtractorName = "lite2"

    def recorded(self) -> dict[str, Any]:
        """Name the sampler, its form of guidance, and the digests of the weights that ship now."""
        drawn_by = {"sampler": SAMPLER, "form": guidance.sampler(SAMPLER).form}
        return super().recorded() | drawn_by | methods.digests(self.tier, "denoiser", "judge")


def guided_by(
    training: Distillation,
    scales: tuple[float, ...] = (guidance.PUBLISHED_SCALE,),
    n: int = 100,
    blocks: int = 1,
) -> list[Ablation]:
    """Return the runs that guide by a finished training, block by block."""
    return [
        Ablation(**asdict(training), scale=scale, n=n, first_seed=block * n)
        for block in range(blocks)
        for scale in scales
    ]


def ablations(
    folder: Path | None = None,
    shipped: str | None = None,
    scales: tuple[float, ...] = (guidance.PUBLISHED_SCALE,),
    n: int = 100,
    blocks: int = 1,
) -> list[Ablation]:
    """Return the runs that guide by the training in a folder, or by that of a set that ships.

    Parameters
    ----------
    folder : Path
        The folder of the finished training.
    shipped : str
        The set's name in the zoo instead, such as fashion/ppap5-resnet18.
    scales : tuple[float, ...]
        The scales of guidance.
    n : int
        The number of images in a block of seeds.
    blocks : int
        The number of blocks of seeds.
    """
    if (folder is None) == (shipped is None):
        raise StudyError("say which experts guide: by --folder or by --shipped")
    training, *_ = finished(folder) if shipped is None else of_the_zoo(shipped)
    return guided_by(training, scales, n, blocks)


def measure_ablation(params: Ablation, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Draw and measure; return the row's results, with the guidance study's columns."""
    folder = Path(params.place)
    trained = finished(folder)[1] if folder.is_dir() else zoo.load(params.place)
    trained, form = trained.to(device), guidance.sampler(SAMPLER).form
    towards = partial(at_xt, trained, Classification())
    steering = methods.steered(towards, params.scale, form, params.tier, device)
    images = guidance.draw_steered(steering, params, SAMPLER)
    on_clean = trained.at(tiers.tier(params.tier).schedule().at(0))
    results: dict[str, Any] = guidance.judged_by(on_clean, params, images, device)
    return results | protocol.measured(images, params.tier, params.extractor, device)


def outcomes(
    guide_name: str, tier_name: str = "fashion", scale: float = guidance.PUBLISHED_SCALE
) -> list[Pooled]:
    """Return what the trainings of a guide's experts were worth at a scale, pooled over blocks.

    By the denoiser and the judge that ship now.
    """
    setting = {"guide": guide_name, "tier": tier_name, "scale": scale}
    current = methods.current()
    return pool(ABLATION.rows(), lambda p: setting.items() <= p.items() and current(p))


ABLATION = Study(
    "ablation",
    "What is a training of experts worth when they guide?",
    Ablation,
    ablations,
    measure_ablation,
)
