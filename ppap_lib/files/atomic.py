"""Files that are there whole or not at all, whatever is killed and whoever else writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


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
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
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


def write_text(path: str | Path, text: str, new: bool = False) -> None:
    """Write `text` in UTF-8 into `path`, atomically.

    A `new` file never takes another's place: raises `FileExistsError`.
    """
    with atomic_write(path, new) as part:
        part.write_text(text, "utf8")
