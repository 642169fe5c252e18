"""Tiny-ImageNet in its official layout, from the archive or an unpacked folder.

Non-commercial research data: read where it lies, never shipped.
"""

import zipfile
import zlib
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
_DAMAGED = "it is cut short or damaged, replace it"
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
    words = dict(_table(root / "words.txt", 2))
    wnids = [wnid for (wnid,) in _table(root / "wnids.txt", 1)]
    if lost := [wnid for wnid in wnids if wnid not in words]:
        raise DataError(f"{root / 'words.txt'} lacks {lost[0]!r} of wnids.txt: {_DAMAGED}")
    return Synsets((wnid, words[wnid]) for wnid in wnids)


def _train(root, wnids: Sequence[str]) -> list[tuple]:
    """(path, label, corners) per image, in the order of the box files."""
    rows = []
    for label, wnid in enumerate(wnids):
        folder = root / "train" / wnid
        for path, *corners in _listed(folder / f"{wnid}_boxes.txt", folder / "images", 5):
            rows.append((path, label, _numbers(path, corners)))
    return rows


def _val(root, wnids: Sequence[str]) -> list[tuple]:
    """(path, label, corners) per image, in the order of the annotations."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    listed = _listed(root / "val" / "val_annotations.txt", root / "val" / "images", 6)
    return [
        (path, labels[wnid], _numbers(path, corners))
        for path, wnid, *corners in listed
        if wnid in labels
    ]


def _numbers(path, corners: Sequence[str]) -> list[int]:
    try:
        return [int(corner) for corner in corners]
    except ValueError:
        raise DataError(f"the box of {path} is {corners}, no whole numbers: {_DAMAGED}") from None


def _listed(path, folder, columns: int) -> list[tuple]:
    """The rows of a list of the images in `folder`, which begin with a name: that image's path."""
    rows = _table(path, columns)
    names = {name for name, *_ in rows}
    if not folder.is_dir():
        raise _missing(folder)
    images = {image.name for image in folder.iterdir() if image.name.endswith(".JPEG")}
    if lost := images - names:
        raise DataError(f"{path} lacks {len(lost)} images, such as {min(lost)}: {_DAMAGED}")
    return [(folder / name, *cells) for name, *cells in rows]


def _missing(path) -> DataError:
    return DataError(f"{path} is missing: this is not Tiny-ImageNet's official layout")


def _table(path, columns: int) -> list[list[str]]:
    """The cells of a text file of the official layout, line by line; blank lines do not count."""
    try:
        lines = path.read_text("utf8").splitlines()
    except (FileNotFoundError, KeyError):
        raise _missing(path) from None
    except (UnicodeDecodeError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read ({error}): {_DAMAGED}") from None
    rows = [line.split("\t") for line in lines if line.strip()]
    if not rows or {len(row) for row in rows} != {columns}:
        raise DataError(f"{path} should have lines of {columns} cells between tabs: {_DAMAGED}")
    return rows
