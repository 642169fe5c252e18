"""What the command lines have in common: an error of this package is a message, not a traceback."""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ppap_lib.errors import PpapError

_UNWRITABLE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    + (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)  # a file where a folder should be, or the reverse
)


def run(
    parser: argparse.ArgumentParser,
    act: Callable[[argparse.Namespace], str | int | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Do what the command line says: the exit status.

    `act` returns words, which are printed, or a status of its own. The status is 1 after a
    `PpapError`, of which only the message is printed: it says what to do; and where a file cannot
    be written. Any other exception is a fault of the program, and is raised.
    """
    given = parser.parse_args(arguments)
    try:
        found = act(given)
    except Exception as error:
        if isinstance(error, PpapError):
            words = str(error)
        elif isinstance(error, OSError) and error.errno in _UNWRITABLE:
            words = _unwritable(error, given)
        else:
            raise
        print(f"error: {words}", file=sys.stderr)
        return 1
    if isinstance(found, str):
        print(found)
    return found if isinstance(found, int) else 0


def _unwritable(error: OSError, given: argparse.Namespace) -> str:
    words = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    folder = getattr(given, "folder", None)
    named = folder and isinstance(error.filename, str | Path)
    inside = named and Path(error.filename).is_relative_to(folder)
    return f"{words}: give another --folder" if inside else words
