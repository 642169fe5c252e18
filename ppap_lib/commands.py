"""What the command lines have in common: an error of this package is a message, not a traceback."""

import argparse
import sys
from collections.abc import Callable, Sequence


def run(
    parser: argparse.ArgumentParser,
    act: Callable[[argparse.Namespace], str | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Do what the command line says, and print what `act` returns: the exit status.

    It is 1 after an exception of a class that this package defines, of which only the message is
    printed: it says what to do. Any other is a fault of the program, and is raised.
    """
    given = parser.parse_args(arguments)
    try:
        said = act(given)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != __package__:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    if said is not None:
        print(said)
    return 0
