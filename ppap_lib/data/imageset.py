"""`ImageSet`: labelled images as one uint8 tensor, read out in the pixel contract."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppap_lib.data.pixels import from_bytes
from ppap_lib.errors import DataError

Index = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images.

    `pixels` uint8 [N, C, H, W]; `labels` int64 [N], indices into `classes`; `source` says in
    words where the images came from, and `stand_in` that they are not the ones asked for:
    a page then shows `source`. `boxes`, where known, float [N, 4]: left, top, right, bottom
    edges in pixels, so that [0, 0, W, H] is the whole image.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    boxes: Tensor | None = None
    stand_in: bool = False

    def __post_init__(self):
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise DataError(
                f"pixels are uint8 [N, C, H, W], not {self.pixels.dtype} {list(self.pixels.shape)}"
            )
        count = len(self.pixels)
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            raise DataError(
                f"{count} images need int64 labels [{count}], not {self.labels.dtype} "
                f"{list(self.labels.shape)}"
            )
        if count and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels are in [{self.labels.min()}, {self.labels.max()}], but there are "
                f"{len(self.classes)} classes"
            )
        if self.boxes is not None and self.boxes.shape != (count, 4):
            raise DataError(f"boxes are [{count}, 4], not {list(self.boxes.shape)}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.pixels.shape[1:])

    def images(self, index: Index = slice(None)) -> Tensor:
        """The chosen images in the pixel contract: float32 [B, C, H, W] in [-1, 1]."""
        return from_bytes(self.pixels[self._positions(index)])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images [B, C, H, W], labels [B]) in order, B = `size` but for the last."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.images(part), self.labels[part]

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with its tensors on `device`."""
        boxes = None if self.boxes is None else self.boxes.to(device)
        return replace(
            self, pixels=self.pixels.to(device), labels=self.labels.to(device), boxes=boxes
        )

    def subset(self, index: Index) -> "ImageSet":
        """The chosen images; classes and labels stay."""
        chosen = self._positions(index)
        boxes = None if self.boxes is None else self.boxes[chosen]
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen], boxes=boxes)

    def first(self, count: int) -> "ImageSet":
        """The first `count` images, in the set's order, and a `source` that says so."""
        if not 1 <= count <= len(self):
            raise DataError(f"asked for the first {count} of {len(self)} images: {self.source}")
        source = f"the first {count} of {self.source}"
        return replace(self.subset(slice(count)), source=source)

    def per_class(self, count: int) -> "ImageSet":
        """The first `count` images of every class, in the set's order; an error if fewer."""
        positions = [(self.labels == k).nonzero().flatten() for k in range(len(self.classes))]
        short = [
            f"{name} ({len(where)})"
            for name, where in zip(self.classes, positions, strict=True)
            if len(where) < count
        ]
        if short:
            raise DataError(f"asked for {count} images a class; there are fewer of {short}")
        return self.subset(torch.cat([where[:count] for where in positions]).sort().values)

    def evenly(self, count: int) -> "ImageSet":
        """At most `count` images, the first of every class, equally many; at least one of each."""
        there = int(self.labels.bincount(minlength=len(self.classes)).min())
        return self.per_class(max(1, min(count // len(self.classes), there)))

    def _positions(self, index: Index) -> slice | Tensor:
        if isinstance(index, slice):
            return index
        chosen = torch.as_tensor(index, device=self.pixels.device)
        if chosen.dtype == torch.bool:
            raise DataError("choose images by positions, not by a mask: use mask.nonzero()")
        chosen = chosen.to(torch.int64).flatten()
        if chosen.numel() and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise DataError(f"positions must be within the {len(self)} images of the set")
        return chosen
