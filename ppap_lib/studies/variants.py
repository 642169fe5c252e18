"""Ablations of PPAP-5's training: one thing is changed at a time, and each result guides.

Every variant is one command of `python -m ppap_lib.distill`, so that it can be trained by hand,
too; the base is PPAP-5 with the presets of its guide, at the same number of images.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from ppap_lib import ledger
from ppap_lib.distill.__main__ import main as distill
from ppap_lib.distill.fitting import UPDATES
from ppap_lib.studies import ablation, distillation, guidance
from ppap_lib.train.recipes import SUMMARY


class VariantError(ValueError):
    """A variant that does not exist, or whose training stopped."""


@dataclass(frozen=True)
class Variant:
    """What differs from the base. `supervised`: the same updates, trained with labels.

    `real`: taught on the tier's photographs, without their labels, instead of generated images.
    """

    options: tuple[str, ...] = ()
    supervised: bool = False
    real: bool = False


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "base": Variant(),
        "experts-1": Variant(("--experts", "1")),
        "experts-2": Variant(("--experts", "2")),
        "experts-10": Variant(("--experts", "10")),
        "rank-1": Variant(("--rank", "1")),
        "rank-4": Variant(("--rank", "4")),
        "labels": Variant(supervised=True),
        "real": Variant(real=True),
        "first-500": Variant(("--first", "500")),
        "first-2000": Variant(("--first", "2000")),
        "temperature-0.5": Variant(("--temperature", "0.5")),
        "temperature-1": Variant(("--temperature", "1")),
        "warm-start": Variant(("--warm-start",)),
        "shared-time": Variant(("--shared-time",)),
        "no-scale": Variant(("--no-scale",)),
    }
)
"""By name: experts, rank, what labels and photographs are worth, and what was released."""


def command(
    name: str, guide: str, data: Path, images: int, folder: Path, device: str = "auto"
) -> list[str]:
    """The arguments of `python -m ppap_lib.distill` that train a variant, or go on with a run."""
    if name not in VARIANTS:
        raise VariantError(f"no variant {name!r}: there are {', '.join(VARIANTS)}")
    variant = VARIANTS[name]
    made = ["supervised" if variant.supervised else "transfer", "--guide", guide]
    if variant.supervised:
        made += ["--rank", str(UPDATES[guide].rank)]
    else:
        made += ["--labelled"] if variant.real else ["--data", str(data)]
    made += ["--images", str(images), "--folder", str(folder), "--device", device]
    return [*made, "--resume", "--quiet", *variant.options]


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
    n: int = 200,
    blocks: int = 3,
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
