"""Quality against images seen: the EMA snapshots of one training run, scored alike."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ppap_lib import ledger, weights
from ppap_lib.params import param
from ppap_lib.studies.quality import Quality, score
from ppap_lib.tiers import tier
from ppap_lib.train.recipes import SUMMARY, WEIGHTS

STUDY = "curve"


@dataclass(frozen=True)
class Curve(Quality):
    """One point of the curve: which weights, after how many images, scored how."""

    images_seen: int = param(0, low=0)
    sha256: str = ""


def snapshots(folder: Path) -> list[tuple[int, Path]]:
    """(images seen, weights) of every snapshot of a run, and of its final EMA."""
    found = [(int(p.stem), p) for p in sorted((folder / "snapshots").glob("*.safetensors"))]
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
    """Score every snapshot of the run in `folder` that the ledger does not hold yet."""
    for seen, path in snapshots(folder):
        digest = weights.sha256(path)
        params = Curve(tier=name, n=n, spacing=spacing, images_seen=seen, sha256=digest)
        if ledger.find(STUDY, params.recorded()) is not None:
            continue
        began = time.monotonic()
        network = weights.load(tier(name).denoiser(), weights.read(path), path.name)
        numbers = score(params, network, device)
        seconds = time.monotonic() - began
        ledger.record(STUDY, params.recorded(), numbers, seconds=seconds, device=device)
        tell(f"{seen} images: KID-lite2 {numbers['kid']:.4f}, FD64 {numbers['fd64']:.2f}")
