"""Files from elsewhere: downloads that resume and are verified, and data inside packages."""

import importlib.util
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from ppap_lib.errors import DataError
from ppap_lib.files import weights

try:
    import fcntl
except ImportError:  # Windows, whose folders cannot be locked
    fcntl = None

ASSETS = Path(__file__).parents[1] / "assets"  # files that ship with this package
_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte


def cache_folder() -> Path:
    """Return where downloads are kept: `$PPAP_CACHE`, or `~/.cache/ppap`."""
    return Path(os.environ.get("PPAP_CACHE") or "~/.cache/ppap").expanduser()


def data_folder() -> Path | None:
    """Return the folder that `$PPAP_DATA` names, or None."""
    return Path(folder).expanduser() if (folder := os.environ.get("PPAP_DATA")) else None


def package_folder(name: str) -> Path | None:
    """Return the folder of the installed package `name` without importing it, or None."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def download_file(
    url: str,
    path: str | Path,
    sha256: str | None = None,
    attempts: int = 5,
    progress: bool = True,
) -> Path:
    """Fetch a file, and return its path.

    A file that is already there is kept. An interrupted download continues where it stopped (HTTP
    Range), in this call or in a later one. Of several processes or threads that want a file one
    fetches it and the others wait. The file appears in one step, complete and verified.

    Parameters
    ----------
    url : str
        Where the file is.
    path : str or Path
        Where it shall be; the folder is made.
    sha256 : str, optional
        The expected digest.
    attempts : int
        How often to try without a new byte.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    DataError
        If the file cannot be had, or is another; the message says what to put where.
    """
    path = Path(path)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        if not path.exists():  # another may have brought it while this one waited
            part = path.with_name(path.name + ".part")
            _complete(url, part, path, attempts, progress)
            _verify(url, part, path, sha256)
            os.replace(part, path)
    return path


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a killed process's is released by the system."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks know no locks: as good as it gets there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _complete(url: str, part: Path, path: Path, attempts: int, progress: bool) -> None:
    """Bring `part` to its full length, in as many requests as that takes."""
    failures, reached = 0, False
    while True:
        before = _size(part)
        try:
            return _continue(url, part, progress)
        except (OSError, HTTPException) as error:
            grew = _size(part) > before
            failures, reached = (1 if grew else failures + 1), reached or grew
            if failures >= attempts or _permanent(error, reached):
                raise DataError(
                    f"cannot download {path.name} from {url} ({_reason(error)}; {_size(part)} "
                    f"bytes so far): try again to resume, or put the file at {path}"
                ) from error
            time.sleep(failures - 1)  # at once after progress, then ever later


def _verify(url: str, part: Path, path: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := weights.sha256(part)) != sha256:
        part.unlink()
        raise DataError(
            f"{path.name} from {url} has sha256 {found}, expected {sha256}: the download was "
            f"discarded; try again, or put the right file at {path}"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _permanent(error: Exception, reached: bool) -> bool:
    """Whether trying again is pointless: a wrong address, or a host never `reached` so far."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (400, 401, 403, 404, 410)
    return isinstance(error, urllib.error.URLError) and not reached


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _continue(url: str, part: Path, progress: bool) -> None:
    """Append what is missing to `part`; raises OSError when the connection ends too early."""
    from tqdm.auto import tqdm

    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond `have`: the part is complete, or of another file.
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        raise ConnectionError("the server has a file of another size; starting again") from error
    with response:
        if response.status != 206:  # the server ignores ranges: from the start
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        shown = {"initial": have, "total": total, "unit": "B", "unit_scale": True}
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(desc=part.stem, disable=not progress, **shown) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the connection ended after {_size(part)} of {total} bytes")
