"""One writer at a time: a folder is held by the process that writes it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppap_lib.errors import PpapError, TrainingError

_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP))


@contextmanager
def hold(
    folder: str | Path,
    name: str = ".lock",
    *,
    wait: bool = False,
    error: type[PpapError] = TrainingError,
) -> Iterator[None]:
    """Hold a folder's lock while the block runs, which may hold it again.

    The system releases the lock of a process that is killed. The lock's file stays. On a network
    disk that knows no locks nothing is held.

    Parameters
    ----------
    folder : str or Path
        The folder; it is made.
    name : str
        The lock's file in it.
    wait : bool
        Whether to wait for another holder to end.
    error : type
        What is raised where another process or thread holds the lock, and `wait` is not set.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name, is_singleton=True)
    held = False
    try:
        lock.acquire(timeout=-1 if wait else 0)
        held = True
    except Timeout:
        raise error(
            f"another process writes in {folder}: wait until it ends, end it, or use another folder"
        ) from None
    except NotImplementedError:
        pass
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        if held:
            lock.release()
