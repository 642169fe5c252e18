"""The command `ppap`: train | distill | generate | data."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("train", "distill", "generate", "data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: ppap {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    return import_module(f"ppap_lib.commands.{arguments[0]}").main(arguments[1:])
