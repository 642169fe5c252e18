"""Large sets of generated images: in shards, by many processes, resumed after any kill."""

from collections.abc import Callable
from pathlib import Path

from ppap_lib.data.pixels import to_bytes
from ppap_lib.data.shards import Manifest, claim, shard_path, write_shard
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.errors import DataError, InputError
from ppap_lib.files.atomic import sweep
from ppap_lib.files.locks import hold
from ppap_lib.parameters import whole
from ppap_lib.samplers import ddim
from ppap_lib.samplers.draw import draw


def pending(folder: Path, manifest: Manifest, rank: int = 0, world: int = 1) -> list[range]:
    """List the blocks of seeds that a process still has to draw.

    Every `world`-th block is its own, so that processes never touch the same file and need not
    talk to each other; a set begun by one number of processes is finished by any other.

    Parameters
    ----------
    folder
        Where the set lies or will lie.
    manifest
        The set.
    rank, world
        Number of the process, from 0, and how many there are.

    Raises
    ------
    InputError
        If there is no process of that number.
    """
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world} processes: expected 0 <= rank < world")
    own = manifest.blocks()[rank::world]
    return [block for block in own if not shard_path(folder, block).exists()]


def draw_set(
    model: Diffusion,
    folder: str | Path,
    manifest: Manifest,
    *,
    rank: int = 0,
    world: int = 1,
    batch: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> int:
    """Draw the missing shards of a process, by DDIM, and return how many there were.

    An image depends on its seed alone (see `ppap_lib.samplers.draw.draw`), so that the number of
    processes, and being killed and run again, leave the set as it is. Another `batch`, device or
    number of threads rounds otherwise, by which a byte in ten thousand or so differs by one. Read
    the set with `ppap_lib.data.shards.generated`.

    Parameters
    ----------
    model
        A model of images in [-1, 1].
    folder
        Where the set lies or will lie.
    manifest
        The set: its seeds, the shape of its images, spacing and eta of DDIM.
    rank, world
        Number of the process, from 0, and how many there are.
    batch
        Images at a time; by default by the device.
    done
        Called with the number of images after every batch.

    Raises
    ------
    InputError
        If the model's samples are not of the set's shape, or there is no process of that number.
    DataError
        If the folder holds another set, or another process of that number draws it.
    """
    if model.shape != manifest.shape:
        raise InputError(
            f"the model draws {list(model.shape)}, the set has images {list(manifest.shape)}"
        )
    if batch is not None:
        whole("batch", batch, low=1)
    folder = Path(folder)
    grid, step = model.grid(manifest.spacing), ddim(manifest.eta)
    pending(folder, manifest, rank, world)  # nothing is written before all is checked
    with hold(folder, f".rank-{rank}.lock", error=DataError):
        claim(folder, manifest)
        sweep(
            folder,
            0.0,
            *(shard_path(folder, block).name for block in manifest.blocks()[rank::world]),
        )
        blocks = pending(folder, manifest, rank, world)
        for block in blocks:
            images = draw(model, block, step, grid=grid, batch=batch, done=done)
            write_shard(folder, block, to_bytes(images))
    return len(blocks)
