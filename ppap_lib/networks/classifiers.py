"""Networks for images of 32x32 pixels: what a CPU trains in minutes, and the book's tiers use.

`SMALL_DENOISER` is the architecture of a denoiser. `CLASSIFIERS` makes untrained classifiers by
name: two guides of about 0.7 million parameters, a residual network and a transformer, and a judge
of a third architecture, which scores samples and never guides.

>>> network = CLASSIFIERS["judge"](channels=1, num_classes=10)
>>> sum(parameter.numel() for parameter in network.parameters())
283386
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from ppap_lib.networks.blocks import Architecture

__all__ = ["CLASSIFIERS", "SMALL_DENOISER", "judge", "small_resnet18", "small_vit"]

SMALL_DENOISER = Architecture(
    in_channels=1,
    model_channels=32,
    out_channels=2,
    num_res_blocks=1,
    attention_resolutions=(4,),
    channel_mult=(1, 2, 4),
    num_head_channels=32,
    use_scale_shift_norm=True,
)
"""A `UNet` of 2.9 million parameters for grey images, with learned variance; it attends at 8x8."""


def small_resnet18(channels: int, num_classes: int) -> nn.Module:
    """Make a ResNet-18 of a quarter of the width, with a 3x3 stem and a last map of 4x4.

    Parameters
    ----------
    channels
        Channels of the images [B, C, 32, 32].
    num_classes
        Number of logits.
    """
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


def small_vit(channels: int, num_classes: int) -> nn.Module:
    """Make a DeiT-style transformer: patches of 4 (an 8x8 map), width 96, depth 6, 3 heads.

    Parameters
    ----------
    channels
        Channels of the images [B, C, 32, 32].
    num_classes
        Number of logits.
    """
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


def judge(channels: int, num_classes: int) -> nn.Module:
    """Make a plain chain of convolutions as in VGG, with batch-norm and global pooling.

    It has no skip connections and no attention, so that it fails where guides do not, and is the
    cheapest of the three to train.

    Parameters
    ----------
    channels
        Channels of the images [B, C, H, W]; H and W are at least 8.
    num_classes
        Number of logits.

    References
    ----------
    Simonyan & Zisserman 2015.
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


CLASSIFIERS: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {"resnet18": small_resnet18, "vit": small_vit, "judge": judge}
)
"""Makers `(channels, num_classes) -> network` by name."""
