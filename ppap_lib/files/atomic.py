"""Files that are there whole or not at all, whatever is killed and whoever else writes them."""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_PART = re.compile(r"(?P<name>.+)\.[0-9a-f]{32}\.part")
_ABANDONED = 24 * 3600.0  # seconds after which nobody still writes a part

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@contextmanager
def atomic_write(path: str | Path, new: bool = False) -> Iterator[Path]:
    """Give a name beside `path` to write to; the file takes its place when the block ends well.

    No two calls give the same name, on whatever machine and thread, so that several may write one
    path: the last one's file stays. After an error `path` is as it was.

    Parameters
    ----------
    path : str or Path
        The file; its folder is made.
    new : bool
        Whether the file must not take another's place: the first one's stays.

    Yields
    ------
    Path
        The name to write to.

    Raises
    ------
    FileExistsError
        If there is a file at `path` that `new` must not replace.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, _ABANDONED)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    part.touch(exist_ok=False)  # never through a link that somebody put there
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut may leave the new name without its bytes
        if not (new and _linked(part, path)):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _linked(part: Path, path: Path) -> bool:
    """Give `part` the new name `path`, if the file system has hard links; whether it has."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError as error:
        if path.exists():  # without links that is the most that can be known
            raise FileExistsError(f"{path} is there") from error
        return False
    return True


def sweep(folder: Path, age: float = 0.0, *names: str) -> None:
    """Remove the parts that killed writers left in a folder.

    Parameters
    ----------
    folder : Path
        The folder; those in it are not looked through.
    age : float
        Seconds since a part's last change. Only who holds the folder may remove young ones.
    *names : str
        The files that the parts are of; any by default.
    """
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if not (part := _PART.fullmatch(entry.name)) or (names and part["name"] not in names):
            continue
        with suppress(FileNotFoundError):  # another may sweep, or its writer be done
            if time.time() - entry.stat(follow_symlinks=False).st_mtime >= age:
                os.unlink(entry.path)


@contextmanager
def space_for(path: Path, size: int) -> Iterator[None]:
    """Name a file and what it needs in the `OSError` of a disk that is full.

    Parameters
    ----------
    path : Path
        The file that the block writes.
    size : int
        The bytes that it writes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        words = f"{error.strerror} ({size:,} bytes are needed)"
        raise OSError(error.errno, words, str(path)) from error


def write_bytes(path: str | Path, content: bytes | memoryview, new: bool = False) -> None:
    """Write bytes, the `content`, into `path`, atomically.

    A `new` file never takes another's place: raises `FileExistsError`.
    """
    with space_for(Path(path), len(content)), atomic_write(path, new) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str, new: bool = False) -> None:
    """Write `text` in UTF-8 into `path`, atomically.

    A `new` file never takes another's place: raises `FileExistsError`.
    """
    write_bytes(path, text.encode("utf8"), new)
