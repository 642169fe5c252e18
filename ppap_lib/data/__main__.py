"""Fetch or check a tier's images: `python -m ppap_lib.data fashion`."""

import argparse
import sys

from ppap_lib.data import DataError, require
from ppap_lib.fetch import FetchError


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if both splits are here (or were fetched) and sound."""
    parser = argparse.ArgumentParser(prog="python -m ppap_lib.data", description=__doc__)
    parser.add_argument("names", nargs="+", help="fashion, tin10, imagenet256")
    parser.add_argument("--offline", action="store_true", help="only look for the files")
    options = parser.parse_args(arguments)
    try:
        for name in options.names:
            for split in ("train", "test"):
                images = require(name, split, download=not options.offline)
                print(f"{name} {split}: {images.source}")
    except (DataError, FetchError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
