"""One call for a tier's images: the real ones, or a stand-in that says so."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ppap_lib.data.fashion import fashion, shipped
from ppap_lib.data.folders import class_folders, image_folder, imagenet_photographs
from ppap_lib.data.imageset import ImageSet
from ppap_lib.data.tiny_imagenet import find, tiny_imagenet
from ppap_lib.errors import DataError
from ppap_lib.files.download import data_folder
from ppap_lib.zoo.tiers import tier

_PER_CLASS = {"train": 100, "val": 20}  # of ImageNet: 20 GB and 4 GB at 256x256


def require(name: str, split: str = "test", download: bool = False) -> ImageSet:
    """Read the images of the tier `name`, 'train' or 'test'.

    'test' is the official val split of Tiny-ImageNet and of ImageNet, the one with labels;
    'imagenet256' takes the first 100 training or 20 validation images of every class. Nothing is
    fetched from the network unless `download` is true. Raises `DataError`, with `missing` set where
    the images are not on this machine; the message says what to put where.
    """
    if name not in _REAL:
        raise DataError(f"no images called {name!r}: there are {', '.join(_REAL)}")
    if split not in ("train", "test"):
        raise DataError(f"split is 'train' or 'test', not {split!r}")
    return _REAL[name](split, download)


def load(name: str, split: str = "test") -> ImageSet:
    """Read the images of a tier, or where they are missing a stand-in whose `source` says so.

    That is the shipped 1,000 test images for 'fashion' and 20 photographs for 'imagenet256';
    'tin10' has none. Raises `DataError` for missing images without a stand-in and for damaged
    files. The network is never used.
    """
    try:
        return require(name, split)
    except DataError as error:
        if not error.missing or name not in _STAND_INS:
            raise
        stand_in = _STAND_INS[name]()
        source = f"{stand_in.source}; they stand in for the {split} images, which are not here"
        return replace(stand_in, source=source, stand_in=True)


def test_images(name: str) -> ImageSet:
    """Read real test images of a tier to measure with: all of them, or those that are shipped.

    Raises `DataError`, with `missing` set, where there are neither.
    """
    try:
        return require(name)
    except DataError as error:
        if not error.missing or name not in _SHIPPED:
            raise
        return _SHIPPED[name]()


def reference_images(name: str) -> ImageSet:
    """Read the real images that a tier's generated ones are held against: its `reference` split.

    Raises `DataError`, with `missing` set, where they are not here.
    """
    return test_images(name) if tier(name).reference == "test" else require(name, "train")


def _tin10(split: str, download: bool) -> ImageSet:
    ten = tier("tin10")
    official = {"train": "train", "test": "val"}[split]
    found = tiny_imagenet(find(download), official, ten.wnids, ten.size)
    return replace(found, classes=ten.classes)


def _imagenet256(split: str, download: bool) -> ImageSet:
    official = {"train": "train", "test": "val"}[split]
    data, chosen = data_folder(), tier("imagenet256")
    if data is None or not (folder := data / "imagenet" / official).is_dir():
        raise DataError(
            f"ImageNet is not here: put its {official} images, in a folder for every wnid, into "
            f"$PPAP_DATA/imagenet/{official} (image-net.org gives them to those who sign up)",
            missing=True,
        )
    if lost := set(chosen.wnids) ^ set(class_folders(folder)):
        raise DataError(
            f"{folder} should have a folder for each of ImageNet-1k's wnids and no other: "
            f"{len(lost)} are missing or unknown, such as {min(lost)}"
        )
    return image_folder(folder, chosen.size, _PER_CLASS[official])


_REAL: Mapping[str, Callable[[str, bool], ImageSet]] = {
    "fashion": fashion,
    "tin10": _tin10,
    "imagenet256": _imagenet256,
}
_SHIPPED: Mapping[str, Callable[[], ImageSet]] = {"fashion": shipped}
_STAND_INS: Mapping[str, Callable[[], ImageSet]] = {
    **_SHIPPED,
    "imagenet256": lambda: imagenet_photographs(tier("imagenet256").size),
}
