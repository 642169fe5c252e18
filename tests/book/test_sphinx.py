"""The book's Sphinx extension, and the reference pages that it makes of docstrings."""

import importlib
import inspect
import os
import re
from collections import Counter, namedtuple
from types import SimpleNamespace

import pytest
import yaml
from docutils import nodes
from docutils.core import publish_doctree
from docutils.utils import new_document
from places import ROOT

from ppap_book.sphinx import (
    _read_numpydoc,
    _skip_fields,
    describe_figures,
    library_digest,
    plain_text,
    setup,
    with_aliases,
)

API = ROOT / "book" / "api"
PACKAGES = {
    package: sorted(
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in folder.rglob("*.py")
        if path.stem != "__main__"
    )
    for package, folder in (
        ("ppap_lib", ROOT / "ppap_lib"),
        ("ppap_book", ROOT / "book" / "ppap_book"),
    )
}
MODULES = [name for names in PACKAGES.values() for name in names]


# The cache


@pytest.mark.parametrize(
    "name",
    [
        "ppap_lib/room/module.py",
        "ppap_lib/assets/cards/judge.json",
        "book/ppap_book/module.py",
        "book/ppap_book/published/table.csv",
        "book/results/study/0123456789ab.json",
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


@pytest.mark.parametrize("name", ["book/_toc.yml", "ppap_lib/__pycache__/module.pyc", "README.md"])
def test_other_files_leave_the_cache_as_it_is(name, tmp_path):
    before = library_digest(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("text")
    assert library_digest(tmp_path) == before


def test_the_digest_covers_every_file_that_pages_name():
    named = re.compile(r"""["']([\w/.-]+\.(?:yml|yaml|json|csv|npz|txt))["']""")
    pages = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/[0-9]*.ipynb")]
    read = {found for page in pages for found in named.findall(page.read_text("utf8"))}
    assert {name for name in read if (ROOT / "book" / name).is_file()} == {"claims.yml"}


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_kernels_of_a_bare_clone_find_both_packages(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", before)
    quiet = SimpleNamespace(
        add_config_value=lambda *_: None,
        connect=lambda *_, **__: None,
        setup_extension=lambda name: None,
    )
    expected = [str(ROOT), str(ROOT / "book"), *filter(None, [before])]
    for _ in range(2):  # a second application in the process adds nothing
        setup(quiet)
        assert os.environ["PYTHONPATH"].split(os.pathsep) == expected


# Figures and signatures


def test_a_figure_s_image_is_described_by_the_first_sentence_of_its_caption():
    doctree = new_document("page")
    told, silent = nodes.image(uri="a.png", alt="A cat."), nodes.image(uri="b.png")
    for image in (told, silent):
        caption = nodes.caption("", "Left: a curve\nat scale 7.5. Right: another.")
        doctree += nodes.figure("", image, caption)
    describe_figures(None, doctree)
    assert (told["alt"], silent["alt"]) == ("A cat.", "Left: a curve at scale 7.5.")


def test_signatures_name_the_aliases():
    denoise = (
        "~collections.abc.Callable[[~torch.Tensor, ~ppap_lib.diffusion.levels.Level], Prediction]"
    )
    objective = "Callable[[Module, Tensor, Any, Generator], Tensor]"
    rest = "Tensor, Level, Level, Sequence[Evaluation], Callable[[], torch.Tensor]"
    step = f"Callable[[{denoise}, {rest}], Tensor]"
    found = with_aliases(f"(denoise: {denoise}, step: {step}, loss: {objective} = 0.5)")
    assert found == "(denoise: Denoise, step: Step, loss: Objective = 0.5)"
    partial_s = (
        "(device: ~torch.device | str = 'cpu', tell=<built-in function print>, m=<function f>)"
    )
    assert with_aliases(partial_s) == "(device: device | str = 'cpu', tell=print, m=f)"


# Docstrings


def test_markup_in_a_docstring_s_text_means_itself():
    docstring = ["`x_t*` of [B, *shape], p(x|y) and b_.", "", "    more * of it", "End `# `."]
    assert plain_text(docstring) == [
        r"`x_t*` of [B, \*shape], p(x\|y) and b\_.",
        "",
        r"    more \* of it",
        "End `# `.",
    ]


def test_code_in_a_docstring_stays_as_it_is():
    docstring = ["Code::", "", "    a * b", "", "ends * here", "", ">>> a * b", "c_ | d", "", "*"]
    assert plain_text(docstring) == [*docstring[:4], r"ends \* here", *docstring[5:9], r"\*"]


def test_a_variable_s_words_before_a_colon_are_no_type():
    lines = ["Steps: as published."]
    _read_numpydoc(None, "data", "name", None, {}, lines)
    assert lines == ["Steps: as published."]


def test_sections_of_numpydoc_become_fields():
    lines = ["Do it.", "", "Parameters", "----------", "x_t : Tensor", "    [B, *shape]."]
    _read_numpydoc(None, "function", "name", None, {}, lines)
    assert lines[2:4] == [r":param x_t: [B, \*shape].", ":type x_t: Tensor"]


def test_fields_of_named_tuples_are_left_out():
    fields = vars(namedtuple("Pair", "one other"))
    assert _skip_fields(None, "class", "one", fields["one"], False, {}) is True
    assert _skip_fields(None, "class", "setup", setup, False, {}) is None


def docstrings(module):
    """(name, docstring) of a module, its public functions and classes, and their methods."""
    yield module.__name__, module.__doc__
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        yield f"{module.__name__}.{name}", value.__doc__
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            if not method.startswith("_"):
                yield f"{module.__name__}.{name}.{method}", function.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_are_restructured_text(name):
    """Warnings are errors of the book's build, minutes after this says so."""
    settings = {"report_level": 5, "halt_level": 5, "warning_stream": False}
    for where, docstring in docstrings(importlib.import_module(name)):
        lines = inspect.cleandoc(docstring or "").splitlines()
        _read_numpydoc(None, "function", where, None, {}, lines)
        text = "\n".join(lines)
        tree = publish_doctree(".. default-role:: code\n\n" + text, settings_overrides=settings)
        # Roles of Sphinx's own, which napoleon writes, are unknown here.
        faults = [fault.astext() for fault in tree.findall(nodes.system_message)]
        faults = [fault for fault in faults if "py:" not in fault]
        assert faults == [], f"{where}: {faults}"


# The reference


def shown(page: str) -> list[str]:
    return re.findall(r"automodule:: (\S+)", page)


def test_every_module_is_on_one_page_of_the_reference():
    pages = [path.read_text("utf8") for path in (API.parent / "api.md", *API.glob("*.md"))]
    assert sorted(name for page in pages for name in shown(page)) == sorted(MODULES)


def test_every_page_of_the_reference_is_in_the_book():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf8"))
    files = {c["file"] for part in toc["parts"] for c in part["chapters"]}
    assert {f"api/{path.stem}" for path in API.glob("*.md")} == {
        name for name in files if name.startswith("api/")
    }


def test_the_landing_page_shows_the_floors():
    rooms = (ROOT / "tests" / "kernel" / "test_rooms.py").read_text("utf8")
    floors = eval(re.search(r"^FLOORS = (\(.*?^\))", rooms, re.DOTALL | re.MULTILINE)[1])
    table = re.findall(r"^\| (\d) \| (.*) \|$", (ROOT / "book" / "api.md").read_text("utf8"), re.M)
    assert [int(floor) for floor, _ in table] == list(range(len(floors)))
    assert [tuple(re.findall(r"`(\w+)`", cells)) for _, cells in table] == list(floors)


def test_a_class_has_a_name_of_its_own():
    """Else the reference cannot tell which one a signature means."""
    sources = (
        path.read_text("utf8")
        for name in ("ppap_lib", "book/ppap_book")
        for path in (ROOT / name).rglob("*.py")
    )
    names = Counter(
        name for text in sources for name in re.findall(r"^class (\w+)", text, re.MULTILINE)
    )
    assert [name for name, count in names.items() if count > 1] == []
