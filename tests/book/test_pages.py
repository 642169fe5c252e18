"""What pages print: every command is one that its program understands, and carries out."""

import re
import shutil
from functools import partial

import printed
import pytest
from docutils import nodes
from docutils.utils import new_document
from printed import ROOT

import ppap_book.__main__
from ppap_book import study
from ppap_book.sphinx import describe_figures, library_digest, restructured, with_aliases
from ppap_book.studies import (
    attention,
    distillation,
    gradients,
    guidance,
    intervals,
    noise,
    noisy_accuracy,
    scales,
)
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
    record_all = study.record

    def record(name, runs, *rest, **options):
        record_all(name, list(runs)[-1:], *rest, **options)

    shutil.copytree(ROOT / "book" / "results", tmp_path / "results")
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "record", record)
    for module in (attention, gradients, guidance, intervals, noise, noisy_accuracy, scales):
        own = module.record  # the same with the study's name and measure
        monkeypatch.setattr(module, "record", partial(record, *own.args, **own.keywords))
    monkeypatch.setattr(guidance, "sampler", lambda name: guidance.Sampler("2", ddim, "score"))
    monkeypatch.setattr(datasets, "require", lambda name, split: images)
    monkeypatch.setattr(datasets, "test_images", lambda name: images)
    monkeypatch.setattr(distillation, "HELD_OUT", 20)
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


@pytest.mark.parametrize(
    "name",
    [
        "ppap_lib/module.py",
        "ppap_lib/assets/published/table.csv",
        "book/results/study/0.json",
        "book/claims.yml",
        "requirements.lock",
    ],
)
def test_a_page_is_executed_again_when_what_it_reads_has_changed(name, tmp_path):
    """The cache goes by a page's cells and by this digest, and knows no other file."""
    before = library_digest(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in ("one", "other"):
        path.write_text(text)
        assert library_digest(tmp_path) != before
        before = library_digest(tmp_path)


def test_the_digest_covers_every_file_that_pages_name():
    named = re.compile(r"""["']([\w/.-]+\.(?:yml|yaml|json|csv|npz|txt))["']""")
    pages = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/[0-9]*.ipynb")]
    read = {found for page in pages for found in named.findall(page.read_text("utf8"))}
    assert {name for name in read if (ROOT / "book" / name).is_file()} == {"claims.yml"}


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


def test_a_figure_s_image_is_described_by_the_first_sentence_of_its_caption():
    doctree = new_document("page")
    told, silent = nodes.image(uri="a.png", alt="A cat."), nodes.image(uri="b.png")
    for image in (told, silent):
        caption = nodes.caption("", "Left: a curve\nat scale 7.5. Right: another.")
        doctree += nodes.figure("", image, caption)
    describe_figures(None, doctree)
    assert (told["alt"], silent["alt"]) == ("A cat.", "Left: a curve at scale 7.5.")


def test_signatures_name_the_aliases():
    level = "~ppap_lib.diffusion.levels.Level"
    denoise = f"~collections.abc.Callable[[~torch.Tensor, {level}], Prediction]"
    rest = "Tensor, Level, Level, Sequence[Evaluation], Callable[[], torch.Tensor]"
    step = f"Callable[[{denoise}, {rest}], Tensor]"
    found = with_aliases(f"(denoise: {denoise}, step: {step}, eta: float = 0.5)")
    assert found == "(denoise: Denoise, step: Step, eta: float = 0.5)"
    partial_s = (
        "(device: ~torch.device | str = 'cpu', tell=<built-in function print>, m=<function f>)"
    )
    assert with_aliases(partial_s) == "(device: device | str = 'cpu', tell=print, m=f)"


def test_the_reference_has_every_module():
    """Each module of the package and of its studies; other packages speak for their parts."""
    package = ROOT / "ppap_lib"
    modules = [*package.glob("*.py"), *package.glob("*/__init__.py"), *package.glob("studies/*.py")]
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules
    }
    commands = {"ppap_book.bench", "ppap_book.notebooks", "ppap_book.cards"}
    silent = {"ppap_lib", "ppap_book.sphinx", "ppap_lib.networks", "ppap_book.studies"}
    pages = "".join(page.read_text("utf8") for page in (ROOT / "book" / "api").glob("*.md"))
    shown = set(re.findall(r"automodule:: (\S+)", pages))
    wanted = {name for name in names - commands - silent if not name.endswith("__main__")}
    assert wanted - shown == set()
