"""Ablations of PPAP-5's training: one thing is changed at a time, and each result guides.

The base is PPAP-5 with the presets of its guide; a variant sees as many images.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch

from ppap_book.errors import StudyError
from ppap_book.studies import guidance
from ppap_book.studies.expert_training import DISTILLATION, Ablation, finished, guided_by, varied
from ppap_lib.data.imageset import Origin
from ppap_lib.distill.experts import ExpertTraining, train_experts, verify
from ppap_lib.training.fit import SUMMARY
from ppap_lib.zoo import tiers
from ppap_lib.zoo.presets import IMAGES, settings
from ppap_lib.zoo.tiers import GuideName

N, BLOCKS = 200, 3
"""The study: so many images by each variant, in so many blocks of seeds."""

GUIDES = tiers.tier("fashion").guides

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "base": {},
        "experts-1": {"experts": 1},
        "experts-2": {"experts": 2},
        "experts-10": {"experts": 10},
        "rank-1": {"rank": 1},
        "rank-4": {"rank": 4},
        "real": {"generated": None},
        "labels": {"generated": None, "kind": "supervised"},
        "whole": {"generated": None, "kind": "supervised", "whole": True},
        "first-500": {"first": 500},
        "first-2000": {"first": 2000},
        "temperature-0.5": {"temperature": 0.5},
        "temperature-1": {"temperature": 1.0},
        "warm-start": {"warm_start": True},
        "shared-time": {"shared_time": True},
        "no-scale": {"lora_scale": False},
    }
)
"""By name, what is changed of the base's `ExpertTraining`, which is its defaults' PPAP-5 on a
generated set. Each changes one thing: of the base, "labels" of "real", "whole" of "labels"."""

VariantName = Literal[*VARIANTS]

_ONLY = {"no-scale": ("vit",)}  # convolutions have their scale in the released code, too


def available(guide_name: str) -> list[str]:
    """Return the variants that the guide's experts can be trained by, in order."""
    if guide_name not in GUIDES:
        raise StudyError(f"no variants of {guide_name!r}: there are those of {', '.join(GUIDES)}")
    return [name for name in VARIANTS if guide_name in _ONLY.get(name, GUIDES)]


def training(name: str, guide_name: str, generated: Path = Path()) -> ExpertTraining:
    """Return what a variant trains; the base learns from the set in the folder `generated`."""
    if name not in (known := available(guide_name)):
        raise StudyError(f"no variant {name!r} of {guide_name}: there are {', '.join(known)}")
    return _changed(name, guide=guide_name, generated=generated)


def _changed(name: str, **base: Any) -> ExpertTraining:
    return ExpertTraining(**{**base, **VARIANTS[name]})


def train(
    training: ExpertTraining,
    images: int,
    folder: Path,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Train in `folder` for this many images, unless that is done: `verify` it then."""
    if (folder / SUMMARY).is_file():
        verify(training, folder, device)
        return
    presets = settings(
        training.tier, training.guide, device, experts=training.trains, images=images
    )
    train_experts(training, presets, folder, device=device, resume=True, on_start=tell)


def runs(
    data: Path,
    guide: GuideName = "resnet18",
    only: tuple[VariantName, ...] | None = None,
    images: int = IMAGES,
    folder: Path = Path("runs/ablations"),
    scales: tuple[float, ...] = (guidance.PUBLISHED_SCALE,),
    n: int = N,
    blocks: int = BLOCKS,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> Iterator[Ablation]:
    """Train the variants, file each training, and yield the runs that guide by each.

    What is trained and filed already is not done again. Raises `StudyError` for an unknown variant
    before anything is trained, and `TrainingError` where the finished training is another, such
    as one on other images.

    Parameters
    ----------
    data : Path
        The folder of a set by ppap generate.
    guide : GuideName
        The network whose experts are trained.
    only : tuple[VariantName, ...]
        The variants that are trained (all of them if not given).
    images : int
        The number of images that each training sees.
    folder : Path
        The folder below which each training has its own.
    scales : tuple[float, ...]
        The scales of guidance.
    n : int
        The number of images in a block of seeds.
    blocks : int
        The number of blocks of seeds.
    device : torch.device or str
        Where experts are trained and read.
    tell : Callable[[str], None]
        Hears what is trained and filed.
    """
    names = only or available(guide)
    for name, variant in {name: training(name, guide, data) for name in names}.items():
        place = folder / f"{guide}-{name}-{images}"
        train(variant, images, place, device, tell)
        trained, *_ = finished(place)
        DISTILLATION.record([trained], device, tell)
        yield from guided_by(trained, scales, n, blocks)


def variant_of(params: Mapping[str, Any]) -> str | None:
    """Return the variant whose training a row's parameters describe; None if it is none."""
    told = {"augment": False} | params
    for name in VARIANTS:
        variant = _changed(name, guide=params["guide"], tier=params["tier"], generated=Path())
        facts = varied(variant.recorded())
        if facts.items() <= told.items() and _learns_from(variant, params["source"]):
            return name
    return None


Item = TypeVar("Item")


def pairs(
    items: Iterable[Item], one: str, other: str, params: Callable[[Item], Mapping[str, Any]]
) -> list[tuple[Item, Item]]:
    """Return all pairs of two variants of one guide after as many images, the longest first.

    Where both learn from generated images, these are of one set. `params` are a training's, or
    those of images that it guided, which then are of one scale.
    """
    items = list(items)
    sides = [[x for x in items if variant_of(params(x)) == name] for name in (one, other)]
    both = [(a, b) for a in sides[0] for b in sides[1] if _comparable(params(a), params(b))]
    return sorted(both, key=lambda pair: -params(pair[0])["images_seen"])


def origin(source: str) -> Origin | None:
    """Return the generated set that a row's `source` words; None if its images are not generated.

    A row is filed under these words, so that its parameters have no fields instead.
    """
    words = r"(?:the first (\d+) of )?(\d+) images generated by (\S+) with (\S+)"
    if (match := re.fullmatch(words, source)) is None:
        return None
    first, n, denoiser, spacing = match.groups()
    return Origin(int(n), denoiser, spacing, first and int(first))


def _learns_from(variant: ExpertTraining, source: str) -> bool:
    """Whether `source` words the images that it is trained on."""
    generated = origin(source)
    if variant.generated is None:
        return generated is None
    return generated is not None and generated.first == variant.first


def _comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    alike = ("tier", "guide", "images_seen", "scale", "extractor")
    origins = [generated for p in (a, b) if (generated := origin(p["source"]))]
    sets = {replace(generated, first=None) for generated in origins}
    return len(sets) < 2 and all(a.get(key) == b.get(key) for key in alike)
