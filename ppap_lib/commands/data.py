"""Fetch or check a tier's images: `python -m ppap_lib data fashion`."""

import argparse
import sys

from ppap_lib.commands import shell
from ppap_lib.zoo.datasets import require


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if both splits are here (or were fetched) and sound."""
    parser = argparse.ArgumentParser(prog="python -m ppap_lib data", description=__doc__)
    parser.add_argument("names", nargs="+", help="fashion, tin10, imagenet256")
    parser.add_argument("--offline", action="store_true", help="only look for the files")
    return shell.run(parser, _look, arguments)


def _look(given: argparse.Namespace) -> None:
    for name in given.names:
        for split in ("train", "test"):
            images = require(name, split, download=not given.offline)
            print(f"{name} {split}: {images.source}")


if __name__ == "__main__":
    sys.exit(main())
