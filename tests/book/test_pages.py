"""What pages print: commands are carried out, and options and names exist."""

import importlib
import re
import shutil

import printed
import pytest
from printed import ROOT

import ppap_book.__main__
from ppap_book import run
from ppap_book.studies import expert_training
from ppap_book.study import Study
from ppap_lib import cli
from ppap_lib.cli import commands
from ppap_lib.zoo import datasets

MAINS = {"ppap_lib": cli.main, "ppap_book": ppap_book.__main__.main}
# Those of the paper's tier are carried out by test_imagenet256, which has networks for them, and
# those that measure a row again, and file none, by test_rerun.
COMMANDS = [c for c in printed.lines(printed.COMMAND) if not re.search("imagenet256| rerun ", c[1])]

# What makes a printed command one of a few seconds; most studies make the last of their runs alone.
SMALLER = {
    "distill": "--images 10 --batch 2 --device cpu --quiet",
    "generate": "--images 20 --spacing 2 --device cpu --quiet",
    "list": "",
    "train": "--minutes 0.01 --batch 4 --device cpu --quiet",
    "ablation": "--n 2 --device cpu",
    "ablations": "--images 10 --only shared-time --n 2 --device cpu",
    "architecture": "--seconds 0.05",
    "distillation": "",
    "guidance": "--n 2 --device cpu",
    "intervals": "--n 2 --device cpu",
    "noise": "--n 66 --steps 2 --device cpu",
    "samplers": "--solvers ddim --n 66 --budgets 5 --blocks 1 --device cpu",
    "scales": "--n 11 --device cpu",
}


def test_there_are_such_commands():
    assert {page for page, _ in COMMANDS} >= {"02_samples", "08_noise_and_beta"}


@pytest.fixture
def small_world(tmp_path, monkeypatch, quick_training, pixel_features, two_steps):
    """An empty folder to work in; a copy of the ledger, few images, and a cheap extractor."""
    images = datasets.load("fashion", "test").subset(range(200))
    record_all = Study.record

    def record(study, runs, *rest):
        record_all(study, list(runs)[-1:], *rest)

    shutil.copytree(ROOT / "book" / "results", tmp_path / "results")
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Study, "record", record)
    monkeypatch.setattr(datasets, "require", lambda name, split: images)
    monkeypatch.setattr(datasets, "test_images", lambda name: images)
    monkeypatch.setattr(expert_training, "HELD_OUT", 20)
    return tmp_path


def program(words: list[str]) -> str:
    """What a command's `words` run: a study, or one of the library's commands."""
    return words[1] if words[0] == "run" else words[0]


def carry_out(package: str, words: list[str]) -> None:
    """A printed command, made small."""
    assert MAINS[package]([*words, *SMALLER[program(words)].split()]) == 0


@pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in COMMANDS))
def test_what_a_page_prints_is_carried_out(page, small_world):
    """In the order of the page: a study files a row, and what trains or draws leaves its folder."""
    lines = [printed.arguments(command) for name, command in COMMANDS if name == page]
    folders = {"--data": set(), "--folder": set()}
    for _, words in lines:
        for option in folders.keys() & set(words):
            if program(words) == "generate" or option == "--data":
                folders[option].add(words[words.index(option) + 1])
    for folder in folders["--data"] - folders["--folder"]:  # another page says how
        carry_out("ppap_lib", ["generate", "--images", "20", "--folder", folder])
    for package, words in lines:
        before = len(list(small_world.glob("results/*/*.json")))
        carry_out(package, words)
        if package == "ppap_book":
            assert len(list(small_world.glob("results/*/*.json"))) > before
        elif program(words) != "list":
            assert any((small_world / "runs").rglob("*.safetensors"))


def options() -> set[str]:
    """What `ppap` and the studies understand."""
    parsers = [commands.parser(), run.parser()]
    for top in tuple(parsers):
        parsers += top._subparsers._group_actions[0].choices.values()
    return {flag for parser in parsers for flag in parser._option_string_actions}


def test_options_in_prose_exist():
    prose = {name: re.sub(r"```.*?```", "", text, flags=re.S) for name, text in printed.texts()}
    found = {
        (name, flag)
        for name, text in prose.items()
        for span in re.findall(r"`([^`\n]+)`", text)
        if not re.search(r"papermill|pip ", span)
        for flag in re.findall(r"--[a-z][a-z-]*", span)
    }
    assert len(found) > 10
    assert {pair for pair in found if pair[1] not in options()} == set()


NAME = re.compile(r"\bppap(_lib|_book|)((?:\.[A-Za-z_]\w*)+)")


def resolves(package: str, path: str) -> bool:
    """Whether the dotted `path` leads to a module or a name in it; "ppap" is the door."""
    value = importlib.import_module(f"ppap{package or '_lib'}")
    name = value.__name__
    for part in path.removeprefix(".").split("."):
        name += f".{part}"
        if not hasattr(value, part):
            try:
                importlib.import_module(name)
            except ImportError:
                return False
        value = getattr(value, part)
    return True


def named() -> dict[str, list[tuple[str, str]]]:
    """By page or module: names of ours between backticks."""
    texts = dict(printed.texts())
    for folder in ("ppap_lib", "book/ppap_book"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            texts[path.relative_to(ROOT).as_posix()] = path.read_text("utf8")
    found = {
        where: [name for span in re.findall(r"`([^`\n]+)`", text) for name in NAME.findall(span)]
        for where, text in texts.items()
    }
    return {where: names for where, names in found.items() if names}


@pytest.mark.parametrize(("where", "names"), list(named().items()))
def test_names_in_prose_resolve(where, names):
    assert [name for name in names if not resolves(*name)] == []


def test_a_name_that_is_gone_does_not_resolve():
    assert resolves("_lib", ".samplers.draw") and resolves("_book", ".study.from_notebook")
    assert resolves("", ".load") and resolves("_lib", ".distill.experts.ExpertTraining")
    assert not resolves("_lib", ".generate") and not resolves("", ".experts.load")
    assert {"README", "ppap_lib/distill/__init__.py"} & named().keys()
