"""Quality against images seen: the EMA snapshots of one training run, scored alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ppap_book import study
from ppap_book.studies.quality import Quality, score
from ppap_lib.diffusion.denoisers import ADAPTERS, Denoise
from ppap_lib.errors import TrainingError
from ppap_lib.files import weights
from ppap_lib.parameters import param
from ppap_lib.training.checkpoints import snapshots
from ppap_lib.training.fit import finished
from ppap_lib.zoo.tiers import tier

STUDY = "curve"


@dataclass(frozen=True)
class Curve(Quality):
    """One point of the curve: which weights, after how many images, scored how."""

    images_seen: int = param(0, low=0)
    sha256: str = ""


def run(
    name: str,
    folder: Path,
    n: int = 200,
    spacing: str = "ddim25",
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Score the snapshots of the finished run in `folder`, and what it ended with.

    What the ledger holds is not scored again. Raises `TrainingError` if there is no such run.
    """
    summary = finished(folder, "train denoiser")
    if (adapter := ADAPTERS.get(summary.get("prediction"))) is None:
        raise TrainingError(
            f"the summary in {folder} does not say what its network predicts: 'prediction' must "
            f"be one of {', '.join(ADAPTERS)}"
        )
    course = [*snapshots(folder), (summary["images_seen"], folder / summary["file"])]
    points = {
        Curve(tier=name, n=n, spacing=spacing, images_seen=seen, sha256=weights.sha256(path)): path
        for seen, path in course
    }

    def denoiser(path: Path, device: torch.device | str) -> Denoise:
        network = weights.load(tier(name).denoiser(), weights.read(path), path.name)
        return adapter(network.to(device).eval(), learned_variance=True)

    def measure(params: Curve, device: torch.device | str) -> dict[str, float]:
        return score(params, denoiser(points[params], device), device)

    study.record(STUDY, points, device, tell, measure=measure, words=_in_words)


def _in_words(params: Curve, numbers: Mapping[str, float]) -> str:
    return (
        f"{params.images_seen} images: KID-lite2 {numbers['kid']:.4f}, FD64 {numbers['fd64']:.2f}"
    )
