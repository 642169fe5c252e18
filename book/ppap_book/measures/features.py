"""Features of images, by networks that were trained for something else.

Offline it is EfficientNet-Lite2 ("lite2") at its fixed input size; "inception" is torch-fidelity's,
whose weights are downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ppap_book.errors import StudyError
from ppap_lib import zoo
from ppap_lib.data.pixels import check_images, from_bytes, to_bytes, with_channels
from ppap_lib.files import weights
from ppap_lib.files.download import cache_folder, data_folder, download_file

ExtractorName = Literal["lite2", "inception"]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images by one extractor: `vectors` [N, D] and `logits` [N, K], float32.

    Stored reference features go without logits, which only generated images need.
    """

    vectors: Tensor
    extractor: str
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index) -> "Features":
        logits = None if self.logits is None else self.logits[index]
        return Features(self.vectors[index], self.extractor, logits)


class EfficientNet(nn.Module):
    """Pooled features and logits of a pretrained EfficientNet, from uint8 images of any size."""

    def __init__(self, name: str = "efficientnet_lite2", device: torch.device | str = "cpu"):
        super().__init__()
        self.model = zoo.load(name, device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network = self.model.network
        maps = network.forward_features(self.model.prepare(from_bytes(images)))
        vectors = network.forward_head(maps, pre_logits=True)
        return vectors, network.get_classifier()(vectors)


_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
_INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def inception_weights() -> Path:
    """The file of Inception's weights: in `$PPAP_DATA`, or downloaded once; verified.

    Raises `DataError`, which says what to put where, or `WeightsError`.
    """
    name, folder = _INCEPTION.rsplit("/", 1)[1], data_folder()
    path = cache_folder() / name
    if folder is not None and (folder / name).is_file():
        path = folder / name
    else:
        download_file(_INCEPTION, path, _INCEPTION_SHA256)
    weights.read(path, _INCEPTION_SHA256)  # torch-fidelity unpickles what it is given
    return path


class Inception(nn.Module):
    """torch-fidelity's Inception by `inception_weights`: 2048 features and logits."""

    def __init__(self, device: torch.device | str = "cpu"):
        from torch_fidelity.utils import create_feature_extractor

        super().__init__()
        outputs = ["2048", "logits_unbiased"]
        path = str(inception_weights())
        network = create_feature_extractor(
            "inception-v3-compat", outputs, cuda=False, feature_extractor_weights_path=path
        )
        self.network = network.to(device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(with_channels(images, 3))


EXTRACTORS: dict[str, Callable[..., nn.Module]] = {
    "lite2": partial(EfficientNet, "efficientnet_lite2"),
    "inception": Inception,
}


def extract(
    images: Tensor,
    extractor: str = "lite2",
    batch: int | None = None,
    device: torch.device | str = "cpu",
) -> Features:
    """Features of images [N, C, H, W] (uint8, or [-1, 1], which is first rounded to bytes).

    Generated and real images pass through bytes alike, so that quantisation is no difference.
    `batch` images are read at a time (default: by the device).
    """
    if extractor not in EXTRACTORS:
        raise StudyError(f"no extractor {extractor!r}: there are {', '.join(EXTRACTORS)}")
    if images.ndim != 4 or not len(images):
        raise StudyError(f"expected at least one of images [N, C, H, W], not {list(images.shape)}")
    if images.dtype != torch.uint8:
        images = to_bytes(check_images(images, tolerance=torch.inf))
    network = EXTRACTORS[extractor](device)
    batch = batch or (16 if torch.device(device).type == "cpu" else 250)
    parts = []
    with torch.no_grad():
        for chunk in images.split(batch):
            parts.append([part.float().cpu() for part in network(chunk.to(device))])
    vectors, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Features(vectors, extractor, logits)


def digest(extractor: str) -> str:
    """The sha256 of the extractor's weights."""
    lite2 = zoo.card("efficientnet_lite2").sha256 or ""
    return {"lite2": lite2, "inception": _INCEPTION_SHA256}[extractor]
