"""Networks of clean images with their preprocessing, differentiable from pixels to output."""

from collections.abc import Iterable, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.data.pixels import pad_to, resize, with_channels
from ppap_lib.diffusion.denoisers import check_function, dtype_of, has_train_mode, shown
from ppap_lib.errors import InputError
from ppap_lib.parameters import real, whole


class _Around(nn.Module):
    """A module around others, of which some cannot be switched between train and eval mode."""

    def train(self, mode: bool = True) -> "_Around":
        """Set the mode of the module, and of all inside that have one."""
        self.training = mode
        for module in filter(has_train_mode, self.children()):
            module.train(mode)
        return self


def logits_of(network: nn.Module, images: Tensor, classes: int | None = None) -> Tensor:
    """Return a classifier's logits [B, K] of `images`.

    Parameters
    ----------
    network
        The classifier.
    images
        Its input [B, ...].
    classes
        K, where it is known.

    Raises
    ------
    InputError
        If the network returns anything else, such as an object with logits.
    """
    output = network(images)
    fits = isinstance(output, Tensor) and output.ndim == 2 and len(output) == len(images)
    if not fits or classes not in (None, output.shape[1]):
        raise InputError(
            f"the network returned {shown(output)} for {len(images)} images"
            f"{'' if classes is None else f' and {classes} classes'}: expected one logit per "
            f"class; where they are part of its output, give a module that returns that part, "
            f"such as network(x).logits"
        )
    return output


class Readout(_Around):
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
        check_function("a network", network)
        self.network = network
        if not isinstance(indices, Iterable):
            raise InputError(f"indices are a sequence of class indices, not {indices!r}")
        indices = [whole("a class index", index, 0) for index in indices]
        self.fewest = max(indices, default=-1) + 1
        self.register_buffer("indices", torch.tensor(indices), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for the K classes of what the network reads as `images`.

        Raises
        ------
        InputError
            If the network returns no logits, or not of all these classes.
        """
        logits = logits_of(self.network, images)
        if logits.shape[1] < self.fewest:
            raise InputError(
                f"the network returned {logits.shape[1]} logits: expected at least {self.fewest}, "
                f"of which some are read out"
            )
        return logits[:, self.indices]


class Vision(_Around):
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
            if not isinstance(values, Sized) or len(values) not in (1, channels):
                count = len(values) if isinstance(values, Sized) else values
                raise InputError(f"{count} values as {name}: expected 1 or {channels}")
            for value in values:
                real(name, value)
        if not all(value > 0 for value in std):
            raise InputError(f"std must be positive, not {tuple(std)}")
        check_function("a network", network)
        self.network = network
        self.size, self.channels = whole("size", size, 1), whole("channels", channels, 1)
        if not isinstance(classes, Iterable | None):
            raise InputError(f"classes are a sequence of names, not {classes!r}")
        self.classes = None if classes is None else tuple(classes)
        for name, values in {"mean": mean, "std": std}.items():
            statistics = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, statistics, persistent=False)

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
            For anything else, or channels that cannot be converted.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else shown(images)
            raise InputError(
                f"expected floating pixels in [-1, 1], not {kind}: use data.pixels.from_bytes"
            )
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise InputError(f"expected images [B, C, H, W], not {list(images.shape)}")
        dtype = dtype_of(self.network, images.dtype)
        images = images.to(torch.promote_types(dtype, torch.float32))  # halves cannot be resized
        height, width = images.shape[-2:]
        if height != width:
            images = pad_to(images, max(height, width))
        resized = resize(with_channels(images, self.channels), self.size)
        return ((resized - self.mean) / self.std).to(dtype)

    def forward(self, images: Tensor) -> Any:
        """Return the network's output for `images`: logits [B, K] where it has K classes.

        Raises
        ------
        InputError
            As `prepare` does; and if there are `classes`, and the network returns something else
            than a logit for each.
        """
        prepared = self.prepare(images)
        if self.classes is None:
            return self.network(prepared)
        return logits_of(self.network, prepared, len(self.classes))
