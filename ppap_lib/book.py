"""The book's Sphinx extension (`local_extensions` in `_config.yml`).

It closes three gaps of Jupyter Book 1.x: a failed notebook is only a warning and the build
exits 0; the cache knows a notebook's own cells but not the library they call; and a clone
whose package is not installed cannot import it.
"""

import hashlib
import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ".jupyter_cache-"


def library_digest(root: Path = ROOT) -> str:
    """A digest of all that pages compute from: the package, the lock, and the ledger."""
    package = (path for path in (root / "ppap_lib").rglob("*") if path.is_file())
    inputs = [
        *(path for path in package if "__pycache__" not in path.parts),
        *(root / "book" / "results").glob("*.json"),
        *root.glob("requirements.lock"),
    ]
    total = hashlib.sha256()
    for path in sorted(inputs):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _use_own_cache(app, config) -> None:
    """Give this state of the library a cache folder of its own, and drop those of others."""
    if config.nb_execution_mode != "cache" or config.nb_execution_cache_path:
        return
    current = Path(app.outdir).parent / f"{CACHE}{config.ppap_lib_digest}"
    for folder in current.parent.glob(f"{CACHE}*"):
        if folder != current:
            shutil.rmtree(folder, ignore_errors=True)
    config.nb_execution_cache_path = str(current)


def setup(app) -> dict[str, bool]:
    """Called by Sphinx."""
    # Kernels are child processes and inherit this: a bare clone builds.
    path = os.environ.get("PYTHONPATH", "")
    if str(ROOT) not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), path)))
    # "env": with another digest Sphinx reads, so executes, every page again.
    app.add_config_value("ppap_lib_digest", library_digest(), "env", [str])
    # Sphinx exits 1 after a build with warnings only if it was told to keep going over them.
    app.keep_going = True
    app.connect("config-inited", _use_own_cache, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
