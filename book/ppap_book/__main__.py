"""`python -m ppap_book run STUDY ...`, and `rerun`, `cards`, `probe` and `queue` in its place."""

import sys
from collections.abc import Sequence

from ppap_book import cards, rerun, run
from ppap_book.measures import second_judge
from ppap_book.queue import command as queue

COMMANDS = {
    "run": run.main,
    "rerun": rerun.main,
    "cards": cards.main,
    "probe": second_judge.main,
    "queue": queue.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python -m ppap_book {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
