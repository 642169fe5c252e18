"""Ablations of PPAP-5's training: one thing is changed at a time, and each result guides.

Every variant is one command of `python -m ppap_lib.distill`, so that it can be trained by hand,
too; the base is PPAP-5 with the presets of its guide, at the same number of images.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from ppap_lib import ledger
from ppap_lib.data.generated import GENERATED
from ppap_lib.distill.__main__ import main as distill
from ppap_lib.distill.fitting import UPDATES
from ppap_lib.studies import ablation, distillation, guidance
from ppap_lib.train.recipes import SUMMARY

N, BLOCKS = 200, 3
"""The study: so many images by each variant, in so many blocks of seeds."""


class VariantError(ValueError):
    """A variant that does not exist, or whose training stopped."""


@dataclass(frozen=True)
class Variant:
    """A training of experts; as it stands, the base: PPAP-5, taught on a generated set.

    `rank` None is the guide's preset. `first` keeps to so many images of the set. `real`: taught
    on the tier's photographs, without their labels. `labels`: learns from the photographs'
    labels; `whole` networks then instead of updates. `released` are habits of the released code,
    as the ledger names them, for `guides` whose training they change.
    """

    experts: int = 5
    rank: int | None = None
    temperature: float = 0.25
    first: int | None = None
    real: bool = False
    labels: bool = False
    whole: bool = False
    released: tuple[str, ...] = ()
    guides: tuple[str, ...] = tuple(UPDATES)

    def recorded(self, guide: str) -> dict[str, Any]:
        """What a ledger row records of it, but for its images and its result."""
        return {
            "kind": "supervised" if self.labels else "transfer",
            "experts": self.experts,
            "rank": None if self.whole else self.rank or UPDATES[guide].rank,
            "temperature": None if self.labels else self.temperature,
            "released": self.released,
        }

    def learns_from(self, source: str) -> bool:
        """Whether `source` says the images that it is trained on."""
        if self.labels or self.real:
            return GENERATED not in source
        first, base = _parts(source)
        return GENERATED in base and first == self.first


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "base": Variant(),
        "experts-1": Variant(experts=1),
        "experts-2": Variant(experts=2),
        "experts-10": Variant(experts=10),
        "rank-1": Variant(rank=1),
        "rank-4": Variant(rank=4),
        "real": Variant(real=True),
        "labels": Variant(labels=True),
        "whole": Variant(labels=True, whole=True),
        "first-500": Variant(first=500),
        "first-2000": Variant(first=2000),
        "temperature-0.5": Variant(temperature=0.5),
        "temperature-1": Variant(temperature=1.0),
        "warm-start": Variant(released=("warm start",)),
        "shared-time": Variant(released=("shared time",)),
        "no-scale": Variant(released=("no scale",), guides=("vit",)),
    }
)
"""By name. Each changes one thing: of the base, "labels" of "real", "whole" of "labels"."""


def available(guide: str) -> list[str]:
    """The variants that the guide's experts can be trained by, in order."""
    return [name for name, variant in VARIANTS.items() if guide in variant.guides]


def command(
    name: str, guide: str, data: Path, images: int, folder: Path, device: str = "auto"
) -> list[str]:
    """The arguments of `python -m ppap_lib.distill` that train a variant, or go on with a run."""
    if name not in available(guide):
        raise VariantError(
            f"no variant {name!r} of {guide}: there are {', '.join(available(guide))}"
        )
    variant = VARIANTS[name]
    asked = variant.recorded(guide)
    made = [asked["kind"], "--guide", guide, "--experts", str(variant.experts)]
    if not variant.whole:
        made += ["--rank", str(asked["rank"])]
    if not variant.labels:
        made += ["--temperature", str(variant.temperature)]
        made += ["--labelled"] if variant.real else ["--data", str(data)]
    if variant.first is not None:
        made += ["--first", str(variant.first)]
    made += [f"--{habit.replace(' ', '-')}" for habit in variant.released]
    made += ["--images", str(images), "--folder", str(folder), "--device", device]
    return [*made, "--resume", "--quiet"]


def train(
    name: str, guide: str, data: Path, images: int, folder: Path, device: str = "auto"
) -> None:
    """Train a variant in `folder` for this many images, unless a finished run is there."""
    if (folder / SUMMARY).is_file():
        return
    if distill(command(name, guide, data, images, folder, device)) != 0:
        raise VariantError(f"the training of {name} stopped: see above")


def record(
    names: Iterable[str],
    guide: str,
    data: Path,
    images: int,
    root: Path,
    scales: Iterable[float] = (guidance.PUBLISHED_SCALE,),
    n: int = N,
    blocks: int = BLOCKS,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Train the variants below `root`, file each training, and guide by each; done is skipped."""
    for name in names:
        folder = root / f"{guide}-{name}-{images}"
        train(name, guide, data, images, folder, str(device))
        training = distillation.finished(folder)[0]
        if ledger.find(distillation.STUDY, training.recorded()) is None:
            tell(f"{name}: {distillation.run(folder).name}")
        ablation.record(folder, tuple(scales), n, blocks, device, tell)


def of(params: Mapping[str, Any]) -> str | None:
    """The variant whose training a ledger row's parameters describe; None if it is none."""
    for name, variant in VARIANTS.items():
        asked = variant.recorded(params["guide"])
        if (
            all(params[key] == value for key, value in asked.items() if key != "released")
            and tuple(params["released"]) == variant.released
            and variant.learns_from(params["source"])
        ):
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


def _comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    alike = ("tier", "guide", "images_seen", "scale", "extractor")
    sets = {base for _, base in (_parts(p["source"]) for p in (a, b)) if GENERATED in base}
    return len(sets) < 2 and all(a.get(key) == b.get(key) for key in alike)


def _parts(source: str) -> tuple[int | None, str]:
    """A `source` as `ImageSet.first` words it: how many are used (None: all), of which."""
    first, base = re.fullmatch(r"(?:the first (\d+) of )?(.*)", source).groups()
    return first and int(first), base
