"""Quality against images seen: the EMA snapshots of one training run, scored alike."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ppap_lib import weights
from ppap_lib.params import param
from ppap_lib.studies import filed
from ppap_lib.studies.quality import Quality, score
from ppap_lib.tiers import tier
from ppap_lib.train.recipes import SUMMARY, WEIGHTS
from ppap_lib.train.record import snapshots
from ppap_lib.train.settings import TrainingError

STUDY = "curve"


@dataclass(frozen=True)
class Curve(Quality):
    """One point of the curve: which weights, after how many images, scored how."""

    images_seen: int = param(0, low=0)
    sha256: str = ""


def course(folder: Path) -> list[tuple[int, Path]]:
    """(images seen, weights) of every snapshot of a run, and of its final EMA."""
    found = snapshots(folder)
    summary, final = folder / SUMMARY, folder / WEIGHTS
    if summary.exists() and final.exists():
        found.append((json.loads(summary.read_text("utf8"))["images_seen"], final))
    return found


def run(
    name: str,
    folder: Path,
    n: int = 200,
    spacing: str = "ddim25",
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Score every snapshot of the run in `folder` that the ledger does not hold yet.

    Raises `TrainingError` if there are none.
    """
    found = course(folder)
    if not found:
        raise TrainingError(
            f"no snapshots in {folder}: run python -m ppap_lib.train denoiser first"
        )
    points = {
        Curve(tier=name, n=n, spacing=spacing, images_seen=seen, sha256=weights.sha256(path)): path
        for seen, path in found
    }

    def measure(params: Curve, device: torch.device | str) -> dict[str, float]:
        path = points[params]
        return score(
            params, weights.load(tier(name).denoiser(), weights.read(path), path.name), device
        )

    filed.record(STUDY, points, device, tell, measure=measure, words=_in_words)


def _in_words(params: Curve, numbers: Mapping[str, float]) -> str:
    return (
        f"{params.images_seen} images: KID-lite2 {numbers['kid']:.4f}, FD64 {numbers['fd64']:.2f}"
    )
