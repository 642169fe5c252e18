"""From the worktree where a queue works to the checkout where its rows and weights are committed.

New weights replace those of the same name in the worktree alone, as pages and rows of the checkout
belong to the old ones. Brought home, they wait in `book/next/`, laid out as `ppap_lib/assets` is,
until one commit moves them there; another worktree takes them over from there.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ppap_book.errors import StudyError
from ppap_lib import zoo
from ppap_lib.files import weights
from ppap_lib.files.atomic import atomic_write

ROWS, ASSETS, NEXT = "book/results", "ppap_lib/assets", "book/next"
"""Folders of a checkout: the ledger, the zoo's cards and weights, and those that wait."""


def take_over(root: Path) -> list[str]:
    """Install in the worktree at `root` what waits in its `book/next/`; return the files' paths.

    A card that was made in the worktree itself is newer, and stays with its weights.

    Raises
    ------
    StudyError
        If `root` is no linked worktree, whose pages would miss the rows of the weights.
    """
    names = zoo.names(root / NEXT)
    if not names:
        return []
    if not (root / ".git").is_file():
        raise StudyError(
            f"{root / NEXT} holds weights whose rows are not complete: let the queue work in a "
            f"worktree, made by git worktree add ../queue-of-mine HEAD"
        )
    made, taken = set(_made(root, ASSETS)), []
    for name in names:
        files = _files(name, root / NEXT)
        if f"{ASSETS}/{files.card}" not in made:
            # The card last: it says that the weights are there.
            copies = [(root / NEXT / file, root / ASSETS / file) for file in files]
            taken += [str(to.relative_to(root)) for file, to in copies if _copied(file, to)]
    return taken


def bring_home(root: Path, checkout: Path) -> list[str]:
    """Copy what was made in the worktree at `root` to a checkout, and return the paths there.

    Rows that the worktree's commit lacks go to `book/results`, cards and weights that differ from
    the commit's and from the checkout's to `book/next`.

    Raises
    ------
    StudyError
        If `checkout` is none or `root` itself, or has another row of the same name: nothing is
        copied then.
    """
    if not all((checkout / place).is_dir() for place in (ROWS, ASSETS)):
        raise StudyError(f"{checkout} is no checkout of this project: it lacks {ROWS} or {ASSETS}")
    if checkout.resolve() == root.resolve():
        raise StudyError(f"{checkout} is where the queue works: give the checkout to bring it to")
    rows = _made(root, ROWS)
    if other := [
        row for row in rows if (checkout / row).exists() and not _same(root / row, checkout / row)
    ]:
        raise StudyError(
            f"{checkout} has other rows in {', '.join(other[:4])}"
            f"{f' and {len(other) - 4} more' if len(other) > 4 else ''}: remove those that are "
            f"wrong, here or there"
        )
    pairs = [(root / row, checkout / row) for row in rows]
    cards = f"{ASSETS}/cards"
    for path in _made(root, cards):
        name = Path(path).relative_to(cards).with_suffix("").as_posix()
        files = _files(name, root / ASSETS)
        new = any(not _same(root / ASSETS / file, checkout / ASSETS / file) for file in files)
        if new and _whole(name, root / ASSETS):
            pairs += [(root / ASSETS / file, checkout / NEXT / file) for file in files]
    return [str(to.relative_to(checkout)) for path, to in pairs if _copied(path, to)]


class _Files(NamedTuple):
    """The weights and the card of a network, as paths from the folder of assets."""

    weights: str
    card: str


def _files(name: str, assets: Path) -> _Files:
    return _Files(f"weights/{zoo.card(name, assets).file['asset']}", f"cards/{name}.json")


def _whole(name: str, assets: Path) -> bool:
    """Whether the weights are those of their card: not so while they are being installed."""
    file = assets / _files(name, assets).weights
    return file.is_file() and weights.sha256(file) == zoo.card(name, assets).sha256


def _same(path: Path, other: Path) -> bool:
    return other.exists() and other.read_bytes() == path.read_bytes()


def _copied(path: Path, to: Path) -> bool:
    """Copy a file, whole or not at all, unless its copy is there; whether it was needed."""
    if _same(path, to):
        return False
    with atomic_write(to) as part:
        part.write_bytes(path.read_bytes())
    return True


def _made(root: Path, place: str) -> list[str]:
    """Files below a place of the worktree that its commit does not hold as they are."""
    changed = _git(root, "diff", "-z", "--name-only", "--no-renames", "--diff-filter=d", "HEAD")
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    paths = {path for path in changed + new if path.startswith(f"{place}/")}
    return sorted(paths)


def _git(root: Path, *arguments: str) -> Sequence[str]:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        raise StudyError(f"git cannot say what was made in {root}: {said}") from error
    return [path for path in done.stdout.split("\0") if path]
