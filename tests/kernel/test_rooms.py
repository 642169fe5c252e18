"""The rooms of the kernel: a module imports from its own room and from floors below it."""

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator

import pytest
from places import ROOT

PACKAGE = ROOT / "ppap_lib"

FLOORS = (
    ("errors", "arguments", "device", "parameters"),
    ("files", "diffusion"),
    ("samplers", "guidance", "data"),
    ("networks",),
    ("experts", "training"),
    ("zoo",),
    ("distill",),
    ("cli",),
)
"""From the ground up. Rooms of one floor do not import each other, but for ground and top."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
OPEN = {0, len(FLOORS) - 1}

# The kernel runs on a bare GPU box: these at module level, others inside functions,
NUMERIC = {"torch", "numpy", "safetensors"}
# and these not even there.
FORBIDDEN = {
    "IPython", "ipywidgets", "matplotlib", "papermill", "ppap_book", "seaborn", "torch_fidelity"
}  # fmt: skip


def imports(source: str, package: str) -> Iterator[tuple[str, bool]]:
    """(absolute name, whether at module level) of every import in a module of `package`."""

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) + 1 - child.level]
                base = ".".join([*(above if child.level else []), *filter(None, [child.module])])
                if base in ("ppap_lib", ""):
                    yield from ((f"ppap_lib.{alias.name}", top) for alias in child.names)
                else:
                    yield base, top
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, top and not inside)

    return walk(ast.parse(source), True)


def faults(source: str, module: str) -> list[str]:
    """What breaks the rule in a module given by its path under the package, "networks/adm"."""
    room = module.split("/")[0]
    if room in ("__init__", "__main__"):
        return []
    if room not in FLOOR:
        return [f"{module} is in no room that has a floor"]
    found = []
    package = ".".join(["ppap_lib", *module.split("/")[:-1]])
    for name, top in imports(source, package):
        root, *rest = name.split(".")
        if root == "ppap_lib":
            other = rest[0]
            if other not in FLOOR:
                if other != "__version__":
                    found.append(f"{module} imports {name}, which is in no room")
            elif other != room and FLOOR[other] > FLOOR[room] - (FLOOR[room] not in OPEN):
                found.append(f"{module} (floor {FLOOR[room]}) imports {name} ({FLOOR[other]})")
        elif root in FORBIDDEN:
            found.append(f"{module} imports {name}: not in the kernel")
        elif top and root not in NUMERIC | set(sys.stdlib_module_names):
            found.append(f"{module} imports {name} at module level: do so inside a function")
    return found


MODULES = sorted(p.relative_to(PACKAGE).with_suffix("").as_posix() for p in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_below(module):
    assert not faults((PACKAGE / f"{module}.py").read_text("utf8"), module)


def test_tests_of_the_kernel_import_nothing_of_the_book():
    tests = {path: path.read_text("utf8") for path in (ROOT / "tests" / "kernel").rglob("*.py")}
    names = {(path.name, name) for path, text in tests.items() for name, _ in imports(text, "")}
    assert {pair for pair in names if pair[1].split(".")[0] == "ppap_book"} == set()


def test_every_room_has_a_floor():
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__"} == FLOOR.keys()


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("diffusion/levels", "from ppap_lib.samplers import ddim", "(2)"),
        ("diffusion/levels", "from ppap_lib.files import weights", "(1)"),
        ("diffusion/levels", "import ppap_lib.samplers", "(2)"),
        ("samplers/loop", "def f():\n    from ppap_lib.guidance import guided", "(2)"),
        ("networks/adm", "from ..experts import low_rank", "(4)"),
        ("samplers/loop", "from ppap_lib.brandnew import x", "no room"),
        ("brandnew/part", "", "no room"),
        ("device", "from ppap_lib.files import weights", "(1)"),
        ("files/weights", "import timm", "inside a function"),
        ("files/weights", "try:\n    import scipy.linalg\nexcept ImportError:\n    pass", "inside"),
        ("zoo/cards", "def f():\n    from ppap_book import ledger", "not in the kernel"),
        ("zoo/cards", "def f():\n    import matplotlib.pyplot as plt", "not in the kernel"),
    ],
)
def test_the_checker_finds_faults(module, source, fault):
    assert any(fault in found for found in faults(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("networks/adm", "from ppap_lib.networks.blocks import Attention"),
        ("networks/adm", "from .blocks import Attention\nfrom . import blocks"),
        ("zoo/tiers", "from ppap_lib import data, __version__\nimport math, torch.nn"),
        ("zoo/cards", "def f():\n    import timm, scipy"),
    ],
)
def test_the_checker_lets_through_what_is_allowed(module, source):
    assert not faults(source, module)


def errors(sources: Iterable[str]) -> dict[str, set[str]]:
    """The classes that are exceptions, by name, with the names of their bases."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    }
    built_in = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
    known = {name for name, value in built_in.items() if issubclass(value, BaseException)}
    found: dict[str, set[str]] = {}
    while new := {name for name in bases.keys() - found.keys() if bases[name] & known}:
        found |= {name: bases[name] for name in new}
        known |= new
    return found


def test_there_are_eight_errors_and_no_other_exceptions():
    places = [*PACKAGE.rglob("*.py"), *(ROOT / "book" / "ppap_book").rglob("*.py")]
    found = errors(path.read_text("utf8") for path in places)
    assert len(found) == 8 and all(name.endswith("Error") for name in found)
    assert [name for name, bases in found.items() if "PpapError" not in bases] == ["PpapError"]


def test_exceptions_are_found_by_any_name():
    source = "class A(B, errors.C): ...\nclass C(OSError): ...\nclass D: ...\nclass E(A): ..."
    assert errors([source]).keys() == {"A", "C", "E"}
