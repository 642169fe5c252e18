"""`Vision`: a classifier with its preprocessing, differentiable from pixels to logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppap_lib import images as contract


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
    contract: (x - mean) / std on [-1, 1]. Noisy images beyond [-1, 1] pass as they are.
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
        self.network = network
        self.size, self.channels, self.classes = size, channels, tuple(classes)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """What the network eats: [B, channels, size, size], normalised."""
        height, width = images.shape[-2:]
        if height != width:
            images = contract.pad_to(images, max(height, width))
        resized = contract.resize(contract.with_channels(images, self.channels), self.size)
        return (resized - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] for the K `classes`."""
        return self.network(self.prepare(images))
