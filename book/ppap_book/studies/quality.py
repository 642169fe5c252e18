"""How good a denoiser is: unguided images from seeds, against as many real ones."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ppap_book.measures import distances
from ppap_book.measures.features import ExtractorName
from ppap_book.study import Seeded
from ppap_lib.diffusion.denoisers import Denoise
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.schedules import respace
from ppap_lib.parameters import Parameters, param
from ppap_lib.samplers.draw import draw
from ppap_lib.zoo.tiers import tier

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
    # Before anything is drawn: there may be no real images here.
    real = reference(params.n, params.tier, params.extractor, device)
    preset = tier(params.tier)
    pixels = (-1.0, 1.0)
    model = Diffusion(denoise, preset.schedule(), preset.shape, pixels, device=device).clipped()
    images = draw(model, params.seeds, grid=model.grid(params.spacing))
    return columns(distances.extract(images, params.extractor, device=device), real)


def reference(
    n: int, name: str, extractor: str = "lite2", device: torch.device | str = "cpu"
) -> distances.Features:
    """Real features for n images of a tier: twice as many, for real against real at that n.

    Raises `StudyError` if the tier has too few test images.
    """
    return distances.real_features(name, extractor, device, 2 * n)


def measured(
    images: Tensor, name: str, extractor: str = "lite2", device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The protocol's columns for images [N, C, H, W] of a tier, against N real ones.

    And what every image contributes to them; below `DISTANCES_FROM` images, nothing.
    """
    if len(images) < DISTANCES_FROM:
        return {}
    real = reference(len(images), name, extractor, device)
    found = distances.extract(images, extractor, device=device)
    return columns(found, real) | by_image(found, real)


def columns(found: distances.Features, real: distances.Features) -> dict[str, float]:
    """The protocol's columns from features; `real` holds at least twice as many, the first count.

    KID and FD64, with real against real at the same n; precision, recall, and inception score. FD64
    only of more images than its components, and the distance in full dimension from
    `metrics.FULL_DIMENSION_FROM` up: FID, with Inception's features.
    """
    n, same = len(found), real[: len(found)]
    # The same components at every n.
    reference = distances.Reference(real[: distances.KEPT])
    baseline = distances.real_against_real(real, n, reference)[0]
    precision, recall = distances.precision_recall(found, same)
    table = {
        "kid": distances.kid(found, same),
        "kid_real": baseline["kid"],
        "precision": precision,
        "recall": recall,
        "inception_score": distances.inception_score(found),
    }
    if n > distances.COMPONENTS:
        table["fd64"] = distances.fd64(found, same, reference)
        table["fd64_real"] = baseline["fd64"]
    if n >= distances.FULL_DIMENSION_FROM:
        table["fd"] = distances.fd(found, same)
    return table


def by_image(found: distances.Features, real: distances.Features) -> dict[str, list[float]]:
    """What every image contributes to the columns: what a bootstrap over images needs.

    `witness` moves KID, the mean of `precise` is the precision (is a generated image inside the
    real manifold?), that of `covered` the recall (is a real image inside the generated one?), to
    which generated images contribute `recalled`. To four decimals, far below what images differ by.
    """
    same = real[: len(found)]
    return {
        "witness": [round(float(value), 4) for value in distances.kid_witness(found, same)],
        "precise": distances.inside_manifold(found, same).int().tolist(),
        "covered": distances.inside_manifold(same, found).int().tolist(),
        "recalled": [round(float(share), 4) for share in distances.recall_shares(found, same)],
    }
