"""Files from elsewhere: downloads that resume and are verified, and data inside packages."""

import importlib.util
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from ppap_lib.errors import DataError
from ppap_lib.files import weights
from ppap_lib.files.atomic import write_text
from ppap_lib.files.locks import hold

ASSETS = Path(__file__).parents[1] / "assets"  # files that ship with this package
_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte

_HEADERS = {  # the bytes that files of a kind begin with
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".xz": (b"\xfd7zXZ\x00",),
    ".zip": (b"PK",),
    ".npz": (b"PK",),
    ".pt": (b"PK", b"\x80"),
    ".pth": (b"PK", b"\x80"),
}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


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
    Range), in this call or in a later one, if the server still has the same file (If-Range). Of
    several processes or threads that want a file one fetches it and the others wait. The file
    appears in one step, complete and verified.

    Parameters
    ----------
    url : str
        Where the file is.
    path : str or Path
        Where it shall be; the folder is made.
    sha256 : str, optional
        The expected digest. Without one, a web page in the file's place is told by how it begins.
    attempts : int
        How often to try without getting further.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    DataError
        If the file cannot be had, or is another; the message says what to put where.
    """
    path = Path(path)
    if not path.exists():
        with hold(path.parent, wait=True):
            if not path.exists():  # another may have brought it while this one waited
                download = _Download(url, path, sha256 is not None)
                download.complete(attempts, progress)
                download.version.unlink(missing_ok=True)
                _verify(url, download.part, path, sha256)
                os.replace(download.part, path)
    return path


def _verify(url: str, part: Path, path: Path, sha256: str | None) -> None:
    if sha256 is None:
        wrong = _foreign(part, path.suffix)
    else:
        found = weights.sha256(part)
        wrong = "" if found == sha256 else f"has sha256 {found}, expected {sha256}"
    if wrong:
        part.unlink()
        raise DataError(
            f"{path.name} from {url} {wrong}: the download was discarded; try again, or put the "
            f"right file at {path}"
        )


def _foreign(file: Path, suffix: str) -> str:
    """Say what is wrong with how a file of this suffix begins; nothing if nothing is."""
    with open(file, "rb") as opened:
        start = opened.read(512)
    if suffix not in (".html", ".htm", ".xml") and start.lstrip().lower().startswith(_PAGES):
        return "is a web page"
    if not start.startswith(_HEADERS.get(suffix, b"")):
        return f"begins with {start[:6]!r}, which no {suffix} file does"
    return ""


def _permanent(error: Exception, reached: bool) -> bool:
    """Whether trying again is pointless: a wrong address, or a host never `reached` so far."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (400, 401, 403, 404, 410, 416)
    return isinstance(error, urllib.error.URLError) and not reached


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)


class _Download:
    """A file on its way: the `part` that is here, and which `version` of what it is a part of."""

    def __init__(self, url: str, path: Path, verified: bool):
        self.url, self.path, self.verified = url, path, verified
        self.part = path.with_name(path.name + ".part")
        self.version = path.with_name(path.name + ".part.version")
        for own in (self.part, self.version):
            if own.is_symlink():  # somebody else's, and so would be what is written there
                own.unlink()

    def complete(self, attempts: int, progress: bool) -> None:
        """Bring the part to its full length, in as many requests as that takes.

        One that brings less than a chunk beyond the furthest so far is a failure, so that a
        server which breaks off again and again ends it.
        """
        failures, furthest, reached = 0, self._size(), False
        while True:
            try:
                return self._request(progress)
            except (OSError, HTTPException) as error:
                gained = self._size() - furthest
                furthest, reached = max(furthest, self._size()), reached or gained > 0
                failures = 1 if gained >= _CHUNK else failures + 1
                if failures >= attempts or _permanent(error, reached):
                    raise DataError(
                        f"cannot download {self.path.name} from {self.url} ({_reason(error)}; "
                        f"{self._size()} bytes so far): try again to resume, or put the file at "
                        f"{self.path}"
                    ) from error
                time.sleep(failures - 1)  # at once after progress, then ever later

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _request(self, progress: bool) -> None:
        """Append what is missing; raise OSError when the connection ends too early."""
        known = self._known()
        if not known and not self.verified:  # two versions would be spliced, and nobody notice
            self.part.unlink(missing_ok=True)
        have = self._size()
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and known:
            headers["If-Range"] = known
        request = urllib.request.Request(self.url, headers=headers)
        try:
            response = urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:
                raise
            # Nothing lies beyond `have`: the part is complete, or of another file.
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            self.part.unlink()
            raise ConnectionError("the server has a file of another size: anew") from error
        with response:
            self._receive(response, have if response.status == 206 else 0, known, progress)

    def _known(self) -> str:
        """The version that the part is of, if it is of this address."""
        try:
            url, _, version = self.version.read_text("utf8").partition("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            return ""
        return version if url == self.url else ""

    def _receive(self, response: HTTPResponse, have: int, known: str, progress: bool) -> None:
        from tqdm.auto import tqdm

        version = _version(response)
        if have and known and version and version != known:  # for servers that know no If-Range
            self.part.unlink()
            raise ConnectionError("the server has another version of the file: anew")
        if not have:
            self.part.unlink(missing_ok=True)
            write_text(self.version, f"{self.url}\n{version}")
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        shown = {"initial": have, "total": total, "unit": "B", "unit_scale": True}
        with (
            open(self.part, "ab" if have else "xb") as file,
            tqdm(desc=self.path.name, disable=not progress, **shown) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and self._size() != total:
            raise ConnectionError(f"the connection ended after {self._size()} of {total} bytes")


def _version(response: HTTPResponse) -> str:
    """What tells the server's file from others: a strong ETag, or when it was changed."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
