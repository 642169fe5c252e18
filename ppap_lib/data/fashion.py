"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, MIT licence): 28x28 photographs, padded to 32x32.

From Debian's package `dataset-fashion-mnist`, from `$PPAP_DATA`, or downloaded; and the first
100 test images of every class, which ship with this package.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppap_lib.data.imageset import ImageSet
from ppap_lib.data.pixels import pad_to
from ppap_lib.errors import DataError
from ppap_lib.files.download import ASSETS, cache_folder, data_folder, download_file

CLASSES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
SIZE = 32
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_SHIPPED = "fashion_test_1000.npz"
# sha256 of the idx files themselves (mirrors compress them differently) and of the archives
# that `_URL` serves.
_DIGESTS = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
_PREFIX = {"train": "train", "test": "t10k"}


def fashion(split: str, download: bool = False) -> ImageSet:
    """Read the 60,000 training or 10,000 test images [N, 1, 32, 32], verified by sha256.

    Parameters
    ----------
    split
        "train" or "test".
    download
        Whether 31 MB may be fetched into the cache where the images are not on this machine.

    Raises
    ------
    DataError
        If the images are missing (it says what to put where), damaged, or cannot be fetched.
    """
    if split not in _PREFIX:
        raise DataError(f"Fashion-MNIST has the splits 'train' and 'test', not {split!r}")
    names = [f"{_PREFIX[split]}-images-idx3-ubyte", f"{_PREFIX[split]}-labels-idx1-ubyte"]
    paths = [_find(name) for name in names]
    if None in paths:
        if not download:
            raise DataError(
                f"Fashion-MNIST's {split} images are not here: install Debian's package "
                f"dataset-fashion-mnist, or put {names[0]}.gz and {names[1]}.gz into "
                f"$PPAP_DATA/fashion-mnist, or fetch them with `ppap data fashion`",
                missing=True,
            )
        cache = cache_folder() / "fashion-mnist"
        paths = [
            download_file(f"{_URL}{name}.gz", cache / f"{name}.gz", _DIGESTS[name][1])
            for name in names
        ]
    pixels, labels = (
        _idx(path, name, rank) for path, name, rank in zip(paths, names, (3, 1), strict=True)
    )
    return _image_set(pixels, labels, f"Fashion-MNIST, all {len(labels):,} {split} images")


def shipped() -> ImageSet:
    """Read the 1,000 test images in this package, the first 100 of a class: [1000, 1, 32, 32]."""
    with np.load(ASSETS / _SHIPPED, allow_pickle=False) as archive:
        pixels, labels = archive["pixels"], archive["labels"]
    source = "Fashion-MNIST, the 1,000 test images that ship with ppap_lib (100 per class)"
    return _image_set(torch.from_numpy(pixels), torch.from_numpy(labels), source)


def _image_set(pixels: Tensor, labels: Tensor, source: str) -> ImageSet:
    """From [N, 28, 28] and [N] to an `ImageSet` on a black 32x32 square."""
    return ImageSet(pad_to(pixels.unsqueeze(1), SIZE, value=0), labels.long(), CLASSES, source)


def _find(name: str) -> Path | None:
    """The first file of this name, packed or not, in the places where it is usually put."""
    places = [DEBIAN, cache_folder() / "fashion-mnist"]
    if data := data_folder():
        places = [data / "fashion-mnist", data / "FashionMNIST" / "raw", data, *places]
    candidates = (place / f"{name}{end}" for place in places for end in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def _idx(path: Path, name: str, rank: int) -> Tensor:
    """The uint8 array in an idx file (big-endian header: type 8, rank, sizes), verified."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{path} is truncated or not a gzip file ({error}): replace it"
            ) from None
    if (digest := hashlib.sha256(content).hexdigest()) != _DIGESTS[name][0]:
        raise DataError(
            f"{path} is not Fashion-MNIST's {name}: its content has sha256 {digest}, expected "
            f"{_DIGESTS[name][0]}; replace it"
        )
    shape = np.frombuffer(content, ">u4", rank, offset=4).tolist()
    flat = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    return torch.from_numpy(flat.reshape(shape).copy())
