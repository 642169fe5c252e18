"""Drawn stand-ins: simple coloured shapes, for pages where no photographs can be had."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppap_lib.data.imageset import ImageSet
from ppap_lib.data.pixels import GREY, to_bytes
from ppap_lib.diffusion.noise import seed_labels

_SHAPES = 5  # disc, ring, square, bar, cross


def drawn(classes: Sequence[str], count: int, shape: tuple[int, int, int]) -> ImageSet:
    """`count` pictures of `shape` (C, S, S): one shape and colour per class, on a soft ground.

    Picture i depends on i alone, and is of class i mod classes. Place, size and shading vary;
    nothing else about them resembles photographs, and `source` says so.
    """
    channels, size, _ = shape
    target = seed_labels(range(count), len(classes))
    pixels = torch.stack([_picture(i, int(k), len(classes), size) for i, k in enumerate(target)])
    if channels == 1:
        pixels = (pixels * torch.tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
    return ImageSet(
        to_bytes(pixels),
        target,
        tuple(classes),
        f"{count:,} drawn pictures, one coloured shape per class: these are not photographs",
        stand_in=True,
    )


def _picture(seed: int, label: int, classes: int, size: int) -> Tensor:
    """One picture [3, size, size] in [-1, 1]."""
    draw = torch.rand(6, generator=torch.Generator().manual_seed(seed))
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    ground = 0.3 * (draw[0] - 0.5) + 0.4 * (draw[1] * x + (1 - draw[1]) * y)
    inside = _inside(label % _SHAPES, x - 0.6 * (draw[2] - 0.5), y - 0.6 * (draw[3] - 0.5))
    radius = 0.45 + 0.25 * draw[4]
    mask = torch.sigmoid((radius - inside) * size)  # edges one pixel soft
    angle = 2 * math.pi * (label / classes + torch.arange(3) / 3)
    colour = (0.8 * torch.cos(angle) * (0.8 + 0.2 * draw[5])).view(3, 1, 1)
    return ground * (1 - mask) + colour * mask


def _inside(kind: int, x: Tensor, y: Tensor) -> Tensor:
    """A distance that is below the radius inside the shape."""
    far = torch.hypot(x, y)
    return (
        far,
        (far - 0.35).abs() + 0.3,
        torch.maximum(x.abs(), y.abs()),
        torch.maximum(x.abs(), 3 * y.abs()),
        torch.maximum(torch.minimum(x.abs(), y.abs()) * 3, torch.maximum(x.abs(), y.abs())),
    )[kind]
