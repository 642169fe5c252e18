"""Sets of generated images on disk: a manifest and shards, one file per block of seeds."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ppap_lib.data.imageset import ImageSet, Origin
from ppap_lib.diffusion.noise import SEEDS
from ppap_lib.errors import DataError, InputError, WeightsError
from ppap_lib.files import weights
from ppap_lib.files.atomic import write_text
from ppap_lib.files.records import read_record, sealed, unsealed
from ppap_lib.parameters import Parameters

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest(Parameters):
    """Facts that decide every image of a set, beside which there is nothing random.

    Parameters
    ----------
    n, first_seed
        How many images there are, and the seed of the first; image i has the seed first_seed + i.
    shard
        Images in a file.
    shape
        (C, H, W) of an image.
    denoiser, sha256
        The network that draws it, and its weights' digest.
    spacing, eta
        The respacing that it is drawn by, and DDIM's share of noise.

    Raises
    ------
    InputError
        If a value is of a wrong type.
    DataError
        If there are no images, none in a file, or seeds outside [0, 2^32).
    """

    n: int
    first_seed: int
    shard: int
    shape: tuple[int, int, int]
    denoiser: str
    sha256: str
    spacing: str = "ddim25"
    eta: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        seeds_exist = 0 <= self.first_seed <= SEEDS - self.n
        if self.n < 1 or self.shard < 1 or not seeds_exist:
            raise DataError(
                f"a set has at least 1 image, at least 1 to a shard and seeds from 0 to below "
                f"2^32, not {self.n} images, {self.shard} to a shard from seed {self.first_seed}"
            )
        if min(self.shape) < 1:
            raise DataError(f"an image has at least one value, not the shape {list(self.shape)}")

    def blocks(self) -> list[range]:
        """Return the seeds of each shard, in order."""
        end = self.first_seed + self.n
        starts = range(self.first_seed, end, self.shard)
        return [range(start, min(start + self.shard, end)) for start in starts]


def shard_path(folder: Path, block: range) -> Path:
    """Return the file of one `block` of seeds of the set in `folder`."""
    return folder / f"{block.start:09d}-{block.stop - 1:09d}.safetensors"


def claim(folder: Path, manifest: Manifest) -> None:
    """Make `folder` that of the set of this `manifest`; `DataError` if it is another set's."""
    path = folder / MANIFEST
    if not path.exists():
        with suppress(FileExistsError):  # several processes may do this at once: the first one's
            write_text(path, json.dumps(sealed(asdict(manifest)), indent=1) + "\n", new=True)
    if (other := read_manifest(folder)) != manifest:
        theirs, ours = asdict(other), asdict(manifest)
        changes = [f"{k} {theirs[k]!r}, not {v!r}" for k, v in ours.items() if theirs[k] != v]
        raise DataError(f"{folder} holds another set ({'; '.join(changes)}): use another folder")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the set in `folder`; `DataError` if there is none, or it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"no generated set in {folder}: ppap generate makes one",
            missing=True,
        )
    what = "a manifest of generated images"
    entries = unsealed(read_record(path, what), path, DataError)
    try:
        return Manifest.of(entries)
    except (InputError, DataError) as error:
        raise DataError(f"{path} is not {what}: {error}") from error


def write_shard(folder: Path, block: range, pixels: Tensor) -> None:
    """Write the uint8 `pixels` of one `block` of seeds into `folder`, whole or not at all."""
    seeds = torch.arange(block.start, block.stop)
    weights.save({"pixels": pixels, "seeds": seeds}, shard_path(folder, block), seal=True)


def read_shard(folder: Path, block: range, shape: tuple[int, int, int]) -> Tensor:
    """Read the uint8 images [len(block), *shape] of one block of seeds from `folder`.

    Raises `DataError` if the file is missing, damaged, or of other images.
    """
    path = shard_path(folder, block)
    try:
        state = weights.read(path)
    except WeightsError as error:
        raise DataError(f"{path} is damaged ({error}): delete it, draw again") from error
    pixels, seeds = state.get("pixels"), state.get("seeds")
    whole = pixels is not None and pixels.shape == (len(block), *shape)
    whole = whole and pixels.dtype == torch.uint8
    if not whole or seeds is None or seeds.tolist() != list(block):
        raise DataError(f"{path} does not hold the images of its seeds: delete it, draw again")
    return pixels


def generated(folder: str | Path, first: int | None = None) -> ImageSet:
    """Read a set of generated images in order of seeds, unlabelled: all are of one class.

    Parameters
    ----------
    folder
        The set's.
    first
        How many images are read, and no more of them held in memory; None for all.

    Raises
    ------
    DataError
        If there is no set, shards of it are missing (`missing` is set for both), a shard is not
        what its name says, or there are not so many images.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    origin = Origin(manifest.n, manifest.denoiser, manifest.spacing, first, manifest.sha256)
    count = manifest.n if first is None else first
    if not 1 <= count <= manifest.n:
        raise DataError(f"{folder} has not {origin}: ask for 1 to {manifest.n}")
    missing = [b for b in manifest.blocks() if not shard_path(folder, b).exists()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(manifest.blocks())} shards of {folder} are not drawn yet: "
            f"run the same command again to finish the set",
            missing=True,
        )
    pixels = torch.empty(count, *manifest.shape, dtype=torch.uint8)  # never held twice
    for block in manifest.blocks():
        start = block.start - manifest.first_seed
        if start < count:
            wanted = pixels[start : start + len(block)]
            wanted.copy_(read_shard(folder, block, manifest.shape)[: len(wanted)])
    labels = torch.zeros(count, dtype=torch.int64)
    return ImageSet(pixels, labels, ("generated",), str(origin), origin=origin)
