"""The columns of the book's protocol: distances of generated images to as many real ones."""

from typing import Any

import torch
from torch import Tensor

from ppap_book.measures import distances

DISTANCES_FROM = 50
"""Fewer images have no distance to real ones: it would be all noise."""


def reference(
    n: int, tier_name: str, extractor: str = "lite2", device: torch.device | str = "cpu"
) -> distances.Features:
    """Return real features for `n` images of a tier: twice as many, for real against real.

    Raises `StudyError` if the tier has too few real images.
    """
    return distances.real_features(tier_name, extractor, device, 2 * n)


def measured(
    images: Tensor, tier_name: str, extractor: str = "lite2", device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return `columns` and `by_image` of a tier's images [N, C, H, W] against N real ones.

    Nothing of fewer than `DISTANCES_FROM` images.
    """
    if len(images) < DISTANCES_FROM:
        return {}
    real = reference(len(images), tier_name, extractor, device)
    drawn = distances.extract(images, extractor, device=device)
    return columns(drawn, real) | by_image(drawn, real)


def columns(drawn: distances.Features, real: distances.Features) -> dict[str, float]:
    """Return the protocol's columns from features.

    KID and FD64, with real against real at the same n; precision, recall, and inception score.
    FD64 only of more images than its components, and the distance in full dimension from
    `distances.FULL_DIMENSION_FROM` up: FID, with Inception's features.

    Parameters
    ----------
    drawn : distances.Features
        Of n generated images.
    real : distances.Features
        Of at least 2n real ones, the first of which are compared.
    """
    n, same = len(drawn), real[: len(drawn)]
    # The same components at every n.
    components = distances.Reference(real[: distances.KEPT])
    baseline = distances.real_against_real(real, n, components)[0]
    precision, recall = distances.precision_recall(drawn, same)
    table = {
        "kid": distances.kid(drawn, same),
        "kid_real": baseline["kid"],
        "precision": precision,
        "recall": recall,
        "inception_score": distances.inception_score(drawn),
    }
    if n > distances.COMPONENTS:
        table["fd64"] = distances.fd64(drawn, same, components)
        table["fd64_real"] = baseline["fd64"]
    if n >= distances.FULL_DIMENSION_FROM:
        table["fd"] = distances.fd(drawn, same)
    return table


def by_image(drawn: distances.Features, real: distances.Features) -> dict[str, list[float]]:
    """Return what every image contributes to `columns`, for a bootstrap over images.

    `witness` moves KID, the mean of `precise` is the precision (is a generated image inside the
    real manifold?), that of `covered` the recall (is a real image inside the generated one?), to
    which generated images contribute `recalled`. To four decimals, far below what images differ by.
    """
    same = real[: len(drawn)]
    return {
        "witness": [round(float(value), 4) for value in distances.kid_witness(drawn, same)],
        "precise": distances.inside_manifold(drawn, same).int().tolist(),
        "covered": distances.inside_manifold(same, drawn).int().tolist(),
        "recalled": [round(float(share), 4) for share in distances.recall_shares(drawn, same)],
    }
