"""The pixel contract: images are [B, C, H, W] floating tensors in [-1, 1].

Bytes, unit-range pixels, resizing, channel counts and tiling are dealt with here only. Functions
that refuse their input raise `InputError`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ppap_lib.arguments import checked, shown
from ppap_lib.errors import InputError

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601 luma."""


def check_images(images: Tensor, channels: int | None = None, tolerance: float = 1e-3) -> Tensor:
    """Return the images if they keep the contract, and raise the error that says what is wrong.

    Parameters
    ----------
    images
        Floating [B, C, H, W] in [-1, 1].
    channels
        The number of channels that they must have, if any.
    tolerance
        How far pixels may lie outside.

    Raises
    ------
    InputError
        For another type, shape, number of channels or range.
    """
    _require_images(images)
    if not images.is_floating_point():
        raise InputError(
            f"images are floating [B, C, H, W]; this is {images.dtype} {list(images.shape)}"
        )
    if channels is not None and images.shape[1] != channels:
        raise InputError(f"expected {channels} channels, not {images.shape[1]}")
    if images.numel():
        low, high = images.aminmax()
        if not (low >= -1 - tolerance and high <= 1 + tolerance):
            raise InputError(
                f"pixels are in [{low:.4g}, {high:.4g}], expected [-1, 1]: use "
                f"from_bytes or from_unit"
            )
    return images


def _require_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise InputError(f"images are floating [B, C, H, W]; this is {shown(images)}")


@checked
def from_bytes(pixels: Tensor) -> Tensor:
    """Return uint8 `pixels` [..., H, W] as float32: 0 becomes -1, 255 becomes 1."""
    if pixels.dtype != torch.uint8:
        raise InputError(f"expected uint8 pixels, not {pixels.dtype}")
    return pixels.float().mul_(2 / 255).sub_(1)


@checked
def to_bytes(images: Tensor) -> Tensor:
    """Return `images` in [-1, 1] as uint8, rounded to the nearest byte and clamped."""
    # In float32 at least: bfloat16 cannot tell neighbouring bytes apart.
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def from_unit(pixels: Tensor) -> Tensor:
    """Return `pixels` in [0, 1], [B, C, H, W], as images in [-1, 1]."""
    _require_images(pixels)
    return check_images(pixels * 2 - 1)


@checked
def to_unit(images: Tensor) -> Tensor:
    """Return `images` in [-1, 1] as pixels in [0, 1], clamped, for plotting."""
    return images.add(1).div(2).clamp(0, 1)


@checked
def pad_to(images: Tensor, size: int, value: float = -1.0) -> Tensor:
    """Return the images [..., H, W] centred on a square of side `size`, filled with `value`."""
    if images.ndim < 2:
        raise InputError(f"expected images [..., H, W], not {list(images.shape)}")
    height, width = images.shape[-2:]
    if height > size or width > size:
        raise InputError(f"cannot pad {height}x{width} images to {size}x{size}: they are larger")
    left, top = (size - width) // 2, (size - height) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top), value=value)


@checked
def resize(images: Tensor, size: int) -> Tensor:
    """Return the images [B, C, H, W] as [B, C, size, size].

    Pixels are averaged over boxes where `size` divides the side of square images, and interpolated
    (bicubic, antialiased) otherwise; an image stays within its own range.
    """
    _require_images(images)
    if not images.is_floating_point():
        raise InputError(f"images are floating [B, C, H, W]; this is {shown(images)}")
    if size < 1:
        raise InputError(f"cannot resize to {size}x{size}: the side must be at least 1")
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    if height == width and height % size == 0:
        return F.avg_pool2d(images, height // size)
    resized = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    # Bicubic overshoots at edges: stay within each image's own range, which for a noisy x_t
    # is wider than [-1, 1].
    own = images.detach()
    return resized.clamp(own.amin((1, 2, 3), keepdim=True), own.amax((1, 2, 3), keepdim=True))


@checked
def with_channels(images: Tensor, channels: int) -> Tensor:
    """Return the images [B, C, H, W] with so many `channels`.

    Grey is repeated to RGB, RGB averaged to grey by luma; other numbers cannot be converted.
    """
    _require_images(images)
    have = images.shape[1]
    if have == channels:
        return images
    if have == 1 and channels > 0:
        return images.expand(-1, channels, -1, -1)
    if have == 3 and channels == 1:
        luma = torch.tensor(GREY, dtype=images.dtype, device=images.device)
        return (images * luma.view(1, 3, 1, 1)).sum(1, keepdim=True)
    raise InputError(f"cannot turn {have} channels into {channels}: grey (1) and RGB (3) convert")


@checked
def tile(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Return the images [B, C, H, W] as one [C, rows * H + gaps, columns * W + gaps].

    They lie row by row, `columns` in a row, with white gaps of `gap` pixels.
    """
    if columns < 1 or gap < 0:
        raise InputError(f"columns must be at least 1, and gaps 0, not {columns} and {gap}")
    if images.ndim != 4 or not len(images):
        raise InputError(f"tile takes at least one image [B, C, H, W], not {list(images.shape)}")
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = images.new_ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def save_sheet(images: Tensor, path: str | Path, columns: int = 8, gap: int = 1) -> None:
    """Write images as one picture, row by row.

    Parameters
    ----------
    images
        [B, C, H, W] in [-1, 1]: grey or RGB.
    path
        The file; its ending decides the format.
    columns, gap
        As for `tile`.
    """
    from PIL import Image

    sheet = to_bytes(tile(images.detach().cpu(), columns, gap)).permute(1, 2, 0).squeeze(-1)
    Image.fromarray(sheet.numpy()).save(path)
