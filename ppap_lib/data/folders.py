"""Image files: folders in ImageNet's layout, and photographs inside installed packages."""

import io
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ppap_lib.data.imagenet_classes import imagenet
from ppap_lib.data.imageset import ImageSet
from ppap_lib.errors import DataError
from ppap_lib.files.download import package_folder

_MARGIN = 1 / 16  # ImageNet's usual evaluation crop: the central 7/8
_DEEP = (("I", "PNG"), ("I", "PPM"))
_SCENES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def decode(
    path,
    expected: tuple[int, int] | None = None,
    square: int | None = None,
    margin: float = 0.0,
) -> Tensor:
    """Read one image file as uint8 RGB [3, H, W]; of 16 bits the upper ones, rounded.

    Parameters
    ----------
    path
        A `pathlib.Path`, or a `zipfile.Path` inside an archive.
    expected
        The (width, height) that the image must have, if any.
    square
        Side of the square that the centre is cropped and resized to (bicubic); None keeps the
        image as it is.
    margin
        Share of the square that is cut off at every edge.

    Raises
    ------
    DataError
        If the file is missing or broken, or the image of another size; the message has the path.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            image = _in_8_bits(file).convert("RGB")
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    except Exception as error:  # decoders raise whatever foreign bytes lead them to
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is a broken image or missing ({reason}): replace it") from error
    if expected is not None and image.size != expected:
        raise DataError(f"{path} is {image.size[0]}x{image.size[1]}, expected {expected}")
    if square is not None:
        image = ImageOps.fit(image, (square, square), Image.Resampling.BICUBIC, margin)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _in_8_bits(image):
    """The PIL image, of 16 bits in 8: PIL itself would make white of whatever is above 255."""
    import numpy as np
    from PIL import Image

    if image.mode[0] not in "IF":
        return image
    # PIL reads the 16 bits of these two formats into 32.
    if not image.mode.startswith("I;16") and (image.mode, image.format) not in _DEEP:
        raise DataError(
            "has numbers of 32 bits, whose black and white nobody knows: save it in 8 or 16 bits"
        )
    return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))


def class_folders(root: str | Path) -> list[str]:
    """Return the names of the folders in `root`, sorted; hidden ones are of notebooks and editors.

    Raises `DataError`, with `missing` set, where there are none.
    """
    root = Path(root)
    folders = [p.name for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    if names := sorted(name for name in folders if not name.startswith(".")):
        return names
    raise DataError(
        f"{root} is no image folder in ImageNet's layout (CLASS/IMAGE): it has no folders",
        missing=True,
    )


def image_folder(root: str | Path, size: int, per_class: int | None = None) -> ImageSet:
    """Read the images of `root/CLASS/*` as [N, 3, size, size].

    Labels follow the sorted folder names, so that ImageNet's own folders get ImageNet's
    indices; folders named by wnid get their class's name. Hidden files and folders do not count.

    Parameters
    ----------
    root
        The folder of the classes' folders.
    size
        Side of the square that images are cropped and resized to.
    per_class
        How many images of a class are read at most; None for all.

    Raises
    ------
    DataError
        If there is no such folder, or an image is broken.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import is_image_file

    class Visible(ImageFolder):
        def find_classes(self, directory):
            names = class_folders(directory)
            return names, {name: label for label, name in enumerate(names)}

    def shown(path: str) -> bool:
        parts = Path(path).relative_to(root).parts
        return is_image_file(path) and not any(part.startswith(".") for part in parts)

    try:
        folder = Visible(root, is_valid_file=shown)
    except FileNotFoundError as error:
        raise DataError(
            f"{root} is no image folder in ImageNet's layout (CLASS/IMAGE): {error}", missing=True
        ) from None
    counts, samples = [0] * len(folder.classes), []
    for path, label in folder.samples:
        if per_class is None or counts[label] < per_class:
            counts[label] += 1
            samples.append((path, label))
    pixels = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)  # never held twice
    for image, (path, _) in zip(pixels, samples, strict=True):
        image.copy_(decode(Path(path), square=size))
    known = imagenet()
    names = [
        known.names[known.index(name)] if name in known.wnids else name for name in folder.classes
    ]
    return ImageSet(
        pixels,
        torch.tensor([label for _, label in samples]),
        tuple(names),
        f"{len(samples):,} images of {len(names)} classes from the folder {Path(root).name}",
    )


def imagenet_photographs(size: int = 224) -> ImageSet:
    """Read the 20 labelled ImageNet photographs inside the package foolbox: [20, 3, size, size].

    They are cropped as ImageNet classifiers are usually evaluated: the central 7/8 of the square.
    Raises `DataError`, with `missing` set, without the package.
    """
    folder = package_folder("foolbox")
    paths = sorted(folder.glob("data/imagenet_*.jpg")) if folder else []
    if not paths:
        raise DataError(
            "the ImageNet photographs are in the package foolbox: "
            "`pip install --no-deps foolbox==3.3.4` (nothing of it is imported)",
            missing=True,
        )
    return ImageSet(
        torch.stack([decode(path, square=size, margin=_MARGIN) for path in paths]),
        torch.tensor([int(path.stem.split("_")[2]) for path in paths]),  # imagenet_00_243
        imagenet().names,
        f"{len(paths)} ImageNet photographs from the package foolbox {version('foolbox')}",
    )


def scenes(size: int = 256) -> ImageSet:
    """Read 4 photographs inside scikit-image, each a class of its own: [4, 3, size, size].

    Raises `DataError`, with `missing` set, without the package.
    """
    folder = package_folder("skimage")
    if folder is None:
        raise DataError(
            "these photographs are in scikit-image: `pip install scikit-image`",
            missing=True,
        )
    return ImageSet(
        torch.stack([decode(folder / "data" / name, square=size) for name in _SCENES]),
        torch.arange(len(_SCENES)),
        tuple(Path(name).stem for name in _SCENES),
        f"{len(_SCENES)} photographs from the package scikit-image {version('scikit-image')}",
    )
