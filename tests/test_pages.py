"""What pages print: every command is one that its program understands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from ppap_lib.book import restructured, with_aliases
from ppap_lib.distill.__main__ import _parser as distill
from ppap_lib.generate.__main__ import parser as generate
from ppap_lib.studies.__main__ import parser as studies
from ppap_lib.train.__main__ import _parser as train

ROOT = Path(__file__).parents[1]
PARSERS = {"distill": distill, "generate": generate, "studies": studies, "train": train}


def texts() -> Iterator[tuple[str, str]]:
    """(name, prose) of every page."""
    for page in sorted((ROOT / "book").glob("*.md")):
        yield page.stem, page.read_text("utf8")
    for page in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(page, as_version=4).cells
        yield page.stem, "\n".join(c.source for c in cells if c.cell_type == "markdown")


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a bash block that runs one of the programs."""
    found = []
    for name, text in texts():
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name, " ".join(line.split())) for line in lines if "-m ppap_lib." in line]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_printed_command_is_understood(page, command):
    words = shlex.split(command)
    module = next(word for word in words if word.startswith("ppap_lib."))
    parser = PARSERS[module.removeprefix("ppap_lib.")]()
    parser.parse_args(words[words.index(module) + 1 :])


def test_there_are_such_commands():
    assert {page for page, _ in commands()} >= {"paper_scale", "02_samples", "08_noise_and_beta"}


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


def test_signatures_name_the_aliases():
    denoise = "~collections.abc.Callable[[~torch.Tensor, ~ppap_lib.schedule.Level], Prediction]"
    rest = "Tensor, Level, Level, Sequence[Moment], Callable[[], torch.Tensor]"
    step = f"Callable[[{denoise}, {rest}], Tensor]"
    found = with_aliases(f"(denoise: {denoise}, step: {step}, eta: float = 0.5)")
    assert found == "(denoise: Denoise, step: Step, eta: float = 0.5)"


def test_the_reference_has_every_module():
    """Each module of the package and of its studies; other packages speak for their parts."""
    package = ROOT / "ppap_lib"
    modules = [*package.glob("*.py"), *package.glob("*/__init__.py"), *package.glob("studies/*.py")]
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules
    }
    commands = {"ppap_lib.bench", "ppap_lib.notebooks", "ppap_lib.studies.cards"}
    silent = {"ppap_lib", "ppap_lib.book", "ppap_lib.networks", "ppap_lib.studies"}
    pages = "".join(page.read_text("utf8") for page in (ROOT / "book" / "api").glob("*.md"))
    shown = set(re.findall(r"automodule:: (\S+)", pages))
    wanted = {name for name in names - commands - silent if not name.endswith("__main__")}
    assert wanted - shown == set()
