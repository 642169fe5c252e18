"""Ablations of PPAP-5's training: one thing is changed at a time, and each result guides.

The base is PPAP-5 with the presets of its guide; a variant sees as many images.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.studies import ablation, distillation, guidance
from ppap_lib.data.imageset import Origin
from ppap_lib.distill.experts import ExpertTraining, train_experts, verify
from ppap_lib.files import provenance
from ppap_lib.training.fit import SUMMARY
from ppap_lib.zoo.presets import settings
from ppap_lib.zoo.tiers import tier as preset

N, BLOCKS = 200, 3
"""The study: so many images by each variant, in so many blocks of seeds."""
GUIDES = preset("fashion").guides


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

_ONLY = {"no-scale": ("vit",)}  # convolutions have their scale in the released code, too


def available(guide: str) -> list[str]:
    """The variants that the guide's experts can be trained by, in order."""
    if guide not in GUIDES:
        raise StudyError(f"no variants of {guide!r}: there are those of {', '.join(GUIDES)}")
    return [name for name in VARIANTS if guide in _ONLY.get(name, GUIDES)]


def training(name: str, guide: str, generated: Path = Path()) -> ExpertTraining:
    """What a variant trains; the base learns from the set in the folder `generated`."""
    if name not in available(guide):
        raise StudyError(f"no variant {name!r} of {guide}: there are {', '.join(available(guide))}")
    return _changed(name, guide=guide, generated=generated)


def _changed(name: str, **base: Any) -> ExpertTraining:
    return ExpertTraining(**{**base, **VARIANTS[name]})


def train(
    asked: ExpertTraining,
    images: int,
    folder: Path,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Train in `folder` for this many images, unless that is done: `verify` it then."""
    if (folder / SUMMARY).is_file():
        verify(asked, folder, device)
        return
    made = settings(asked.tier, asked.guide, device, experts=asked.trains, images=images)
    train_experts(asked, made, folder, device=device, resume=True, on_start=tell)


def record(
    names: Iterable[str],
    guide: str,
    generated: Path,
    images: int,
    root: Path,
    scales: Iterable[float] = (guidance.PUBLISHED_SCALE,),
    n: int = N,
    blocks: int = BLOCKS,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Train the variants below `root`, file each training, and guide by each; done is skipped.

    Raises `StudyError` for a name that is none before anything is trained, and `TrainingError`
    where the finished training below `root` is another, such as one on other images.
    """
    provenance.commit()  # of the code that runs, not of what is committed meanwhile
    scales = tuple(scales)
    for name, asked in {name: training(name, guide, generated) for name in names}.items():
        folder = root / f"{guide}-{name}-{images}"
        train(asked, images, folder, device, tell)
        made, trained, _ = distillation.finished(folder)
        if ledger.find(distillation.STUDY, made.recorded()) is None:
            tell(f"{name}: {distillation.run(folder, device).name}")
        ablation.record(made, trained, scales, n, blocks, device, tell)


def of(params: Mapping[str, Any]) -> str | None:
    """The variant whose training a ledger row's parameters describe; None if it is none."""
    for name in VARIANTS:
        asked = _changed(name, guide=params["guide"], tier=params["tier"], generated=Path())
        said = distillation.varied(asked.recorded())
        if said.items() <= params.items() and _learns_from(asked, params["source"]):
            return name
    return None


Kind = TypeVar("Kind")


def pairs(
    found: Iterable[Kind], one: str, other: str, params: Callable[[Kind], Mapping[str, Any]]
) -> list[tuple[Kind, Kind]]:
    """Two variants of one guide after as many images, all that there are; the longest first.

    Where both learn from generated images, these are of one set. `params` are a training's, or
    those of images that it guided, which then are of one scale.
    """
    sides = [[x for x in found if of(params(x)) == name] for name in (one, other)]
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


def _learns_from(asked: ExpertTraining, source: str) -> bool:
    """Whether `source` says the images that it is trained on."""
    found = origin(source)
    if asked.generated is None:
        return found is None
    return found is not None and found.first == asked.first


def _comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    alike = ("tier", "guide", "images_seen", "scale", "extractor")
    origins = [found for p in (a, b) if (found := origin(p["source"]))]
    sets = {replace(found, first=None) for found in origins}
    return len(sets) < 2 and all(a.get(key) == b.get(key) for key in alike)
