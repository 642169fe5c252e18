"""One expert at a time: guidance within some intervals only, and what of the image it decides.

One row per run of intervals and block of seeds. The image without guidance from the same noise
is the yardstick: the power of the difference at low frequencies is what guidance did to the
layout, the power above what it did to the detail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ppap_book.measures.spectrum import band_powers
from ppap_book.studies import guidance
from ppap_book.studies.guidance import PUBLISHED_SCALE, Guidance
from ppap_book.studies.methods import MethodName
from ppap_book.study import Study
from ppap_lib.errors import InputError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.parameters import param
from ppap_lib.zoo import tiers
from ppap_lib.zoo.tiers import GuideName, TierName

CUTOFF = 4.0
"""Cycles per image below which a change is one of layout, and from which on one of detail."""

IMAGES = 40
"""Images in a block of seeds."""

Span = tuple[int, int]
"""First and last interval in which guidance acts, numbered from 1, the cleanest."""


@dataclass(frozen=True, kw_only=True)
class IntervalRun(Guidance):
    """A run of the guidance study whose guide acts in the intervals `first` to `last` only."""

    n_intervals: int = param(5, low=1, high=50)
    first: int = param(1, low=1)
    last: int = param(5, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.first <= self.last <= self.n_intervals:
            raise InputError(
                f"expected 1 <= first <= last <= n_intervals, not first {self.first}, last "
                f"{self.last} of {self.n_intervals} intervals"
            )

    @property
    def label(self) -> str:
        """The run in one line."""
        return f"{super().label}, intervals {self.first} to {self.last}"

    @property
    def span(self) -> Span:
        """The intervals in which guidance acts."""
        return self.first, self.last

    @property
    def during(self) -> tuple[int, int]:
        """The timesteps [start, stop) in which guidance acts."""
        edges = Intervals(tiers.tier(self.tier).schedule().T, self.n_intervals).edges
        return edges[self.first - 1], edges[self.last]

    def recorded(self) -> dict[str, Any]:
        """Name no intervals without guidance: they do not change the result either."""
        none = {"n_intervals": 0, "first": 0, "last": 0} if self.method == "none" else {}
        return super().recorded() | none


def spans(n: int) -> list[Span]:
    """Return the study's spans of n intervals: each alone, from the noisy and the clean side."""
    alone = [(k, k) for k in range(1, n + 1)]
    from_noise = [(k, n) for k in range(n, 0, -1)]
    from_clean = [(1, k) for k in range(1, n + 1)]
    return list(dict.fromkeys([*alone, *from_noise, *from_clean]))


def grid(
    method: MethodName = "ppap5",
    guide: GuideName = "resnet18",
    scale: float = PUBLISHED_SCALE,
    n: int = IMAGES,
    blocks: int = 3,
    first_seed: int = 0,
    n_intervals: int = 5,
    tier: TierName = "fashion",
) -> list[IntervalRun]:
    """Return the runs of all `spans`, block by block, each block without guidance first.

    Parameters
    ----------
    method : MethodName
        The method of guidance.
    guide : GuideName
        The network that guides, of the tier's.
    scale : float
        The scale of guidance.
    n : int
        The number of images in a block of seeds.
    blocks : int
        The number of blocks of seeds.
    first_seed : int
        The first block's first seed.
    n_intervals : int
        The number of intervals that the timesteps are cut into.
    tier : TierName
        The tier whose images are drawn.
    """
    runs = []
    for block in range(blocks):
        shared = {
            "guide": guide,
            "scale": scale,
            "n": n,
            "first_seed": first_seed + block * n,
            "tier": tier,
            "n_intervals": n_intervals,
        }
        runs.append(IntervalRun(method="none", last=n_intervals, **shared))
        runs += [
            IntervalRun(method=method, first=first, last=last, **shared)
            for first, last in spans(n_intervals)
        ]
    return runs


def draw(params: IntervalRun, device: torch.device | str = "cpu") -> Tensor:
    """Return the run's images: float32 [n, C, H, W] in [-1, 1], on the CPU."""
    return guidance.draw(params, device, params.during)


def draw_ranges(
    params: Guidance, ranges: Sequence[tuple[float, float]], device: torch.device | str = "cpu"
) -> Tensor:
    """Return the run's images for many ranges [start, stop) of t: [len(ranges), n, C, H, W].

    A range is drawn at a time, in a batch of its own n images, which a page full of a few of them
    can wait for. So an image depends neither on which ranges nor on how many are asked for.
    """
    return torch.stack([guidance.draw(params, device, each, batch=params.n) for each in ranges])


def changes(images: Tensor, plain: Tensor) -> dict[str, list[float]]:
    """Return each image's power of `images - plain` below `CUTOFF`, "layout", and above, "detail".

    In squared units of the pixel range [-1, 1]; both from the same noise, [N, C, H, W].
    """
    layout, detail = band_powers(images - plain, [CUTOFF]).unbind(1)
    return {"layout": layout.tolist(), "detail": detail.tolist()}


def measured(
    params: Guidance, images: Tensor, plain: Tensor, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return verdicts on a run's images, and the powers of their change from the unguided ones."""
    # Rounded: a row is read by people too.
    powers = {k: [float(f"{v:.4g}") for v in vs] for k, vs in changes(images, plain).items()}
    return guidance.judged(params, images, device) | powers


def measure(params: IntervalRun, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Draw and measure; return the row's results, image by image."""
    whole = {"first": 1, "last": params.n_intervals, "scale": 0.0}
    plain = replace(params, method="none", released_routing=False, **whole)
    plain = _without_guidance(plain, device)
    images = plain if params.method == "none" else draw(params, device)
    return measured(params, images, plain, device)


@lru_cache(maxsize=1)
def _without_guidance(params: IntervalRun, device: torch.device | str) -> Tensor:
    """The images of a block without guidance, kept until the next block asks for its own."""
    return draw(params, device)


STUDY = Study(
    "intervals",
    "What does guidance decide that acts in some intervals only?",
    IntervalRun,
    grid,
    measure,
    guidance.in_words,
)


@dataclass
class SpanEffect:
    """SpanEffect of guidance in one span of intervals on the images [N] of all blocks, in order."""

    judge: list[int] = field(default_factory=list)
    guide: list[int] = field(default_factory=list)
    layout: list[float] = field(default_factory=list)
    detail: list[float] = field(default_factory=list)

    @property
    def power(self) -> list[float]:
        """Power of the whole change, image by image."""
        return [sum(parts) for parts in zip(self.layout, self.detail, strict=True)]

    def add(self, results: Mapping[str, Any]) -> "SpanEffect":
        """Append another block's results; without guidance there is no guide to ask."""
        self.judge += results["judge_correct"]
        self.guide += results.get("guide_correct", [])
        self.layout += results["layout"]
        self.detail += results["detail"]
        return self


def effects(runs: Sequence[IntervalRun]) -> tuple[dict[Span | None, SpanEffect], int]:
    """Return these runs' rows, pooled over blocks, by span, and how many the ledger lacks.

    The images without guidance are under None. Only blocks of which every row is there count:
    so all effects are of the same images.
    """
    rows = {params: STUDY.find(params) for params in runs}
    torn = {params.first_seed for params, row in rows.items() if row is None}
    pooled: dict[Span | None, SpanEffect] = {}
    for params, row in rows.items():
        if params.first_seed not in torn:
            span = None if params.method == "none" else params.span
            pooled.setdefault(span, SpanEffect()).add(row["results"])
    return pooled, sum(row is None for row in rows.values())
