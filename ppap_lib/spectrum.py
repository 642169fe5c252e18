"""Power of images by spatial frequency: what is layout, and what is detail.

Frequencies are in cycles per image: 1 is one period across the whole picture, half the side the
finest that the pixels can hold.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


class SpectrumError(ValueError):
    """Images or frequencies that have no power spectrum."""


def frequencies(height: int, width: int) -> Tensor:
    """Radial frequency of every bin of `torch.fft.fft2`: float64 [H, W], in cycles per image."""
    rows, columns = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in (height, width))
    return torch.hypot(rows[:, None], columns[None, :])


def band_powers(images: Tensor, edges: Sequence[float]) -> Tensor:
    """Power of each image [B, C, H, W] in the bands that `edges` cut, float64 [B, len(edges) + 1].

    Bands are half-open, [0, e_0), [e_0, e_1), ..., [e_last, infinity), the first with the mean.
    By Parseval's theorem an image's powers sum to its mean squared pixel.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise SpectrumError(
            f"images are floating [B, C, H, W]; this is {images.dtype} {list(images.shape)}"
        )
    if not edges or edges[0] <= 0 or any(a >= b for a, b in pairwise(edges)):
        raise SpectrumError(f"band edges are positive and rise strictly, not {list(edges)}")
    spectrum = torch.fft.fft2(images.double(), norm="forward").abs().square().mean(1)
    cuts = torch.tensor(edges, dtype=torch.float64)
    band = torch.bucketize(frequencies(*images.shape[-2:]), cuts, right=True).to(images.device)
    powers = [(spectrum * (band == k)).sum((1, 2)) for k in range(len(edges) + 1)]
    return torch.stack(powers, 1)
