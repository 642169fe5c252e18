"""Power of images by spatial frequency: layout, detail, and noise.

Frequencies are in cycles per image: 1 is one period across the whole picture, half the side the
finest that the pixels can hold.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_lib.arguments import checked


def frequencies(height: int, width: int) -> Tensor:
    """Radial frequency of every bin of `torch.fft.fft2`: float64 [H, W], in cycles per image."""
    rows, columns = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in (height, width))
    return torch.hypot(rows[:, None], columns[None, :])


@checked
def band_powers(images: Tensor, edges: Sequence[float]) -> Tensor:
    """Power of each image [B, C, H, W] in the bands that `edges` cut, float64 [B, len(edges) + 1].

    Bands are half-open, [0, e_0), [e_0, e_1), ..., [e_last, infinity), the first with the mean.
    By Parseval's theorem an image's powers sum to its mean squared pixel.
    """
    _check(images)
    edges = list(edges)
    if not edges or not all(a < b for a, b in pairwise((0, *edges))):
        raise StudyError(f"band edges are positive and rise strictly, not {edges}")
    spectrum = torch.fft.fft2(images.double(), norm="forward").abs().square().mean(1)
    cuts = torch.tensor(edges, dtype=torch.float64)
    band = torch.bucketize(frequencies(*images.shape[-2:]), cuts, right=True).to(images.device)
    powers = [(spectrum * (band == k)).sum((1, 2)) for k in range(len(edges) + 1)]
    return torch.stack(powers, 1)


@checked
def noise_sigma_mad(images: Tensor) -> Tensor:
    """Standard deviation of the white noise on each image [B, C, H, W], float64 [B].

    The median absolute diagonal Haar coefficient at the finest scale, over .6745, which it is for
    a standard normal draw (Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage,
    1994, Biometrika 81): edges move a median little. In units of the pixels; at odd sides the
    last row or column does not count.
    """
    _check(images)
    height, width = (side // 2 * 2 for side in images.shape[-2:])
    if not height * width:
        raise StudyError(f"expected at least 2 x 2 pixels, not {list(images.shape[-2:])}")
    pixels = images[..., :height, :width].double()
    diagonal = pixels.unflatten(-1, (-1, 2)).diff(dim=-1).squeeze(-1)
    diagonal = diagonal.unflatten(-2, (-1, 2)).diff(dim=-2).squeeze(-2) / 2
    return diagonal.abs().flatten(1).median(1).values / 0.6745


def _check(images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise StudyError(
            f"images are floating [B, C, H, W]; this is {images.dtype} {list(images.shape)}"
        )
    if not images.numel():
        raise StudyError(f"expected at least one pixel of an image, not {list(images.shape)}")
