"""Large sets of generated images: in shards, by many processes, resumed after any kill."""

from collections.abc import Callable
from pathlib import Path

import torch

from ppap_lib.data.pixels import to_bytes
from ppap_lib.data.shards import Manifest, claim, shard_path, write_shard
from ppap_lib.diffusion.denoisers import Denoise
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.samplers import ddim
from ppap_lib.samplers.draw import generate


def pending(folder: Path, manifest: Manifest, rank: int = 0, world: int = 1) -> list[range]:
    """The blocks of seeds that process `rank` of `world` still has to draw.

    Every `world`-th block is its own, so that processes never touch the same file and need not
    talk to each other; a set begun by one number of processes is finished by any other.
    """
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world} processes: expected 0 <= rank < world")
    own = manifest.blocks()[rank::world]
    return [block for block in own if not shard_path(folder, block).exists()]


def draw_set(
    denoise: Denoise,
    schedule: Schedule,
    folder: str | Path,
    manifest: Manifest,
    *,
    rank: int = 0,
    world: int = 1,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    done: Callable[[int], None] = lambda count: None,
) -> int:
    """Draw this process's missing shards of the set in `folder`; returns how many.

    Each image depends on its seed alone, so the number of processes, and being killed and run
    again, leave the set as it is; another batch size or device rounds otherwise, by which a byte
    in ten thousand or so differs by one. Read it with `data.generated.generated`.
    """
    folder = Path(folder)
    claim(folder, manifest)
    grid = schedule.grid(manifest.spacing)
    blocks = pending(folder, manifest, rank, world)
    for block in blocks:
        drawn = generate(
            denoise,
            manifest.shape,
            block,
            grid,
            ddim(manifest.eta),
            batch=batch,
            device=device,
            done=done,
        )
        write_shard(folder, block, to_bytes(drawn))
    return len(blocks)
