"""`Vision`: a classifier with its preprocessing, differentiable from pixels to logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppap_lib.data.pixels import pad_to, resize, with_channels
from ppap_lib.diffusion.denoisers import as_computed
from ppap_lib.errors import InputError, WeightsError


class Readout(nn.Module):
    """`network`'s logits [B, K] of the classes `chosen` among its own, in that order.

    Their softmax is p(class | the image is of one of them).
    """

    def __init__(self, network: nn.Module, chosen: Sequence[int]):
        super().__init__()
        self.network = network
        self.register_buffer("chosen", torch.tensor(chosen), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, self.chosen]


class Vision(nn.Module):
    """Images [B, C, H, W] of the pixel contract, any size, grey or RGB, to `network`'s output.

    Images that are not square are padded with black to one; then all are resized to `size`,
    converted to `channels`, and normalised by `mean` and `std`, which are in units of the
    contract: (x - mean) / std on [-1, 1], one for all channels or one for each; `of_unit` takes
    those of timm and torchvision. Noisy images beyond [-1, 1] pass as they are, so pixels in
    [0, 1] or 0..255 are not noticed: `images.from_unit` and `images.from_bytes` convert them.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        channels: int,
        classes: Sequence[str],
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ):
        super().__init__()
        for name, values in {"mean": mean, "std": std}.items():
            if len(values) not in (1, channels):
                raise WeightsError(f"{len(values)} values as {name}: expected 1 or {channels}")
        if not all(value > 0 for value in std):
            raise WeightsError(f"std must be positive, not {tuple(std)}")
        self.network = network
        self.size, self.channels, self.classes = size, channels, tuple(classes)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def of_unit(
        cls,
        network: nn.Module,
        size: int,
        channels: int,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> "Vision":
        """The same from statistics of pixels in [0, 1], as timm and torchvision give them."""
        mean, std = [2 * value - 1 for value in mean], [2 * value for value in std]
        return cls(network, size, channels, classes, mean, std)

    def prepare(self, images: Tensor) -> Tensor:
        """What the network eats: [B, channels, size, size], normalised, in its dtype."""
        if not images.is_floating_point():
            raise InputError(
                f"expected floating pixels in [-1, 1], not {images.dtype}: use images.from_bytes"
            )
        images = as_computed(images, self.network)
        height, width = images.shape[-2:]
        if height != width:
            images = pad_to(images, max(height, width))
        resized = resize(with_channels(images, self.channels), self.size)
        return (resized - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] for the K `classes`."""
        logits = self.network(self.prepare(images))
        if logits.shape[1:] != (len(self.classes),):
            raise WeightsError(
                f"the network returned {list(logits.shape)} for {len(images)} images and "
                f"{len(self.classes)} classes: expected one logit per class"
            )
        return logits
