"""The tiers: named presets of image size, classes, networks and noise schedule. Nothing else.

One code path serves all of them; a tier only fills in its arguments. Its data set has its name in
`ppap_lib.data`, and studies have presets of how many images they draw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppap_lib.data import fashion
from ppap_lib.data.imagenet_classes import imagenet
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError, TrainingError
from ppap_lib.networks.adm import Architecture, UNet
from ppap_lib.networks.classifiers import CLASSIFIERS, SMALL_DENOISER
from ppap_lib.training.fit import fit
from ppap_lib.training.objectives import ClassifierLoss, DenoiserLoss, Objective
from ppap_lib.training.settings import Settings
from ppap_lib.zoo.presets import NETWORKS, preset

TierName = Literal["fashion", "tin10", "imagenet256"]


GuideName = Literal["resnet18", "vit", "lite0", "resnet50", "deit_s"]


@dataclass(frozen=True)
class Tier:
    """One preset of data and networks.

    `wnids` are ImageNet's synset ids where the classes have them.

    `reference` is the split that distances of generated images are measured to. `published` are
    the zoo's names of the networks that others trained, by part ("denoiser", "judge"); a tier with
    any trains none itself.
    """

    name: str
    channels: int
    size: int
    classes: tuple[str, ...]
    wnids: tuple[str, ...] = ()
    guides: tuple[str, ...] = ("resnet18", "vit")
    reference: Literal["train", "test"] = "test"
    published: Mapping[str, str] = field(default_factory=dict)
    schedule: Callable[[], Schedule] = field(default=Schedule.linear, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.size, self.size

    def named(self, part: str) -> str:
        """The name in the zoo of the tier's "denoiser", "judge", or guide."""
        return self.published.get(part, f"{self.name}/{part}")

    @property
    def architecture(self) -> Architecture:
        """The architecture of the tier's denoiser, which predicts v and ADM's variance channels."""
        self._trains("denoiser")
        return replace(SMALL_DENOISER, in_channels=self.channels, out_channels=2 * self.channels)

    def denoiser(self) -> UNet:
        """Make the tier's untrained denoiser."""
        return UNet(self.architecture)

    def classifier(self, name: str) -> nn.Module:
        """Make an untrained classifier of the tier: 'resnet18' and 'vit' guide, 'judge' judges."""
        self._trains(name)
        if name not in CLASSIFIERS:
            raise InputError(f"no classifier {name!r}: there are {', '.join(CLASSIFIERS)}")
        return CLASSIFIERS[name](self.channels, len(self.classes))

    def _trains(self, part: str) -> None:
        if self.published:
            raise InputError(
                f"{self.name} trains no networks, its {part} is a published one: "
                f"zoo.load({self.named(part)!r})"
            )


@cache
def _fashion() -> Tier:
    return Tier(
        name="fashion",
        channels=1,
        size=fashion.SIZE,
        classes=fashion.CLASSES,
    )


@cache
def _tin10() -> Tier:
    return Tier(
        name="tin10",
        channels=3,
        size=32,
        classes=(
            "goldfish",
            "king penguin",
            "Chihuahua",
            "Persian cat",
            "ladybug",
            "monarch",
            "school bus",
            "orange",
            "pizza",
            "alp",
        ),
        wnids=(
            "n01443537",
            "n02056570",
            "n02085620",
            "n02123394",
            "n02165456",
            "n02279972",
            "n04146614",
            "n07747607",
            "n07873807",
            "n09193705",
        ),
        # As for FID on ImageNet; the 500 test images would be too few for the protocol.
        reference="train",
    )


@cache
def _imagenet256() -> Tier:
    """The paper's: ADM at 256x256 and off-the-shelf classifiers. Its judge is of a third kind."""
    return Tier(
        name="imagenet256",
        channels=3,
        size=256,
        classes=imagenet().names,
        wnids=imagenet().wnids,
        guides=("resnet50", "deit_s"),
        published={"denoiser": "adm_256x256_uncond", "judge": "efficientnet_lite0"},
    )


# Functions, since ImageNet's names are read from timm, which takes its time to import.
_TIERS: Mapping[str, Callable[[], Tier]] = {
    "fashion": _fashion,
    "tin10": _tin10,
    "imagenet256": _imagenet256,
}


def tier(name: str) -> Tier:
    """The tier of this name."""
    if name not in _TIERS:
        raise InputError(f"no tier {name!r}: there are {', '.join(_TIERS)}")
    return _TIERS[name]()


def untrained_network(tier: Tier, what: str, seed: int) -> nn.Module:
    """Return the tier's untrained denoiser or classifier, initialised by `seed` alone."""
    _known(what)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return tier.denoiser() if what == "denoiser" else tier.classifier(what)


def training_objective(tier: Tier, what: str, **overrides: Any) -> Objective:
    """Return what the tier's network is trained by: the preset's loss, with `overrides`."""
    _known(what)
    arguments = {**preset(tier.name, what).loss, **overrides}
    if what == "denoiser":
        return DenoiserLoss(tier.schedule(), **arguments)
    return ClassifierLoss(**arguments)


def train_network(
    tier: Tier,
    what: str,
    data: Tensor,
    labels: Tensor,
    settings: Settings,
    folder: str | Path,
    *,
    network: nn.Module | None = None,
    loss: Objective | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a tier's network by `training.fit.fit`, and return the summary.

    Parameters
    ----------
    tier : Tier
        Whose network and objective.
    what : str
        "denoiser", or a classifier's name.
    data : Tensor
        uint8 [N, C, H, W], of the tier's shape.
    labels : Tensor
        int64 [N].
    settings, folder
        As for `fit`.
    network : nn.Module, optional
        Another network in place of the tier's own; it is trained in place.
    loss : Objective, optional
        Another objective in place of the tier's.
    **options
        Further arguments of `fit`, such as `device` and `resume`.

    Raises
    ------
    TrainingError
        If the images have another shape than the tier's, or as `fit` does.
    """
    if tuple(data.shape[1:]) != tier.shape:
        raise TrainingError(
            f"tier {tier.name} trains on images {list(tier.shape)}, not {list(data.shape[1:])}"
        )
    return fit(
        untrained_network(tier, what, settings.seed) if network is None else network,
        training_objective(tier, what) if loss is None else loss,
        data,
        labels,
        settings,
        folder,
        title=f"{tier.name}/{what}",
        facts={"tier": tier.name, "network": what},
        **options,
    )


def _known(what: str) -> None:
    if what not in NETWORKS:
        raise InputError(f"no network {what!r}: there are {', '.join(NETWORKS)}")
