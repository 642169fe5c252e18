"""Networks of clean images with their preprocessing, differentiable from pixels to output."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.data.pixels import pad_to, resize, with_channels
from ppap_lib.diffusion.denoisers import as_computed
from ppap_lib.errors import InputError


class Readout(nn.Module):
    """A classifier of some classes among a network's own.

    The softmax of its logits is p(class | the image is of one of them).

    Parameters
    ----------
    network
        Returns logits [B, N].
    indices
        The classes' indices among the N, in the order of the logits that are returned.
    """

    def __init__(self, network: nn.Module, indices: Sequence[int]):
        super().__init__()
        self.network = network
        self.register_buffer("indices", torch.tensor(indices), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for the K classes of what the network reads as `images`."""
        return self.network(images)[:, self.indices]


class Vision(nn.Module):
    """A network that reads images of the pixel contract, of any size, grey or RGB.

    Images that are not square are padded with black to one; then all are resized to `size`,
    converted to `channels`, and normalised. Noisy images beyond [-1, 1] pass as they are, so pixels
    in [0, 1] or 0..255 are not noticed: `from_unit` and `from_bytes` of `data.pixels` convert them.

    Parameters
    ----------
    network
        Reads [B, channels, size, size], and returns logits or any other output.
    size, channels
        Of the images that the network reads.
    classes
        Names of the classes whose logits it returns; None for a network that returns others.
    mean, std
        Statistics of pixels in [-1, 1], one for all channels or one for each: the network reads
        (x - mean) / std. `of_unit` takes those of timm and torchvision.

    Raises
    ------
    InputError
        If there are not as many statistics, or a std is not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        channels: int,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ):
        super().__init__()
        for name, values in {"mean": mean, "std": std}.items():
            if len(values) not in (1, channels):
                raise InputError(f"{len(values)} values as {name}: expected 1 or {channels}")
        if not all(value > 0 for value in std):
            raise InputError(f"std must be positive, not {tuple(std)}")
        self.network = network
        self.size, self.channels = size, channels
        self.classes = None if classes is None else tuple(classes)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def of_unit(
        cls,
        network: nn.Module,
        size: int,
        channels: int,
        classes: Sequence[str] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> "Vision":
        """Make a `Vision` from statistics of pixels in [0, 1], as timm and torchvision give them.

        Parameters
        ----------
        network, size, channels, classes
            As for the class.
        mean, std
            One for all channels or one for each, in units of [0, 1].
        """
        mean, std = [2 * value - 1 for value in mean], [2 * value for value in std]
        return cls(network, size, channels, classes, mean, std)

    def prepare(self, images: Tensor) -> Tensor:
        """Return the network's input [B, channels, size, size], normalised, in its dtype.

        Parameters
        ----------
        images
            Floating [B, C, H, W] in [-1, 1], or beyond where they are noisy.

        Raises
        ------
        InputError
            For pixels that are not floating, or channels that cannot be converted.
        """
        if not images.is_floating_point():
            raise InputError(
                f"expected floating pixels in [-1, 1], not {images.dtype}: use "
                f"data.pixels.from_bytes"
            )
        images = as_computed(images, self.network)
        height, width = images.shape[-2:]
        if height != width:
            images = pad_to(images, max(height, width))
        resized = resize(with_channels(images, self.channels), self.size)
        return (resized - self.mean) / self.std

    def forward(self, images: Tensor) -> Any:
        """Return the network's output for `images`: logits [B, K] where it has K classes.

        Raises
        ------
        InputError
            As `prepare` does; and if there are `classes`, and the network returns something else
            than a logit for each.
        """
        output = self.network(self.prepare(images))
        if self.classes is not None:
            expected = (len(images), len(self.classes))
            if not isinstance(output, Tensor) or output.shape != expected:
                shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise InputError(
                    f"the network returned {shape} for {len(images)} images and "
                    f"{len(self.classes)} classes: expected one logit per class"
                )
        return output
