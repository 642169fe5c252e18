"""Prose pages: every command they print is one that its program understands."""

import re
import shlex
from pathlib import Path

import pytest

from ppap_lib.book import restructured
from ppap_lib.distill.__main__ import _parser as distill
from ppap_lib.generate.__main__ import parser as generate
from ppap_lib.studies.__main__ import parser as studies

BOOK = Path(__file__).parents[1] / "book"
PARSERS = {"distill": distill, "generate": generate, "studies": studies}


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line in a page's bash blocks that calls the library."""
    found = []
    for page in sorted(BOOK.glob("*.md")):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf8"), flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.stem, line) for line in lines if "-m ppap_lib." in line]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_printed_command_is_understood(page, command):
    words = shlex.split(command)
    module = next(word for word in words if word.startswith("ppap_lib."))
    parser = PARSERS[module.removeprefix("ppap_lib.")]()
    parser.parse_args(words[words.index(module) + 1 :])


def test_there_are_such_commands():
    assert {page for page, _ in commands()} >= {"paper_scale"}


def test_docstrings_become_restructured_text():
    docstring = ["`x_t` of *shape, |s| and b_.", "", "    a = `b`*2", "    more", "", "End `# `."]
    assert restructured(docstring) == [
        r"``x_t`` of \*shape, \|s\| and b\_.",
        "",
        "::",
        "",
        "    a = `b`*2",
        "    more",
        "",
        "End ``#``.",
    ]
