"""The small tiers' own networks."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

SMALL_DENOISER: Mapping[str, Any] = MappingProxyType(
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


CLASSIFIERS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "resnet18": _small_resnet18,
    "vit": _small_vit,
    "judge": _small_judge,
}
