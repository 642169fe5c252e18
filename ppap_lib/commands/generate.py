"""`python -m ppap_lib generate`: the data-free set, alone or under torchrun.

torchrun --nproc-per-node 8 -m ppap_lib generate --images 500000 --folder DIR
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ppap_lib import zoo
from ppap_lib.commands import shell
from ppap_lib.data.shards import Manifest
from ppap_lib.device import device_for_rank
from ppap_lib.distill.dataset import draw_set, pending
from ppap_lib.zoo.tiers import tier


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m ppap_lib generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--tier", default="fashion", help="preset (default: fashion)")
    top.add_argument("--images", type=int, required=True, help="size of the set")
    top.add_argument("--folder", type=Path, required=True, help="where the set lies or will lie")
    top.add_argument("--first-seed", type=int, default=1_000_000, help="seed of the first image")
    top.add_argument("--spacing", default="ddim25", help="respacing (default: ddim25)")
    top.add_argument("--shard", type=int, default=1000, help="images to a file (default: 1000)")
    top.add_argument("--batch", type=int, help="images at a time (default: by the device)")
    top.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    top.add_argument("--quiet", action="store_true", help="no progress bar")
    return top


def draw(given: argparse.Namespace) -> str:
    """Do what the command line says; what was drawn, in words."""
    from tqdm import tqdm

    # torchrun's environment; without it, one process that does everything.
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = device_for_rank(given.device)
    name = tier(given.tier).named("denoiser")
    manifest = Manifest(
        given.images,
        given.first_seed,
        given.shard,
        tier(given.tier).shape,
        name,
        zoo.card(name).sha256 or "",
        given.spacing,
    )
    denoise = zoo.load(name, device).clipped().denoise
    left = sum(map(len, pending(given.folder, manifest, rank, world)))
    with tqdm(total=left, unit="image", disable=given.quiet or rank > 0) as bar:
        drawn = draw_set(
            denoise,
            zoo.schedule(name),
            given.folder,
            manifest,
            rank=rank,
            world=world,
            batch=given.batch,
            device=device,
            done=bar.update,
        )
    return f"process {rank} of {world}: {drawn} shards drawn in {given.folder}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 after saying what was wrong."""
    return shell.run(parser(), draw, arguments)


if __name__ == "__main__":
    sys.exit(main())
