"""Tiny-ImageNet in its official layout, from the archive or an unpacked folder.

Non-commercial research data: read where it lies, never shipped.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ppap_lib.data.folders import decode
from ppap_lib.data.imagenet_classes import Synsets
from ppap_lib.data.imageset import ImageSet
from ppap_lib.data.pixels import from_bytes, resize, to_bytes
from ppap_lib.errors import DataError
from ppap_lib.files.download import cache_folder, data_folder, download_file

_SIDE = 64
_ROOT = "tiny-imagenet-200"
_ARCHIVES = ("tiny-imagenet-200.zip", "tiny-imagenet-25.zip")
_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_SHA256 = "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"


def find(download: bool = False) -> Path:
    """Return the path of the archive or folder, in `$PPAP_DATA` or the cache.

    Parameters
    ----------
    download
        Whether 248 MB may be fetched into the cache where it is in neither.

    Raises
    ------
    DataError
        If it is missing (the error says what to put where), or cannot be fetched.
    """
    cache = cache_folder()
    for place in filter(None, (data_folder(), cache)):
        for name in (_ROOT, *_ARCHIVES):
            if (place / name).exists():
                return place / name
    if download:
        return download_file(_URL, cache / _ARCHIVES[0], _SHA256)
    raise DataError(
        f"Tiny-ImageNet is not here: put {_ARCHIVES[0]} (from {_URL}) or the unpacked folder "
        f"{_ROOT} into $PPAP_DATA, or fetch it with `ppap data tin10`",
        missing=True,
    )


def tiny_imagenet(
    path: str | Path, split: str, classes: Sequence[str] | None = None, size: int = _SIDE
) -> ImageSet:
    """Read images [N, 3, size, size] with their bounding boxes.

    Parameters
    ----------
    path
        The zip archive or the unpacked folder.
    split
        "train" or "val".
    classes
        Names or wnids, which decide the order of the labels; None for all.
    size
        Side of the images, which divides 64: pixels are averaged over boxes.

    Raises
    ------
    DataError
        If there is nothing at `path`, the archive is truncated, or an image in it is broken.
    """
    if split not in ("train", "val"):
        raise DataError(f"Tiny-ImageNet has labels for 'train' and 'val', not for {split!r}")
    if _SIDE % size:
        raise DataError(f"the images are {_SIDE}x{_SIDE}: size must divide {_SIDE}, not {size}")
    path = Path(path)
    if path.is_dir():
        return _read(path, split, classes, size)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(zipfile.Path(archive, f"{_ROOT}/"), split, classes, size)
    except FileNotFoundError:
        raise DataError(
            f"there is no Tiny-ImageNet archive or folder at {path}",
            missing=True,
        ) from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is truncated or not a zip archive ({error}): replace it") from None


def _read(root, split: str, classes: Sequence[str] | None, size: int) -> ImageSet:
    """From `root`, a `pathlib.Path` or `zipfile.Path` of the unpacked folder."""
    synsets = _synsets(root)
    indices = [synsets.index(name) for name in classes] if classes else range(len(synsets))
    wnids = [synsets.wnids[index] for index in indices]
    rows = (_train if split == "train" else _val)(root, wnids)
    pixels = torch.stack([decode(path, (_SIDE, _SIDE)) for path, _, _ in rows])
    if size != _SIDE:
        # In parts: a class of floats is 24 MB, all of them would be gigabytes.
        pixels = torch.cat([to_bytes(resize(from_bytes(part), size)) for part in pixels.split(500)])
    # The files give the first and the last pixel of a box; edges lie one past the last.
    corners = torch.tensor([box for _, _, box in rows], dtype=torch.float32)
    edges = corners + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return ImageSet(
        pixels,
        torch.tensor([label for _, label, _ in rows]),
        tuple(synsets.names[index] for index in indices),
        f"Tiny-ImageNet, {len(rows):,} {split} images of {len(wnids)} classes at {size}x{size}",
        boxes=edges * (size / _SIDE),
    )


def _synsets(root) -> Synsets:
    """The classes of the data set, in its order."""
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt"))
    return Synsets((wnid, words.get(wnid, wnid)) for wnid in _lines(root / "wnids.txt"))


def _train(root, wnids: Sequence[str]) -> list[tuple]:
    """(path, label, corners) per image, in the order of the box files."""
    rows = []
    for label, wnid in enumerate(wnids):
        folder = root / "train" / wnid
        for line in _lines(folder / f"{wnid}_boxes.txt"):
            name, *corners = line.split("\t")
            rows.append((folder / "images" / name, label, [int(c) for c in corners]))
    return rows


def _val(root, wnids: Sequence[str]) -> list[tuple]:
    """(path, label, corners) per image, in the order of the annotations."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    rows = []
    for line in _lines(root / "val" / "val_annotations.txt"):
        name, wnid, *corners = line.split("\t")
        if wnid in labels:
            path = root / "val" / "images" / name
            rows.append((path, labels[wnid], [int(c) for c in corners]))
    return rows


def _lines(path) -> list[str]:
    """The lines of a text file of the official layout."""
    try:
        return path.read_text("utf8").splitlines()
    except (FileNotFoundError, KeyError):
        raise DataError(f"{path} is missing: this is not Tiny-ImageNet's official layout") from None
