"""`python -m ppap_book run STUDY ...`, and `rerun`, `cards`, `probe` and `queue` in its place."""

import sys
from collections.abc import Sequence
from importlib import import_module

from ppap_lib.cli import ends_in_a_line
from ppap_lib.parameters import suggestion

COMMANDS = {
    "run": "ppap_book.run",
    "rerun": "ppap_book.rerun",
    "cards": "ppap_book.cards",
    "probe": "ppap_book.measures.second_judge",
    "queue": "ppap_book.queue.command",
}
"""By a command's name, the module whose `main` carries it out."""


@ends_in_a_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    usage = f"usage: python -m ppap_book {{{','.join(COMMANDS)}}} ..."
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: no command {name!r}: {suggestion(name, COMMANDS)}", file=sys.stderr)
        return 2
    return import_module(COMMANDS[name]).main(rest)


if __name__ == "__main__":
    sys.exit(main())
