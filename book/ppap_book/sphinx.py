"""The book's Sphinx extension (`local_extensions` in `_config.yml`).

It closes gaps of Jupyter Book 1.x: a failed notebook is only a warning and the build exits 0; the
cache knows a notebook's own cells but not the library that they call; a clone whose packages are
not installed cannot import them; figures have no words for those who cannot see them. For the
reference pages it reads docstrings as numpydoc, by napoleon, in which other text means itself.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.ext import napoleon
from sphinx.ext.napoleon import NumpyDocstring

from ppap_lib.diffusion.denoisers import Denoise, Network
from ppap_lib.samplers.loop import Step
from ppap_lib.training.objectives import Objective

ROOT = Path(__file__).resolve().parents[2]
CACHE = ".jupyter_cache-"


def library_digest(root: Path = ROOT) -> str:
    """Return a digest of all that pages read: both packages, the lock, the ledger, settings.

    Not of the table of contents, which Sphinx itself watches.
    """
    book = root / "book"
    inputs = [
        *(root / "ppap_lib").rglob("*"),
        *(book / "ppap_book").rglob("*"),
        *(book / "results").rglob("*.json"),
        *book.glob("[!_]*.yml"),
        root / "requirements.lock",
    ]
    total = hashlib.sha256()
    for path in sorted(path for path in inputs if path.is_file()):
        if "__pycache__" not in path.parts:
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


def plain_text(docstring: list[str]) -> list[str]:
    r"""Escape the markup of reStructuredText in a docstring's text, as in p(x|y) and [B, *shape].

    Code stays as it is: within backticks, indented below a line that ends with `::`, and from
    `>>>` to an empty line. The names of parameters may have `*` and `_`.
    """
    lines: list[str] = []
    margin: int | None = None  # of the line that ends with ::
    doctest = False
    for line in docstring:
        indent = len(line) - len(line.lstrip())
        if margin is not None and line.strip() and indent <= margin:
            margin = None
        doctest = bool(line.strip()) and (doctest or line.lstrip().startswith(">>>"))
        lines.append(line if doctest or margin is not None else _escaped(line))
        if margin is None and line.endswith("::"):
            margin = indent
    return lines


def _escaped(line: str) -> str:
    spans = re.split(r"(`[^`]+`)", line)
    spans[::2] = (re.sub(r"[\\*|]|(?<=\w)_(?!\w)", r"\\\g<0>", text) for text in spans[::2])
    return "".join(spans)


def with_aliases(signature: str) -> str:
    """Return a signature with the library's type aliases by name, as its source has them.

    So are its functions: Sphinx has no source of a partial's signature, and prints their repr.
    """
    signature = re.sub(r"<(?:built-in )?function (\w+)(?: at 0x\w+)?>", r"\1", _short(signature))
    return _named(signature, _meanings())


def _short(signature: str) -> str:
    """Names without their modules."""
    return re.sub(r"~(?:\w+\.)+|(?:\w+\.)+(?=[A-Z])", "", signature)


def _named(signature: str, meanings: Mapping[str, str]) -> str:
    for alias, meaning in meanings.items():
        signature = signature.replace(meaning, alias)
    return signature


@cache
def _meanings() -> dict[str, str]:
    """Type aliases by name, in an order in which later meanings use earlier names."""
    meanings: dict[str, str] = {}
    aliases = {"Denoise": Denoise, "Step": Step, "Objective": Objective, "Network": Network}
    for name, alias in aliases.items():
        meanings[name] = _named(_short(str(alias)), meanings)
    return meanings


def describe_figures(app, doctree) -> None:
    """Give the images of figures the caption's first sentence to be read out.

    Else Sphinx gives them their file's name.
    """
    for figure in doctree.findall(nodes.figure):
        for caption in figure.findall(nodes.caption):
            sentence = re.split(r"(?<=[.?]) ", " ".join(caption.astext().split()))[0]
            for image in figure.findall(nodes.image):
                image.setdefault("alt", sentence)


def _read_numpydoc(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = plain_text(lines)
    # Of a variable napoleon would take the words before a colon for its type.
    if what not in ("attribute", "data", "property"):
        lines[:] = NumpyDocstring(lines, _NUMPYDOC, app, what, name, obj, options).lines()


_NUMPYDOC = napoleon.Config(napoleon_use_rtype=False)


def _skip_fields(app, what, name, obj, skip, options) -> bool | None:
    """Leave out the fields of named tuples, of which Python says their number alone."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def _shorten(app, what, name, obj, options, signature, returned) -> tuple[str | None, str | None]:
    return signature and with_aliases(signature), returned and with_aliases(returned)


def setup(app) -> dict[str, bool]:
    """Connect the extension; called by Sphinx."""
    # Kernels are child processes and inherit this: a bare clone builds.
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = [str(folder) for folder in (ROOT, ROOT / "book") if str(folder) not in path]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*own, *path)))
    # "env": with another digest Sphinx reads, so executes, every page again.
    app.add_config_value("ppap_lib_digest", library_digest(), "env", [str])
    # Sphinx exits 1 after a build with warnings only if it was told to keep going over them.
    app.keep_going = True
    app.connect("config-inited", _use_own_cache, priority=100)
    app.connect("doctree-read", describe_figures)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("autodoc-process-docstring", _read_numpydoc)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
