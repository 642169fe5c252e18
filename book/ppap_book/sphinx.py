"""The book's Sphinx extension (`local_extensions` in `_config.yml`).

It closes four gaps of Jupyter Book 1.x: a failed notebook is only a warning and the build
exits 0; the cache knows a notebook's own cells but not the library they call; a clone
whose package is not installed cannot import it; and figures have no words for those who cannot
see them. For the reference pages it makes
reStructuredText, which autodoc reads, of the library's plain docstrings.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]
CACHE = ".jupyter_cache-"


def library_digest(root: Path = ROOT) -> str:
    """A digest of all that pages read: the package, the lock, the ledger, and data of their own.

    Not the table of contents, which Sphinx itself watches.
    """
    packages = (root / "ppap_lib", root / "book" / "ppap_book")
    code = (path for package in packages for path in package.rglob("*") if path.is_file())
    inputs = [
        *(path for path in code if "__pycache__" not in path.parts),
        *(root / "book" / "results").glob("**/*.json"),
        *(root / "book").glob("[!_]*.yml"),
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


def restructured(docstring: list[str]) -> list[str]:
    """A plain docstring as reStructuredText: `code` as literals, indented blocks as they are.

    Everything else is text, in which `*`, `|`, `_` and a backslash mean themselves.
    """
    lines: list[str] = []
    block = False
    for line in docstring:
        if line.startswith("    "):
            if not block and not (lines and lines[-1]):
                lines += ["::", ""]
                block = True
            lines.append(line if block else _escaped(line))
        else:
            block = block and not line
            lines.append(_escaped(line))
    return lines


def _escaped(line: str) -> str:
    spans = re.split(r"(`[^`]+`)", line)
    spans[::2] = (re.sub(r"([\\*|_`])", r"\\\1", text) for text in spans[::2])
    # A literal cannot begin or end with a space.
    spans[1::2] = (f"``{code[1:-1].strip()}``" for code in spans[1::2])
    return "".join(spans)


def with_aliases(signature: str) -> str:
    """A signature with the library's type aliases by name, as its source has them.

    So are its functions: Sphinx has no source of a partial's signature, and prints their repr.
    """
    signature = re.sub(r"~(?:\w+\.)+|(?:\w+\.)+(?=[A-Z])", "", signature)
    signature = re.sub(r"<(?:built-in )?function (\w+)(?: at 0x\w+)?>", r"\1", signature)
    for alias, meaning in _ALIASES.items():
        signature = signature.replace(meaning, alias)
    return signature


_ALIASES = {
    "Denoise": "Callable[[Tensor, Level], Prediction]",
    "Step": "Callable[[Denoise, Tensor, Level, Level, Sequence[Evaluation], Callable[[], Tensor]], "
    "Tensor]",
    "Objective": "Callable[[Module, Tensor, Tensor, Generator], Tensor]",
    "Network": "Callable[[Tensor, Tensor], Tensor]",
}
"""By name, in an order in which later meanings may use earlier names."""


def describe_figures(app, doctree) -> None:
    """Give the images of figures the caption's first sentence to be read out.

    Else Sphinx gives them their file's name.
    """
    for figure in doctree.findall(nodes.figure):
        for caption in figure.findall(nodes.caption):
            sentence = re.split(r"(?<=[.?]) ", " ".join(caption.astext().split()))[0]
            for image in figure.findall(nodes.image):
                image.setdefault("alt", sentence)


def _rewrite(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = restructured(lines)


def _shorten(app, what, name, obj, options, signature, returned) -> tuple[str | None, str | None]:
    return signature and with_aliases(signature), returned and with_aliases(returned)


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
    app.connect("doctree-read", describe_figures)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _rewrite)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
