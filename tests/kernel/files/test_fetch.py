"""Downloads against a server on this machine that honours Range, or not, and cuts connections."""

import hashlib
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ppap_lib.errors import DataError
from ppap_lib.files import download
from ppap_lib.files.download import cache_folder, data_folder, download_file, package_folder

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content`; `server.cuts` holds how many bytes to send before cutting."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        expected = self.headers.get("If-Range", server.etag)
        part = asked and server.honours_ranges and (expected == server.etag or server.careless)
        start = int(asked[6:-1]) if part else 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if part else 200)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        server.hold.wait()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)
        self.close_connection = True
        if server.then:
            server.content, server.etag = server.then

    def log_message(self, *args):
        pass


@contextmanager
def serving(content=CONTENT, cuts=(), honours_ranges=True, etag=None, then=None, careless=False):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.cuts, server.honours_ranges = content, list(cuts), honours_ranges
    server.etag, server.then, server.careless = etag, then, careless
    server.ranges, server.hold = [], threading.Event()
    server.hold.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}/file"
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def names(folder):
    """What lies in a folder, but for its lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_download_appears_complete_and_is_kept(tmp_path):
    path = tmp_path / "deep" / "file"
    with serving() as server:
        assert download_file(server.url, path, DIGEST, progress=False) == path
        assert path.read_bytes() == CONTENT
        assert download_file(server.url, path, DIGEST, progress=False) == path
        assert len(server.ranges) == 1  # the second call found the file
    assert names(path.parent) == ["file"]


def test_a_cut_connection_resumes_where_it_stopped(tmp_path):
    with serving(cuts=(300_000, 0, 200_000)) as server:
        path = download_file(server.url, tmp_path / "file", DIGEST, progress=False)
        assert server.ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]
    assert path.read_bytes() == CONTENT


def test_a_later_call_resumes_an_earlier_one(tmp_path):
    path = tmp_path / "file"
    with serving(cuts=(400_000, 0)) as server:
        with pytest.raises(DataError, match="400000 of 1048576.*try again to resume"):
            download_file(server.url, path, DIGEST, attempts=1, progress=False)
        assert not path.exists()
        server.cuts.clear()
        download_file(server.url, path, DIGEST, progress=False)
        assert server.ranges[-1] == "bytes=400000-"
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_is_read_from_the_start(tmp_path):
    with serving(cuts=(300_000,), honours_ranges=False) as server:
        path = download_file(server.url, tmp_path / "file", DIGEST, progress=False)
    assert path.read_bytes() == CONTENT


def test_a_complete_part_is_only_verified(tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    with serving() as server:
        assert download_file(server.url, tmp_path / "file", DIGEST, progress=False).exists()


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"of another file")
    with serving() as server:
        path = download_file(server.url, tmp_path / "file", DIGEST, progress=False)
    assert path.read_bytes() == CONTENT


def test_another_file_is_refused_and_discarded(tmp_path):
    with (
        serving(content=b"something else") as server,
        pytest.raises(DataError, match=f"file from .* has sha256 .* expected {DIGEST}"),
    ):
        download_file(server.url, tmp_path / "file", DIGEST, progress=False)
    assert names(tmp_path) == []


def test_offline_says_what_to_put_where(tmp_path):
    with serving() as server:
        url = server.url
    path = tmp_path / "file"
    with pytest.raises(DataError, match=f"cannot download file from {url}.*put the file at {path}"):
        download_file(url, path, DIGEST, progress=False)


@pytest.mark.parametrize("careless", [False, True], ids=["If-Range", "no If-Range"])
def test_two_versions_are_never_spliced(tmp_path, careless):
    """A new version appears between two requests, of a server that honours If-Range or not."""
    new = CONTENT[::-1]
    path, options = tmp_path / "file", {"etag": '"old"', "then": (new, '"new"')}
    with serving(cuts=(300_000,), careless=careless, **options) as server:
        download_file(server.url, path, progress=False)
        assert server.ranges[:2] == [None, "bytes=300000-"]
    assert path.read_bytes() == new and names(tmp_path) == ["file"]


def test_a_part_of_no_known_version_is_not_continued_unverified(tmp_path):
    (tmp_path / "file.part").write_bytes(b"of another file")
    with serving() as server:
        download_file(server.url, tmp_path / "file", progress=False)
        assert server.ranges == [None]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_ends_it(tmp_path, monkeypatch):
    """Without ranges nothing is gained, however the lengths before the break go up and down."""
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    cuts = [300_000, 900, 400_000, 100] * 25
    with serving(cuts=cuts, honours_ranges=False) as server:
        with pytest.raises(DataError, match="the connection ended"):
            download_file(server.url, tmp_path / "file", DIGEST, progress=False)
        assert len(server.ranges) <= 10


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("weights.pt", b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        ("weights.safetensors", b"<html>Sign in</html>", "is a web page"),
        ("set.zip", b"no such file", "begins with .* no .zip file does"),
        ("set.gz", b"x", "begins with b'x'"),
    ],
)
def test_what_is_not_the_file_is_told_without_a_digest(tmp_path, name, content, says):
    with (
        serving(content=content) as server,
        pytest.raises(DataError, match=f"{name} from .*{says}.*put the right file at"),
    ):
        download_file(server.url, tmp_path / name, progress=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("planted", ["file.part", "file.part.version"])
def test_a_planted_link_is_not_written_through(tmp_path, planted):
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / planted).symlink_to(target)
    with serving(etag='"one"') as server:
        download_file(server.url, folder / "file", DIGEST, progress=False)
    assert target.read_bytes() == b"precious" and names(folder) == ["file"]


def test_a_wrong_address_is_not_tried_twice(tmp_path):
    with serving() as server:
        with pytest.raises(DataError, match="Not Found"):
            download_file(server.url + "s", tmp_path / "file", progress=False)
        assert len(server.ranges) == 1


def test_a_network_that_drops_on_the_way_is_tried_again(tmp_path, monkeypatch):
    waits, online = [], urllib.request.urlopen
    replies = [online, *[_offline] * 3, online]
    monkeypatch.setattr(download.time, "sleep", waits.append)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: replies.pop(0)(*a, **k))
    with serving(cuts=(300_000,)) as server:
        path = download_file(server.url, tmp_path / "file", DIGEST, progress=False)
        assert server.ranges == [None, "bytes=300000-"]
    assert path.read_bytes() == CONTENT and waits == [0, 1, 2, 3]
    monkeypatch.setattr(urllib.request, "urlopen", _offline)
    with pytest.raises(DataError, match="unreachable"):
        download_file(server.url, tmp_path / "other", progress=False)
    assert len(waits) == 4  # never reached: not tried twice


def _offline(*request, **options):
    raise urllib.error.URLError("the network is unreachable")


def test_of_several_that_want_a_file_one_fetches_it(tmp_path):
    path = tmp_path / "file"
    with serving() as server, ThreadPoolExecutor() as pool:
        server.hold.clear()
        wanted = [
            pool.submit(download_file, server.url, path, DIGEST, progress=False) for _ in "ab"
        ]
        wait(wanted, timeout=0.3)  # both are under way, neither can end
        server.hold.set()
        assert [done.result() for done in wanted] == [path, path]
        assert server.ranges == [None]
    assert path.read_bytes() == CONTENT


def test_the_progress_bar_ends_at_the_size(tmp_path, capsys):
    with serving(cuts=(300_000,)) as server:
        download_file(server.url, tmp_path / "weights.pt", DIGEST)
    shown = capsys.readouterr().err
    assert "weights.pt" in shown and "1.05M/1.05M" in shown


def test_folders_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PPAP_CACHE", str(tmp_path))
    monkeypatch.setenv("PPAP_DATA", "~/somewhere")
    assert cache_folder() == tmp_path
    assert data_folder().is_absolute() and data_folder().name == "somewhere"
    monkeypatch.delenv("PPAP_DATA")
    assert data_folder() is None


def test_packages_are_found_without_importing_them(monkeypatch, tmp_path):
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("raise SystemError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_folder("broken_package") == tmp_path / "broken_package"
    assert package_folder("no_such_package") is None
