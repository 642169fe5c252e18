"""How much code a page may have, and how much of it may be folded away.

A page holds what a reader should learn from. A page beyond a limit is expected to fail it,
strictly: who shortens one lowers its numbers here, and none may grow meanwhile.
"""

import ast

import nbformat
import pytest
from places import ROOT

FOLDED = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
RULES = ("lines of code", "percent folded", "lines of the longest cell", "folded functions")
LIMITS = (150, 50, 30, 0)
LONGEST_PAGE = "09_accelerated_sampling", 200
TODAY = {
    "01_forward_process": (174, 75, 29, 3),
    "02_samples": (199, 89, 48, 4),
    "03_entropy": (449, 89, 55, 10),
    "04_experts_gradcam": (463, 91, 82, 15),
    "05_one_expert_at_a_time": (385, 85, 101, 14),
    "06_guidance_ablation": (768, 97, 79, 27),
    "07_practical": (470, 97, 86, 13),
    "08_noise_and_beta": (479, 87, 124, 9),
    "09_accelerated_sampling": (1004, 97, 143, 27),
    "10_scale_and_resolution": (455, 89, 57, 9),
    "11_architecture": (264, 72, 56, 1),
}


def limit(page: str, rule: int) -> int:
    if rule == 0 and page == LONGEST_PAGE[0]:
        return LONGEST_PAGE[1]
    return LIMITS[rule]


def measured(page: str) -> tuple[int, ...]:
    """A number a rule; lines of code are those that are neither blank nor only a comment."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{page}.ipynb", as_version=4)
    sizes, folded, functions = [], 0, 0
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        lines = [line.strip() for line in cell.source.splitlines()]
        sizes.append(sum(bool(line) and not line.startswith("#") for line in lines))
        if FOLDED & set(cell.metadata.get("tags", ())):
            folded += sizes[-1]
            nodes = ast.walk(ast.parse(cell.source))
            functions += sum(isinstance(node, ast.FunctionDef) for node in nodes)
    return sum(sizes), -(-100 * folded // sum(sizes)), max(sizes), functions


def cases():
    for page, numbers in TODAY.items():
        for rule, today in enumerate(numbers):
            beyond = pytest.mark.xfail(strict=True, reason=f"{today} {RULES[rule]}")
            marks = beyond if today > limit(page, rule) else ()
            yield pytest.param(page, rule, marks=marks, id=f"{page}, {RULES[rule]}")


@pytest.mark.parametrize(("page", "rule"), list(cases()))
def test_a_page_keeps_within_its_budget(page, rule):
    assert measured(page)[rule] <= limit(page, rule)


def test_every_page_has_a_budget():
    assert TODAY.keys() == {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}


@pytest.mark.parametrize("page", TODAY)
def test_a_page_beyond_its_budget_does_not_grow(page):
    for rule, (number, today) in enumerate(zip(measured(page), TODAY[page], strict=True)):
        assert number <= max(today, limit(page, rule)), RULES[rule]
