"""Every command that this project offers or prints is run: by CI, or at its smallest by a test."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import printed
import pytest
from places import ROOT

MAKEFILE = (ROOT / "Makefile").read_text("utf8")
CI = (ROOT / ".ci" / "run").read_text("utf8")
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]

TARGETS = {
    "book": "CI",
    "test": "CI",
    "lint": "test_lint_finds_what_format_mends",
    "format": "test_lint_finds_what_format_mends",
    "bench": "test_bench_measures",
    "clean": "test_clean_leaves_what_was_made_by_hand",
    "$(STAMP)": "CI",  # in a fresh clone, by its first `make`
}
"""By the Makefile's target: what runs it."""

PRINTED = {
    r"make (book|test|lint|format|bench|clean)": "test_every_target_is_run",
    r"(.venv/bin/)?ppap ": "book/test_pages.py",
    r"(.venv/bin/)?python -m ppap_lib": "kernel/cli",
    r".venv/bin/torchrun --nproc-per-node 8 -m ppap_lib generate ": "book/test_imagenet256.py",
    r"(.venv/bin/)?python -m ppap_book run ": "book/test_pages.py",
    r".venv/bin/python -m ppap_book cards ": "book/test_cards.py",
    r".venv/bin/python -m ppap_book rerun ": "book/test_rerun.py",
    r"mkdir -p runs": "book/test_notebooks.py",
    r".venv/bin/papermill notebooks/": "book/test_notebooks.py",
    r".venv/bin/papermill --help-notebook ": "test_papermill_lists_a_page_s_parameters",
    r".venv/bin/jupyter lab": "book/test_browser.py",
    r"pip install --no-deps -r requirements.lock && pip install --no-deps -e \.": "CI",
    r"jupyter-book build book/": "CI",
    r"pytest": "CI",
    r"PIP_NO_DEPS=1 conda env create -f environment.yml": "book/test_config.py",
    r"git clone -c core.symlinks=true": "book/test_config.py",
}
"""By the beginning of a printed command: what runs it, or does what it would."""


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the Makefile in a folder, by this interpreter's tools, as if they were just installed."""
    quiet = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}  # of a make that runs the tests
    return subprocess.run(
        ["make", "-f", ROOT / "Makefile", "-o", ".venv/.installed", f"BIN={BIN}", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in quiet},
        capture_output=True,
        text=True,
    )


def test_every_target_is_run():
    targets = re.findall(r"^([\w$()]+):(?!=)", MAKEFILE, re.MULTILINE)
    assert set(targets) == TARGETS.keys()
    for target in ("book", "test", "lint"):
        assert re.search(rf"\bmake {target}\b", CI)
    for runner in {*TARGETS.values()} - {"CI"}:
        assert runner in globals()


def commands() -> list[tuple[str, str]]:
    """(page, command) of all lines of bash blocks, and of commands within the prose."""
    found = printed.lines(".")
    words = r"\.venv/bin/|make |python |pip |jupyter|pytest|torchrun|conda|PIP_|ppap |git "
    for name, text in printed.texts():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found += [(name, " ".join(c.split())) for c in re.findall(rf"`((?:{words})[^`]*)`", prose)]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_printed_command_is_run(page, command):
    runners = [runner for start, runner in PRINTED.items() if re.match(start, command)]
    assert runners, f"{page} prints {command!r}, which nothing runs"
    for runner in runners:
        assert runner == "CI" or runner in globals() or (ROOT / "tests" / runner).exists()


def test_no_runner_is_listed_for_a_command_that_nothing_prints():
    said = [command for _, command in commands()]
    for start in PRINTED:
        assert any(re.match(start, command) for command in said), start


@pytest.mark.parametrize("name", PROJECT["scripts"])
def test_a_console_script_is_installed_and_explains_itself(name):
    run = subprocess.run([BIN / name, "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith(f"usage: {name}")


@pytest.mark.parametrize("command", ["ppap_book run", "ppap_book rerun", "ppap_book cards"])
def test_a_module_that_is_run_explains_itself(command):
    run = subprocess.run(
        [sys.executable, "-m", *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.startswith("usage: ")


def test_papermill_lists_a_page_s_parameters():
    pytest.importorskip("papermill")
    (command,) = {c for _, c in commands() if "--help-notebook" in c}
    program, *arguments = command.split()
    run = subprocess.run(
        [BIN / Path(program).name, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and "n_intervals: int (default 5)" in run.stdout


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one module, badly formatted, and one notebook as its editor left it."""
    for name in ("pyproject.toml", "notebooks/ruff.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "module.py").write_text("x = 'one'\n")
    code = nbformat.v4.new_code_cell(
        "1 + 1",
        id="c00",
        execution_count=3,
        outputs=[nbformat.v4.new_output("stream", text="2")],
        metadata={
            "tags": ["hide-input"],
            "mystnb": {"figure": {"name": "fig-two"}},
            "papermill": {"duration": 1},
        },
    )
    added = nbformat.v4.new_code_cell("T = 3", metadata={"tags": ["injected-parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[added, code])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    nbformat.write(notebook, tmp_path / "notebooks" / "page.ipynb")
    return tmp_path


def test_lint_finds_what_format_mends(checkout):
    page = checkout / "notebooks" / "page.ipynb"
    before = page.read_bytes()
    assert make(checkout, "lint").returncode != 0 and page.read_bytes() == before
    assert make(checkout, "format").returncode == 0
    assert make(checkout, "lint").returncode == 0
    assert (checkout / "module.py").read_text() == 'x = "one"\n'
    notebook = nbformat.read(page, as_version=4)
    (cell,) = notebook.cells
    assert (cell.id, cell.outputs, cell.execution_count) == ("c00", [], None)
    assert cell.metadata == {"tags": ["hide-input"], "mystnb": {"figure": {"name": "fig-two"}}}
    assert notebook.metadata["language_info"] == {"name": "python"}
    cell.outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(notebook, page)
    assert make(checkout, "lint").returncode != 0  # an output is enough


def test_bench_measures():
    run = make(ROOT, "bench", "BENCH=--seconds 0.01 --batch 1")
    assert run.returncode == 0 and "ratio = ppap_lib / diffusers" in run.stdout


def test_clean_leaves_what_was_made_by_hand(tmp_path):
    written = ("_build/html/a", ".pytest_cache/a", ".hypothesis/a", ".ruff_cache/a")
    caches = ("ppap_lib/room/__pycache__/a.pyc", "book/ppap_book/__pycache__/a.pyc")
    kept = (".venv/__pycache__/a.pyc", "runs/a", "ppap_lib/room/a.py", "tests/a", "notebooks/a")
    for name in (*written, *caches, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert make(tmp_path, "clean").returncode == 0
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
