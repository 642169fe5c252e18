"""What pages and the README tell their reader to type, as the programs understand it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from places import ROOT


def texts() -> Iterator[tuple[str, str]]:
    """(name, prose) of every page and of the README."""
    for page in (ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))):
        yield page.stem, page.read_text("utf8")
    for page in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(page, as_version=4).cells
        yield page.stem, "\n".join(c.source for c in cells if c.cell_type == "markdown")


def readme_listing(evaluations: int) -> str:
    """The README's Python, at fewer evaluations of the denoiser than its twenty-five."""
    text = (ROOT / "README.md").read_text("utf8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    few, changes = re.subn(r"(steps|evaluations)=25\b", rf"\g<1>={evaluations}", code)
    assert changes == 2
    return few


COMMAND = r"bin/ppap |-m ppap_(lib|book) "
"""A command of ours: the console script, or a package that is run."""

PACKAGES = {"ppap": "ppap_lib", "ppap_lib": "ppap_lib", "ppap_book": "ppap_book"}


def lines(program: str) -> list[tuple[str, str]]:
    """(page, command) of every line of a bash block that the regular expression `program` finds."""
    found = []
    for name, text in texts():
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            commands = block.replace("\\\n", " ").splitlines()
            found += [(name, " ".join(c.split())) for c in commands if re.search(program, c)]
    return found


def arguments(command: str) -> tuple[str, list[str]]:
    """The package whose command a line runs, and the arguments that it hands to it."""
    words = shlex.split(command)
    place = next(i for i, word in enumerate(words) if Path(word).name in PACKAGES)
    return PACKAGES[Path(words[place]).name], words[place + 1 :]


def papermills(command: str) -> tuple[str, dict[str, Any]]:
    """The notebook that a papermill command executes, and the parameters that it reads."""
    from papermill import cli

    with mock.patch.object(cli, "execute_notebook") as execute:
        cli.papermill.main(shlex.split(command)[1:], standalone_mode=False)
    given = execute.call_args.kwargs
    return given["input_path"], given["parameters"]


def parameters(page: str) -> dict[str, Any]:
    """Of all papermill commands that a notebook prints."""
    found: dict[str, Any] = {}
    for name, command in lines("papermill notebooks/"):
        if name == page:
            found |= papermills(command)[1]
    return found
