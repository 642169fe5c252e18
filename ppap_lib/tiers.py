"""The tiers: named presets of image size, classes, networks and noise schedule. Nothing else.

One code path serves all of them; a tier only fills in its arguments. Its data set has its name in
`ppap_lib.data`, and studies have presets of how many images they draw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from ppap_lib.classes import imagenet
from ppap_lib.errors import PpapError
from ppap_lib.networks.adm import UNet
from ppap_lib.schedule import Schedule

TierName = Literal["fashion", "tin10", "imagenet256"]
GuideName = Literal["resnet18", "vit", "lite0", "resnet50", "deit_s"]


class TierError(PpapError, ValueError):
    """An unknown tier or an unknown network of a tier."""


_SMALL_DENOISER: Mapping[str, Any] = MappingProxyType(
    {
        "model_channels": 32,
        "num_res_blocks": 1,
        "attention_resolutions": (4,),
        "channel_mult": (1, 2, 4),
        "num_head_channels": 32,
        "use_scale_shift_norm": True,
    }
)


def _small_resnet18(channels: int, num_classes: int) -> nn.Module:
    """A ResNet-18 of a quarter width, 3x3 stride-1 stem, last map 4x4 at 32x32 input."""
    import timm

    # timm takes the width behind the stem from `stem_width` for its deep stem only.
    network = timm.create_model(
        "resnet18",
        in_chans=channels,
        num_classes=num_classes,
        channels=(16, 32, 64, 128),
        stem_type="deep",
        stem_width=8,
    )
    network.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _small_vit(channels: int, num_classes: int) -> nn.Module:
    """A DeiT-style transformer: patch 4 (an 8x8 map at 32x32), width 96, depth 6, 3 heads."""
    import timm

    return timm.create_model(
        "deit_tiny_patch16_224",
        in_chans=channels,
        num_classes=num_classes,
        img_size=32,
        patch_size=4,
        embed_dim=96,
        depth=6,
        num_heads=3,
    )


def _small_judge(channels: int, num_classes: int) -> nn.Module:
    """A third architecture: it judges samples and never guides.

    A plain chain of convolutions as in VGG (Simonyan & Zisserman 2015) with batch-norm and
    global pooling: no skip connections, no attention, and the cheapest of the three to train.
    """
    layers: list[nn.Module] = []
    for width, depth in ((16, 1), (32, 1), (64, 2), (128, 2)):
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(channels, num_classes),
    )


_CLASSIFIERS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "resnet18": _small_resnet18,
    "vit": _small_vit,
    "judge": _small_judge,
}


@dataclass(frozen=True)
class Tier:
    """One preset. `wnids` are ImageNet's synset ids where the classes have them.

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

    def denoiser(self, **changes: Any) -> UNet:
        """The tier's untrained denoiser: predicts v and ADM's variance channels.

        `changes` are arguments of `UNet` that shall differ from the preset's.
        """
        self._trains("denoiser")
        arguments = {**_SMALL_DENOISER, **changes}
        return UNet(in_channels=self.channels, out_channels=2 * self.channels, **arguments)

    def classifier(self, name: str) -> nn.Module:
        """An untrained classifier of the tier: 'resnet18' and 'vit' guide, 'judge' judges."""
        self._trains(name)
        if name not in _CLASSIFIERS:
            raise TierError(f"no classifier {name!r}: there are {', '.join(_CLASSIFIERS)}")
        return _CLASSIFIERS[name](self.channels, len(self.classes))

    def _trains(self, part: str) -> None:
        if self.published:
            raise TierError(
                f"{self.name} trains no networks, its {part} is a published one: "
                f"zoo.load({self.named(part)!r})"
            )


@cache
def _fashion() -> Tier:
    return Tier(
        name="fashion",
        channels=1,
        size=32,
        classes=(
            "T-shirt",
            "trousers",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
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
        raise TierError(f"no tier {name!r}: there are {', '.join(_TIERS)}")
    return _TIERS[name]()
