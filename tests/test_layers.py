"""The layer table: a module imports only from layers below its own."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ppap_lib"

# A package is named once, for all its modules; they may import each other.
LAYERS = {
    -0.5: "errors",
    0: "images seeds schedule params atomic commands classes devices bootstrap published spectrum",
    0.5: "weights",
    1: "denoise networks fetch ledger",
    2: "analytic tiers",
    2.1: "data",
    2.2: "zoo",
    2.5: "extractors",
    3: "samplers tasks uncertainty localisation metrics",
    4: "experts guidance",
    5: "train generate readings",
    5.5: "distill",
    6: "studies",
    7: "claims plots",
    8: "widgets book notebooks bench",
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names.split()}

# Layers 0 to 6 run on a bare GPU box: these at module level, others inside functions,
NUMERIC = {"torch", "numpy", "safetensors"}
NUMERIC_UP_TO = 6
# and these not even there.
FORBIDDEN = {"IPython", "papermill", "matplotlib", "seaborn", "ipywidgets"}


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
    """What breaks the table in a module given by its path under the package, "networks/lora"."""
    own = module.split("/")[0]
    if own == "__init__":
        return [f"ppap_lib/__init__ imports {name}" for name, _ in imports(source, "ppap_lib")]
    if own not in LAYER:
        return [f"{module} is in no layer: add it to the table"]
    found = []
    package = ".".join(["ppap_lib", *module.split("/")[:-1]])
    for name, top in imports(source, package):
        root, *rest = name.split(".")
        if root == "ppap_lib":
            other = rest[0]
            if other not in LAYER:
                if other not in ("__version__", "__init__"):
                    found.append(f"{module} imports {name}, which is in no layer")
            elif other != own and LAYER[other] >= LAYER[own]:
                found.append(f"{module} (layer {LAYER[own]}) imports {name} (layer {LAYER[other]})")
        elif LAYER[own] <= NUMERIC_UP_TO:
            if root in FORBIDDEN:
                found.append(f"{module} imports {name}: not in layers 0 to {NUMERIC_UP_TO}")
            elif top and root not in NUMERIC | set(sys.stdlib_module_names):
                found.append(f"{module} imports {name} at module level: do so inside a function")
    return found


MODULES = sorted(p.relative_to(PACKAGE).with_suffix("").as_posix() for p in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_below(module):
    assert not faults((PACKAGE / f"{module}.py").read_text("utf8"), module)


def test_no_import_when_the_package_is_imported():
    assert not faults((PACKAGE / "__init__.py").read_text("utf8"), "__init__")
    assert faults("import torch", "__init__")


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("schedule", "from ppap_lib.samplers import ddim", "layer 0"),
        ("schedule", "from ppap_lib import samplers", "layer 3"),
        ("schedule", "import ppap_lib.samplers", "layer 3"),
        ("schedule", "from . import guidance", "layer 4"),
        ("schedule", "from .guidance import guided", "layer 4"),
        ("networks/adm", "from ..guidance import guided", "layer 4"),
        ("networks/adm", "from ppap_lib.denoise import Prediction", "layer 1"),
        ("samplers", "def f():\n    from ppap_lib.guidance import guided", "layer 4"),
        ("samplers", "from ppap_lib.brandnew import x", "no layer"),
        ("brandnew", "", "no layer"),
        ("brandnew/part", "", "no layer"),
        ("metrics", "import timm", "inside a function"),
        ("metrics", "from PIL import Image", "inside a function"),
        ("metrics", "try:\n    import scipy.linalg\nexcept ImportError:\n    pass", "inside"),
        ("metrics", "class A:\n    import tqdm", "inside a function"),
        ("studies/guidance", "def f():\n    import matplotlib.pyplot as plt", "not in layers"),
        ("ledger", "def f():\n    from IPython.display import display", "not in layers"),
    ],
)
def test_the_checker_finds_faults(module, source, fault):
    assert any(fault in found for found in faults(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("networks/adm", "from ppap_lib.networks.blocks import Attention"),
        ("networks/adm", "from .blocks import Attention\nfrom . import blocks"),
        ("guidance", "from ppap_lib import images, __version__\nimport math, torch.nn"),
        ("metrics", "def f():\n    import timm, torch_fidelity"),
        ("widgets", "import ipywidgets\nfrom ppap_lib.plots import style"),
    ],
)
def test_the_checker_lets_through_what_is_allowed(module, source):
    assert not faults(source, module)


def test_every_error_is_the_packages_own():
    classes = [
        (f"{module}.{node.name}", [ast.unparse(base) for base in node.bases])
        for module in MODULES
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text("utf8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    ]
    assert len(classes) > 30
    assert [name for name, bases in classes if "PpapError" not in bases] == ["errors.PpapError"]


def test_no_name_is_in_two_layers():
    names = [name for line in LAYERS.values() for name in line.split()]
    assert len(names) == len(set(names))


def test_the_book_prints_this_table():
    page = (PACKAGE.parent / "book" / "api.md").read_text("utf8")
    for layer, names in LAYERS.items():
        (row,) = re.findall(rf"^\| {int(layer)} \| (.+) \|$", page, flags=re.MULTILINE)
        assert {f"`{name}`" for name in names.split()} <= set(re.findall(r"`\w+`", row))
