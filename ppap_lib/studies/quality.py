"""How good a denoiser is: unguided images from seeds, against as many real ones."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ppap_lib import metrics
from ppap_lib.denoise import Denoise, clipped
from ppap_lib.extractors import ExtractorName
from ppap_lib.generate import generate
from ppap_lib.params import Parameters, param
from ppap_lib.samplers import ddim
from ppap_lib.schedule import respace
from ppap_lib.studies.runs import Seeded
from ppap_lib.tiers import tier

DISTANCES_FROM = 50
"""Fewer images have no distance to real ones: it would be all noise."""


@dataclass(frozen=True)
class Quality(Seeded, Parameters):
    """How many images are drawn, from which seeds and noise levels, and what looks at them."""

    tier: Literal["fashion", "tin10"] = "fashion"
    n: int = param(200, low=66)
    first_seed: int = param(0, low=0)
    spacing: str = "ddim25"
    extractor: ExtractorName = "lite2"

    def __post_init__(self) -> None:
        super().__post_init__()
        respace(tier(self.tier).schedule().T, self.spacing)


def score(
    params: Quality, denoise: Denoise, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """The columns of the protocol for DDIM's images by a denoiser of the tier, on `device`."""
    preset = tier(params.tier)
    grid = preset.schedule().grid(params.spacing)
    # Before anything is drawn: there may be no real images here.
    real = reference(params.n, params.tier, params.extractor, device)
    images = generate(clipped(denoise), preset.shape, params.seeds, grid, ddim(), device=device)
    return columns(metrics.extract(images, params.extractor, device=device), real)


def reference(
    n: int, name: str, extractor: str = "lite2", device: torch.device | str = "cpu"
) -> metrics.Features:
    """Real features for n images of a tier: twice as many, for real against real at that n.

    Raises `MetricError` if the tier has too few test images.
    """
    return metrics.real_features(name, extractor, device, 2 * n)


def measured(
    images: Tensor, name: str, extractor: str = "lite2", device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The protocol's columns for images [N, C, H, W] of a tier, against N real ones.

    And what every image contributes to them; below `DISTANCES_FROM` images, nothing.
    """
    if len(images) < DISTANCES_FROM:
        return {}
    real = reference(len(images), name, extractor, device)
    found = metrics.extract(images, extractor, device=device)
    return columns(found, real) | by_image(found, real)


def columns(found: metrics.Features, real: metrics.Features) -> dict[str, float]:
    """The protocol's columns from features; `real` holds at least twice as many, the first count.

    KID and FD64, with real against real at the same n; precision, recall, and inception score. FD64
    only of more images than its components, and the distance in full dimension from
    `metrics.FULL_DIMENSION_FROM` up: FID, with Inception's features.
    """
    n, same = len(found), real[: len(found)]
    # The same components at every n.
    reference = metrics.Reference(real[: metrics.KEPT])
    baseline = metrics.real_against_real(real, n, reference)[0]
    precision, recall = metrics.precision_recall(found, same)
    table = {
        "kid": metrics.kid(found, same),
        "kid_real": baseline["kid"],
        "precision": precision,
        "recall": recall,
        "inception_score": metrics.inception_score(found),
    }
    if n > metrics.COMPONENTS:
        table["fd64"] = metrics.fd64(found, same, reference)
        table["fd64_real"] = baseline["fd64"]
    if n >= metrics.FULL_DIMENSION_FROM:
        table["fd"] = metrics.fd(found, same)
    return table


def by_image(found: metrics.Features, real: metrics.Features) -> dict[str, list[float]]:
    """What every image contributes to the columns: what a bootstrap over images needs.

    `witness` moves KID, the mean of `precise` is the precision (is a generated image inside the
    real manifold?), that of `covered` the recall (is a real image inside the generated one?), to
    which generated images contribute `recalled`. To four decimals, far below what images differ by.
    """
    same = real[: len(found)]
    return {
        "witness": [round(float(value), 4) for value in metrics.kid_witness(found, same)],
        "precise": metrics.inside_manifold(found, same).int().tolist(),
        "covered": metrics.inside_manifold(same, found).int().tolist(),
        "recalled": [round(float(share), 4) for share in metrics.recall_shares(found, same)],
    }
