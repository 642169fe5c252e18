"""The guidance scale: what more of it buys in agreement, and what it costs in everything else.

One row per method, scale and block of seeds, under the guidance study's parameters and with its
verdicts and distances; beside them how varied the images of a class are and how saturated.
"""

from typing import Any

import torch
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_book.measures import distances, protocol
from ppap_book.studies import guidance
from ppap_book.studies.guidance import Guidance
from ppap_book.studies.methods import MethodName
from ppap_book.study import Study
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.zoo import tiers
from ppap_lib.zoo.tiers import GuideName, TierName

METHODS = ("naive", "single", "ppap5")
SCALES = (1.0, 5.0, 10.0, 30.0)
BYTE = 1 / 255
"""Half the distance between two bytes, in units of [-1, 1]: what lies nearer to an end is there."""


def grid(
    methods: tuple[MethodName, ...] = METHODS,
    guide: GuideName = "resnet18",
    scales: tuple[float, ...] = SCALES,
    n: int = 70,
    blocks: int = 3,
    first_seed: int = 0,
    tier: TierName = "fashion",
) -> list[Guidance]:
    """Return every method at every scale, block by block, and no guidance beside them.

    Parameters
    ----------
    methods : tuple[MethodName, ...]
        The methods of guidance.
    guide : GuideName
        The network that guides, of the tier's.
    scales : tuple[float, ...]
        The scales of guidance.
    n : int
        The number of images in a block of seeds.
    blocks : int
        The number of blocks of seeds.
    first_seed : int
        The first block's first seed.
    tier : TierName
        The tier whose images are drawn.
    """
    return guidance.grid(
        dict.fromkeys(["none", *methods]),
        guide,
        scales=scales,
        n=n,
        blocks=blocks,
        first_seed=first_seed,
        tier=tier,
    )


def at_the_ends(images: Tensor) -> dict[str, Tensor]:
    """Return the share of each image's pixels that are "black" (-1) or "white" (1), or beyond: [N].

    As bytes would show them, so that it does not matter whether images [N, C, H, W] were clamped.
    """
    low, high = images <= BYTE - 1, images >= 1 - BYTE
    return {"black": low.double().mean((1, 2, 3)), "white": high.double().mean((1, 2, 3))}


def spread(vectors: Tensor, labels: Tensor) -> float:
    """Return how varied the images of a class are: their mean distance, averaged over classes.

    `vectors` [N, D] are features, `labels` int64 [N]; classes of fewer than two images are left
    out. 0 if every class is one picture.
    """
    groups = [vectors[labels == k] for k in labels.unique()]
    means = [torch.pdist(group.double()).mean() for group in groups if len(group) > 1]
    if not means:
        raise StudyError("no class has two images: their distance says how varied it is")
    return float(torch.stack(means).mean())


def measure(params: Guidance, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Draw and measure; return the row's results. Real images are measured alike, at the same n.

    A few images have no distances to real ones, as in `protocol.measured`.
    """
    images = guidance.draw(params, device)
    drawn = distances.extract(images, params.extractor, device=device)
    real = protocol.reference(params.n, params.tier, params.extractor, device)
    classes = len(tiers.tier(params.tier).classes)
    results: dict[str, Any] = guidance.judged(params, images, device)
    results |= {name: float(share.mean()) for name, share in at_the_ends(images).items()}
    results["spread"] = spread(drawn.vectors, params.target)
    # Real image i is of class i modulo classes.
    results["spread_real"] = spread(real.vectors[: params.n], seed_labels(range(params.n), classes))
    if params.n >= protocol.DISTANCES_FROM:
        results |= protocol.columns(drawn, real) | protocol.by_image(drawn, real)
    return results


STUDY = Study(
    "scales",
    "What does more guidance buy, and what does it cost?",
    Guidance,
    grid,
    measure,
    guidance.in_words,
)
