"""What rooms export says what it takes, and shows itself at work."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

ROOMS = (
    *("data", "diffusion", "distill", "experts", "files"),
    *("guidance", "networks", "samplers", "training", "zoo"),
)
STEP = ["denoise", "x", "now", "nxt", "history", "noise"]


def modules_of(package):
    """A room's modules, itself first."""
    inside = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package, *(importlib.import_module(info.name) for info in inside)]


def exported(room):
    """Functions, classes and public methods by name: of `__all__`, or all that a room defines."""
    package = importlib.import_module(f"ppap_lib.{room}")
    modules = modules_of(package)
    names = getattr(package, "__all__", None)
    members = (
        {name: getattr(package, name) for name in names}
        if names
        else {
            name: member
            for module in modules
            for name, member in vars(module).items()
            if not name.startswith("_") and getattr(member, "__module__", None) == module.__name__
        }
    )
    for name, member in members.items():
        if inspect.isclass(member):
            yield name, member
            for inner, method in vars(member).items():
                method = getattr(method, "__func__", getattr(method, "fget", method))
                if not inner.startswith("_") and inspect.isfunction(method):
                    yield f"{name}.{inner}", method
        elif inspect.isfunction(member) and "<locals>" not in member.__qualname__:
            yield name, member  # what a function made, such as `euler`, is documented beside it


def parameters(member):
    found = inspect.signature(member).parameters.values()
    named = (p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    names = [name for name in named if name not in ("self", "cls")]
    return [] if names == STEP else names


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_exported_is_documented_with_all_parameters(room):
    documented = 0
    for name, member in exported(room):
        text = inspect.getdoc(member) or ""
        assert re.match(r"[A-Z]", text), f"{name} has no docstring"
        assert not re.match(r"(The same|Of|What|As)\b", text), f"{name}: {text.splitlines()[0]}"
        if inspect.isclass(member) and issubclass(member, tuple):
            continue  # a named tuple: what it holds is in its sentence
        missing = [p for p in parameters(member) if not re.search(rf"\b{re.escape(p)}\b", text)]
        assert not missing, f"{name} does not say what {missing} are"
        documented += 1
    assert documented > 10


@pytest.mark.parametrize("module", ["parameters", "device"])
def test_the_examples_of_the_ground_run(module):
    result = doctest.testmod(importlib.import_module(f"ppap_lib.{module}"))
    assert result.attempted and not result.failed


@pytest.mark.parametrize("room", ROOMS)
def test_the_examples_of_a_room_run(room):
    modules = modules_of(importlib.import_module(f"ppap_lib.{room}"))
    results = [doctest.testmod(module) for module in modules]
    assert results[0].attempted > 3 and not any(result.failed for result in results)
