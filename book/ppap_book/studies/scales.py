"""The guidance scale: what more of it buys in agreement, and what it costs in everything else.

One row per method, scale and block of seeds, under the guidance study's parameters and with its
verdicts and distances; beside them how varied the images of a class are and how saturated.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppap_book import study
from ppap_book.errors import StudyError
from ppap_book.measures import distances as metrics
from ppap_book.studies import guidance, quality
from ppap_book.studies.guidance import Guidance
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.zoo.tiers import tier as preset

STUDY = "scales"
METHODS = ("naive", "single", "ppap5")
SCALES = (1.0, 5.0, 10.0, 30.0)
BYTE = 1 / 255
"""Half the distance between two bytes, in units of [-1, 1]: what lies nearer to an end is there."""


def plan(
    names: Iterable[str] = METHODS,
    guide: str = "resnet18",
    scales: Iterable[float] = SCALES,
    n: int = 70,
    blocks: int = 3,
    first_seed: int = 0,
    tier: str = "fashion",
) -> list[Guidance]:
    """The runs of the study, block by block, and without guidance beside them."""
    return guidance.plan(
        dict.fromkeys(["none", *names]),
        guide,
        scales=tuple(scales),
        n=n,
        blocks=blocks,
        first_seed=first_seed,
        tier=tier,
    )


def at_the_ends(images: Tensor) -> dict[str, Tensor]:
    """The share of each image's pixels that are "black" (-1 or below) or "white" (1 or above): [N].

    As bytes would show them, so that it does not matter whether images [N, C, H, W] were clamped.
    """
    low, high = images <= BYTE - 1, images >= 1 - BYTE
    return {"black": low.double().mean((1, 2, 3)), "white": high.double().mean((1, 2, 3))}


def spread(vectors: Tensor, labels: Tensor) -> float:
    """How varied the images of a class are: their mean pairwise distance, averaged over classes.

    `vectors` [N, D] are features, `labels` int64 [N]; classes of fewer than two images are left
    out. 0 if every class is one picture.
    """
    groups = [vectors[labels == k] for k in labels.unique()]
    distances = [torch.pdist(group.double()).mean() for group in groups if len(group) > 1]
    if not distances:
        raise StudyError("no class has two images: their distance says how varied it is")
    return float(torch.stack(distances).mean())


def measure(params: Guidance, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Draw and measure; the row's results. Real images are measured alike, at the same n.

    A few images have no distances to real ones, as in `quality.measured`.
    """
    images = guidance.draw(params, device)
    found = metrics.extract(images, params.extractor, device=device)
    real = quality.reference(params.n, params.tier, params.extractor, device)
    classes = len(preset(params.tier).classes)
    results: dict[str, Any] = guidance.judged(params, images, device)
    results |= {name: float(share.mean()) for name, share in at_the_ends(images).items()}
    results["spread"] = spread(found.vectors, params.target)
    # Real image i is of class i modulo classes.
    results["spread_real"] = spread(real.vectors[: params.n], seed_labels(range(params.n), classes))
    if params.n >= quality.DISTANCES_FROM:
        results |= quality.columns(found, real) | quality.by_image(found, real)
    return results


record = partial(study.record, STUDY, measure=measure, words=guidance.in_words)
"""Run what the ledger does not hold yet, one row after the other."""
