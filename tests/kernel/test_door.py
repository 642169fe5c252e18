"""The door, `import ppap_lib as ppap`: light, complete, and of one meaning a name."""

import importlib
import subprocess
import sys

import pytest
from places import ROOT

import ppap_lib as ppap

NAMES = ppap.__all__
HEAVY = {"numpy", "safetensors", "torch"}
ROOMS = sorted(path.parent.name for path in (ROOT / "ppap_lib").glob("*/__init__.py"))


def loaded(code: str) -> set[str]:
    """What a fresh interpreter has imported of this package, and of what is heavy, after `code`."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in run.stdout.split() if name.split(".")[0] in {"ppap_lib", *HEAVY}}


def rooms(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("ppap_lib.")}


def test_nothing_is_imported_until_a_name_is_used():
    assert loaded("import ppap_lib\ndir(ppap_lib)") == {"ppap_lib"}


def test_a_name_imports_its_room_and_floors_below_it():
    assert rooms(loaded("from ppap_lib import GuidanceError")) == {"errors"}
    below = {"errors", "arguments", "device", "parameters", "diffusion"}
    found = rooms(loaded("import ppap_lib as ppap\nppap.guided"))
    assert "guidance" in found and found <= {"guidance", *below}


def test_the_list_is_complete_and_sorted():
    assert sorted(set(NAMES)) == NAMES and set(NAMES) <= set(dir(ppap))
    assert dir(ppap) == sorted(dir(ppap))
    star: dict = {}
    exec("from ppap_lib import *", star)
    assert star.keys() >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_documented(name):
    value = getattr(ppap, name)
    assert value.__doc__ and value is getattr(ppap, name)


def test_no_name_has_two_meanings():
    meanings: dict[str, dict] = {name: {"the door": getattr(ppap, name)} for name in NAMES}
    for room in ROOMS:
        module = importlib.import_module(f"ppap_lib.{room}")
        for name in getattr(module, "__all__", ()):
            meanings.setdefault(name, {})[room] = getattr(module, name)
    assert {n: [*by] for n, by in meanings.items() if len({id(v) for v in by.values()}) > 1} == {}


def test_rooms_are_reached_through_the_door():
    assert not set(ROOMS) & set(NAMES)
    code = "import ppap_lib as ppap\nppap.zoo.card\nfrom ppap_lib import samplers, zoo\n"
    assert "ppap_lib.zoo.cards" in loaded(code + "assert ppap.samplers is samplers")
    assert "ppap_lib.experts.lora" in loaded("import ppap_lib.experts.lora")


@pytest.mark.parametrize(
    ("name", "right"),
    [("gided", "guided"), ("Difusion", "Diffusion"), ("zo", "zoo")],
)
def test_a_misspelt_name_is_answered_with_the_right_one(name, right):
    with pytest.raises(AttributeError, match=f"no attribute {name!r}: did you mean {right!r}"):
        getattr(ppap, name)


def test_a_name_that_is_like_none_is_an_error_too():
    assert not hasattr(ppap, "qqqq") and getattr(ppap, "__wrapped__", None) is None
    with pytest.raises(ImportError, match="qqqq"):
        exec("from ppap_lib import qqqq")
