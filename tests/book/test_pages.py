"""What pages print: every command is one that its program understands, and carries out."""

import shutil

import printed
import pytest
from printed import ROOT

import ppap_book.__main__
from ppap_book.studies import expert_training, guidance
from ppap_book.study import Study
from ppap_lib import cli
from ppap_lib.samplers import ddim
from ppap_lib.zoo import datasets

MAINS = {"ppap_lib": cli.main, "ppap_book": ppap_book.__main__.main}
# Those of the paper's tier are carried out by test_imagenet256, which has networks for them.
COMMANDS = [c for c in printed.lines(printed.COMMAND) if "imagenet256" not in c[1]]

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
def small_world(tmp_path, monkeypatch, quick_training, pixel_features):
    """An empty folder to work in; a copy of the ledger, few images, and a cheap extractor."""
    images = datasets.load("fashion", "test").subset(range(200))
    record_all = Study.record

    def record(study, runs, *rest):
        record_all(study, list(runs)[-1:], *rest)

    shutil.copytree(ROOT / "book" / "results", tmp_path / "results")
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Study, "record", record)
    monkeypatch.setattr(guidance, "sampler", lambda name: guidance.Sampler("2", ddim, "score"))
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
    commands = [printed.arguments(command) for name, command in COMMANDS if name == page]
    folders = {"--data": set(), "--folder": set()}
    for _, words in commands:
        for option in folders.keys() & set(words):
            if program(words) == "generate" or option == "--data":
                folders[option].add(words[words.index(option) + 1])
    for folder in folders["--data"] - folders["--folder"]:  # another page says how
        carry_out("ppap_lib", ["generate", "--images", "20", "--folder", folder])
    for package, words in commands:
        before = len(list(small_world.glob("results/*/*.json")))
        carry_out(package, words)
        if package == "ppap_book":
            assert len(list(small_world.glob("results/*/*.json"))) > before
        elif program(words) != "list":
            assert any((small_world / "runs").rglob("*.safetensors"))
