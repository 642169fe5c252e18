"""Quality against images seen: the EMA snapshots of one training run, scored alike."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ppap_lib import ledger, metrics, weights
from ppap_lib.denoise import clipped, v_model
from ppap_lib.generate import generate
from ppap_lib.params import Parameters, param
from ppap_lib.samplers import ddim
from ppap_lib.tiers import tier

STUDY = "curve"


@dataclass(frozen=True)
class Curve(Parameters):
    """One point of the curve: which weights, after how many images, drawn and scored how."""

    tier: Literal["fashion", "tin10"] = "fashion"
    images_seen: int = param(0, low=0)
    sha256: str = ""
    n: int = param(200, low=66)
    first_seed: int = param(0, low=0)
    spacing: str = "ddim25"
    extractor: str = "lite2"


def score(params: Curve, path: Path, device: torch.device | str = "cpu") -> dict[str, float]:
    """KID and FD64 of `n` unguided images against as many real ones, and of real against real."""
    preset = tier(params.tier)
    network = weights.load(preset.denoiser(), weights.read(path, params.sha256), path.name)
    denoise = clipped(v_model(network.to(device).eval(), learned_variance=True))
    seeds = range(params.first_seed, params.first_seed + params.n)
    grid = preset.schedule().grid(params.spacing)
    images = generate(denoise, preset.shape, seeds, grid, ddim(), device=device)
    real = metrics.real_features(params.tier, params.extractor, device)
    found = metrics.extract(images, params.extractor, device=device)
    reference = metrics.Reference(real)
    baseline = metrics.real_against_real(real, params.n, reference)[0]
    return {
        "kid": metrics.kid(found, real[: params.n]),
        "fd64": metrics.fd64(found, real[: params.n], reference),
        "kid_real": baseline["kid"],
        "fd64_real": baseline["fd64"],
    }


def snapshots(folder: Path) -> list[tuple[int, Path]]:
    """(images seen, weights) of every snapshot of a run, and of its final EMA."""
    found = [(int(p.stem), p) for p in sorted((folder / "snapshots").glob("*.safetensors"))]
    summary, final = folder / "summary.json", folder / "ema.safetensors"
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
        params = Curve(tier=name, images_seen=seen, sha256=digest, n=n, spacing=spacing)
        if ledger.find(STUDY, params.recorded()) is None:
            began = time.monotonic()
            numbers = score(params, path, device)
            ledger.record(
                STUDY,
                params.recorded(),
                numbers,
                seconds=time.monotonic() - began,
                device=device,
            )
            tell(f"{seen} images: KID-lite2 {numbers['kid']:.4f}, FD64 {numbers['fd64']:.2f}")
