"""Trainings of denoisers: their course, and the quality of their images against images seen.

`ppap train` leaves a folder. The study `training` files what it knows of a network's training, the
study `curve` scores the EMA snapshots of a denoiser's, and what it ended with, alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ppap_book.measures import distances, protocol
from ppap_book.measures.features import ExtractorName
from ppap_book.study import Seeded, Study, training_provenance
from ppap_lib import zoo
from ppap_lib.diffusion.denoisers import ADAPTERS, Denoise
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.schedules import respace
from ppap_lib.errors import TrainingError
from ppap_lib.files import weights
from ppap_lib.parameters import Parameters, param
from ppap_lib.samplers.draw import draw
from ppap_lib.training import fit
from ppap_lib.training.checkpoints import Log, run_of, snapshots
from ppap_lib.zoo import tiers

Tier = Literal["fashion", "tin10"]

POINTS = 120  # of a training's course: enough for a curve; a log line every few seconds is not


@dataclass(frozen=True)
class Quality(Seeded, Parameters):
    """Images of a denoiser to be scored: their number, seeds, noise levels and extractor."""

    tier: Tier = "fashion"
    n: int = param(200, low=66)
    first_seed: int = param(0, low=0)
    spacing: str = "ddim25"
    extractor: ExtractorName = "lite2"

    def __post_init__(self) -> None:
        super().__post_init__()
        respace(tiers.tier(self.tier).schedule().T, self.spacing)


def score(
    params: Quality, denoise: Denoise, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return the columns of the protocol for DDIM's unguided images by a denoiser of the tier."""
    # Before anything is drawn: there may be no real images here.
    real = protocol.reference(params.n, params.tier, params.extractor, device)
    tier, pixels = tiers.tier(params.tier), (-1.0, 1.0)
    model = Diffusion(denoise, tier.schedule(), tier.shape, pixels, device=device).clipped()
    images = draw(model, params.seeds, grid=model.grid(params.spacing))
    return protocol.columns(distances.extract(images, params.extractor, device=device), real)


@dataclass(frozen=True)
class Curve(Quality):
    """One point of the curve: which weights, in which `file`, after how many images.

    Without a `file` they are those that ship.
    """

    images_seen: int = param(0, low=0)
    sha256: str = ""
    file: str = param("", recorded=False)


def points(
    folder: Path | None = None,
    tier: Tier = "fashion",
    n: int = 200,
    spacing: str = "ddim25",
    blocks: int = 1,
    since: int = 0,
) -> list[Curve]:
    """Return the snapshots of a finished training and what it ended with, or the weights that ship.

    Raises `TrainingError` if there is no such training, or if it does not say what its network
    predicts.

    Parameters
    ----------
    folder : Path
        The folder of the finished training (the weights that ship, if not given).
    tier : Tier
        The tier whose denoiser was trained.
    n : int
        The number of images that are drawn of each snapshot, in a block of seeds.
    spacing : str
        The respacing by which DDIM draws.
    blocks : int
        The number of blocks of seeds.
    since : int
        Snapshots after fewer images seen are left out.
    """
    if folder is None:
        card = zoo.card(tiers.tier(tier).named("denoiser"))
        course = [(card.images_seen or 0, card.sha256 or "", "")]
    else:
        summary = fit.finished(folder, "train denoiser")
        _adapter(summary, folder)
        files = [*snapshots(folder), (summary["images_seen"], folder / summary["file"])]
        course = [(seen, weights.sha256(path), str(path)) for seen, path in files if seen >= since]
    return [
        Curve(
            tier=tier,
            n=n,
            first_seed=block * n,
            spacing=spacing,
            images_seen=seen,
            sha256=digest,
            file=file,
        )
        for block in range(blocks)
        for seen, digest, file in course
    ]


def measure_point(params: Curve, device: torch.device | str = "cpu") -> dict[str, float]:
    """Return the `score` of the run's weights."""
    if not params.file:
        shipped = zoo.load(tiers.tier(params.tier).named("denoiser"), device)
        return score(params, shipped.denoise, device)
    path = Path(params.file)
    folder = run_of(path)
    adapter = _adapter(fit.finished(folder, "train denoiser"), folder)
    network = tiers.tier(params.tier).denoiser()
    network = weights.load(network, weights.read(path), path.name).to(device).eval()
    return score(params, adapter(network, learned_variance=True), device)


def point_in_words(params: Curve, results: Mapping[str, float]) -> str:
    """Return a point in one line."""
    return (
        f"{params.images_seen} images: KID-lite2 {results['kid']:.4f}, FD64 {results['fd64']:.2f}"
    )


def _adapter(summary: Mapping[str, Any], folder: Path) -> Callable[..., Denoise]:
    """The denoiser of a network that predicts what the summary says."""
    if (adapter := ADAPTERS.get(summary.get("prediction"))) is None:
        raise TrainingError(
            f"the summary in {folder} does not say what its network predicts: 'prediction' must "
            f"be one of {', '.join(ADAPTERS)}"
        )
    return adapter


CURVE = Study(
    "curve",
    "How good are a denoiser's images after so many images seen?",
    Curve,
    points,
    measure_point,
    point_in_words,
)


@dataclass(frozen=True)
class NetworkTraining(Parameters):
    """One training: its tier, its network, the weights it ended with, and its `folder`."""

    tier: str = "fashion"
    network: str = "denoiser"
    sha256: str = ""
    folder: str = param("", recorded=False)


def trainings(folder: Path) -> list[NetworkTraining]:
    """Return the one training of a network that finished in a folder.

    Parameters
    ----------
    folder : Path
        The folder of the finished training.
    """
    summary = fit.finished(folder, "train")
    return [NetworkTraining(summary["tier"], summary["network"], summary["sha256"], str(folder))]


def course(params: NetworkTraining, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what the training's folder knows of it; its seconds are those of the training."""
    folder = Path(params.folder)
    summary = fit.finished(folder, "train")
    log = Log(folder / "log.jsonl").rows()
    logged = log[:: max(len(log) // POINTS, 1)]
    results = {
        key: summary[key]
        for key in ("parameters", "objective", "images_seen", "final_loss", "images_per_second")
    }
    results |= {name: [row[name] for row in logged] for name in ("images", "loss", "lr")}
    return results | training_provenance(summary) | {"seconds": summary["seconds"]}


TRAINING = Study(
    "training",
    "What was the course of a network's training?",
    NetworkTraining,
    trainings,
    course,
    on_cpu=True,
)
