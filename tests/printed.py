"""What pages and the README tell their reader to type, as the programs understand it."""

import re
import shlex
from collections.abc import Iterator
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


def lines(program: str) -> list[tuple[str, str]]:
    """(page, command) of every line of a bash block in which `program` occurs."""
    found = []
    for name, text in texts():
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            commands = block.replace("\\\n", " ").splitlines()
            found += [(name, " ".join(line.split())) for line in commands if program in line]
    return found


def arguments(command: str) -> tuple[str, list[str]]:
    """The program of ours that a command line runs, and what it hands to it."""
    words = shlex.split(command)
    place = next(i for i, word in enumerate(words) if word.startswith("ppap_lib."))
    return words[place].removeprefix("ppap_lib."), words[place + 1 :]


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
