"""Which code and which versions made a result."""

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

_CODE = ("ppap_lib", "book/ppap_book", ":(exclude)ppap_lib/assets")

PACKAGES = ("ppap_lib", "torch", "torchvision", "numpy", "timm", "torch-fidelity")


@cache
def commit() -> str | None:
    """Return the checkout's commit, with '+' appended if the code differed from it.

    Weights and cards are no code: what depends on them holds their sha256. The answer is that of
    the first call in this process, which studies make before they compute: a later commit is not
    the code that ran. Without a checkout of its own, `$PPAP_COMMIT` or None.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != _ROOT.resolve():
            return os.environ.get("PPAP_COMMIT")  # a copy within another project's repository
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("PPAP_COMMIT")
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
