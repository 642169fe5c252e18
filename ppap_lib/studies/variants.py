"""Ablations of PPAP-5's training: one thing is changed at a time, and each result guides.

The base is PPAP-5 with the presets of its guide; a variant changes one field of its
`ExpertTraining`, and sees as many images.
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
from ppap_lib.distill.fitting import UPDATES, settings
from ppap_lib.distill.training import ExpertTraining, train_experts, verify
from ppap_lib.studies import ablation, distillation, guidance
from ppap_lib.tiers import tier as preset
from ppap_lib.train.recipes import SUMMARY

N, BLOCKS = 200, 3
"""The study: so many images by each variant, in so many blocks of seeds."""
GUIDES = preset("fashion").guides


class VariantError(ValueError):
    """A variant that does not exist."""


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
    guides: tuple[str, ...] = GUIDES

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
    if guide not in GUIDES:
        raise VariantError(f"no variants of {guide!r}: there are those of {', '.join(GUIDES)}")
    return [name for name, variant in VARIANTS.items() if guide in variant.guides]


def training(name: str, guide: str, generated: Path) -> ExpertTraining:
    """What a variant trains; the base learns from the set in the folder `generated`."""
    if name not in available(guide):
        raise VariantError(
            f"no variant {name!r} of {guide}: there are {', '.join(available(guide))}"
        )
    variant = VARIANTS[name]
    asked = variant.recorded(guide)
    return ExpertTraining(
        guide,
        asked["kind"],
        variant.experts,
        generated=None if variant.real or variant.labels else generated,
        first=variant.first,
        rank=asked["rank"],
        temperature=variant.temperature,
        **{habit.replace(" ", "_"): True for habit in variant.released},
    )


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
    made = settings(asked.tier, asked.guide, asked.whole, device, images)
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

    Raises `VariantError` for a name that is none before anything is trained, and `DistillError`
    where the finished training below `root` is another, such as one on other images.
    """
    ledger.commit()  # of the code that runs, not of what is committed meanwhile
    for name, asked in {name: training(name, guide, generated) for name in names}.items():
        folder = root / f"{guide}-{name}-{images}"
        train(asked, images, folder, device, tell)
        trained = distillation.finished(folder)[0]
        if ledger.find(distillation.STUDY, trained.recorded()) is None:
            tell(f"{name}: {distillation.run(folder, device).name}")
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
