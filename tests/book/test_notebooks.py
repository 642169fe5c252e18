"""Notebooks: run by papermill with good and bad parameters, and in one rhythm."""

import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args, get_type_hints

import nbformat
import printed
import pytest
from places import ROOT

from ppap_book.study import from_notebook
from ppap_lib.errors import InputError
from ppap_lib.parameters import Parameters, param
from ppap_lib.zoo.tiers import TierName

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What makes a page's printed papermill commands, taken together, a run of a few seconds.
SMALLER = {
    "01_forward_process": {"size": 32},
    "02_samples": {"n": 10, "neighbours": 2},
    "03_entropy": {"n": 20, "sketch": 10},
    "04_experts_gradcam": {"n": 5, "sketch": 4, "shown": 3},
    "05_one_expert_at_a_time": {"n_intervals": 2, "shown": 2},
    "06_guidance_ablation": {},
    "07_practical": {"guide": "vit", "n_experts": 2, "rank": 1},
    "08_noise_and_beta": {"shown": 2, "steps": 2, "save": False},
    "09_accelerated_sampling": {"budget": 5, "finest": 40, "images": 2, "timed": 1},
    "10_scale_and_resolution": {"scales_shown": [2.0, 100.0], "classes_shown": ["bag"], "shown": 1},
    "11_architecture": {"sketch": 0.05, "seeds": 1, "save": False},
}
# Bad parameters, and what the error says.
BAD = {
    "01_forward_process": [
        ({"n_interval": 7}, "unknown parameter 'n_interval': did you mean 'n_intervals'"),
        ({"T": 5}, r"T must be in \[50, 4000\], not 5"),
        ({"seed": 2**32}, r"seed must be in \[0, 4294967295\], not 4294967296"),
        ({"picture": "cat"}, "picture must be one of 'astronaut'"),
    ],
    "02_samples": [
        ({"n": 2}, r"n must be in \[10, 400\], not 2"),
        ({"spacing": "fast"}, "unknown respacing 'fast'"),
        ({"spacing": "1"}, "'1' keeps t = 0 alone"),
        ({"first_seed": 2**32 - 9}, r"first_seed must be in \[0, 4294966896\]"),
    ],
    "03_entropy": [
        ({"picture": "cat"}, "picture must be one of 'astronaut'"),
        ({"n": 5}, r"n must be in \[10, 1000\], not 5"),
        ({"first_seed": 2**32 - 10, "n": 10}, r"first_seed must be in \[0, 4294966296\]"),
    ],
    "04_experts_gradcam": [
        ({"experts": "ppap"}, "experts must be one of 'multi5'"),
        ({"shown": 200}, "shown must be one of the n = 200 images"),
        ({"first_seed": 2**32}, r"first_seed must be in \[0, 4294966296\]"),
    ],
    "05_one_expert_at_a_time": [
        ({"n_intervals": 1}, r"n_intervals must be in \[2, 10\], not 1"),
        ({"method": "ppap"}, "method must be one of .* did you mean 'ppap5'"),
    ],
    "06_guidance_ablation": [
        ({"guide": "resnet50"}, "guide must be one of 'resnet18', 'vit'"),
        ({"scale": -1.0}, r"scale must be at least 0.0, not -1.0"),
        ({"method": "ppap"}, "method must be one of 'all', 'none'"),
        ({"steps": 1}, r"steps must be in \[2, 1000\], not 1"),
        ({"steps": 600}, "'ddim600': no whole stride cuts 1000 steps into 600"),
    ],
    "07_practical": [
        ({"rank": 0}, r"rank must be in \[1, 16\], not 0"),
        ({"experts": 5}, "unknown parameter 'experts': did you mean 'n_experts'"),
    ],
    "08_noise_and_beta": [
        ({"steps": 1}, r"steps must be in \[2, 1000\], not 1"),
        ({"n": 20}, r"n must be in \[66, 2000\], not 20"),
        ({"clip": False}, "unknown parameter 'clip'"),
        ({"first_seed": 2**32 - 1}, r"first_seed must be in \[0, 4294967276\]"),
    ],
    "09_accelerated_sampling": [
        ({"budget": 4}, r"budget must be in \[5, 100\], not 4"),
        ({"first_seed": 2**32}, r"first_seed must be in \[0, 4294967284\]"),
        ({"buget": 10}, "unknown parameter 'buget': did you mean 'budget'"),
    ],
    "10_scale_and_resolution": [
        ({"methods_shown": ["ppap"]}, r"methods_shown must be some of naive, .*, not \['ppap'\]"),
        ({"scales_shown": [-1.0]}, r"scales_shown\[0\] must be at least 0.0, not -1.0"),
        ({"classes_shown": ["hat"]}, "classes_shown must be some of T-shirt"),
        ({"classes_shown": ["bag", "bag"]}, "a method, class or scale is shown twice"),
        ({"scales_shown": [5, 5.0]}, "a method, class or scale is shown twice"),
        ({"scales_shown": [*range(42)]}, "378 sheets .* too many for a page, which holds 40"),
    ],
    "11_architecture": [
        ({"seconds": 0}, r"seconds must be in \[0.05, 3600\], not 0"),
        ({"heads": 2}, "unknown parameter 'heads'"),
    ],
    "train_classifier": [
        ({"seed": 2**32}, r"seed must be in \[0, 4294967295\]"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"resume": True}, "resume needs the folder of the earlier run"),
        ({"resume": "False"}, r"resume must be a bool \(true or false, unquoted\), not 'False'"),
        ({"minutes": "1e3"}, "minutes must be a finite float, not '1e3'"),
        ({"steps": 1e3}, "steps must be an int, not 1000.0"),
        ({"folder": None}, "folder must be a str, not None"),
    ],
    "train_denoiser": [
        ({"seed": 2**32}, r"seed must be in \[0, 4294967295\]"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"resume": True}, "resume needs the folder of the earlier run"),
    ],
}


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """papermill's `execute_notebook` on one of ours, by name, away from the repository."""
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # A copy of the ledger: pages read it, and what a test runs must not enter the real one.
    shutil.copytree(ROOT / "book" / "results", tmp_path / "results")
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "results"))

    def run(name, parameters):
        with monkeypatch.context() as quiet:
            quiet.chdir(tmp_path)
            return papermill.execute_notebook(
                ROOT / "notebooks" / f"{name}.ipynb",
                tmp_path / "executed.ipynb",
                parameters=parameters,
                progress_bar=False,
                kernel_name="python3",
            )

    return run


def outputs(notebook, kind):
    return [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == kind]


@dataclass(frozen=True)
class Page(Parameters):
    steps: int = param(low=1, high=1000)
    betas: tuple[float, float] | None = param()
    save: bool = param(recorded=False)


def page(injected: str = "", **names):
    """Globals of a page whose parameters cell is followed by papermill's, the `injected` one."""
    cells = ["", "steps = 25\nbetas = None\nsave = False", f"# Parameters\n{injected}"]
    namespace = {"In": cells, **names}
    for source in cells:
        exec(source, namespace)
    return namespace


def test_a_page_reads_its_own_and_the_injected_parameters():
    assert from_notebook(Page, page()) == Page(steps=25, betas=None, save=False)
    found = from_notebook(Page, page("steps = 5\nbetas = [0.1, 0.2]\n", other=3))
    assert found.steps == 5 and found.betas == (0.1, 0.2)


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("stepz = 5\n", "unknown parameter 'stepz': did you mean 'steps'"),
        ("save = 'true'\n", "save must be a bool"),
        ("steps = 5000\n", "steps must be in"),
    ],
)
def test_bad_injected_parameters_stop_a_page(injected, message):
    with pytest.raises(InputError, match=message):
        from_notebook(Page, page(injected))


def test_a_page_must_set_every_parameter():
    with pytest.raises(InputError, match="'steps' is not set in the notebook's parameters"):
        from_notebook(Page, {"In": []})


def test_every_page_has_a_small_run_and_bad_parameters():
    toc = (ROOT / "book" / "_toc.yml").read_text("utf8")
    pages = set(re.findall(r"file: notebooks/(\w+)", toc))
    assert pages == SMALLER.keys() and BAD.keys() == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs_with_the_parameters_that_it_prints(name, execute):
    notebook = execute(name, printed.parameters(name) | SMALLER[name])
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1
    assert not [o for o in outputs(notebook, "stream") if o.name == "stderr"]
    shown = outputs(notebook, "display_data") + outputs(notebook, "execute_result")
    assert any("image/png" in o.data for o in shown)


def checked(name: str, parameters: dict) -> Parameters:
    """What a page makes of parameters: all it runs up to their check, in this process."""
    reading = pytest.importorskip("papermill.iorw")
    writing = pytest.importorskip("papermill.parameterize")
    notebook = reading.load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    notebook = writing.parameterize_notebook(notebook, parameters)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"][:3]
    page = {"In": sources}
    for source in sources:
        exec(source, page)
    return page["P"]


@pytest.mark.parametrize("command", [line for _, line in printed.lines("papermill notebooks/")])
def test_a_printed_papermill_command_is_of_a_page_and_its_parameters(command):
    pytest.importorskip("papermill")
    path, parameters = printed.papermills(command)
    assert (ROOT / path).is_file() and parameters
    page = checked(Path(path).stem, parameters)
    for name, value in parameters.items():
        assert getattr(page, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [(name, *bad) for name, cases in BAD.items() for bad in cases],
)
def test_a_bad_parameter_is_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        checked(name, parameters)


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("name", BAD)
def test_the_ends_of_a_page_s_ranges_pass_its_check(name, end):
    page = checked(name, {})
    ranges = {f.name: f.metadata["ppap_range"] for f in fields(page) if "ppap_range" in f.metadata}
    ends = {n: ends[end] for n, ends in ranges.items() if isinstance(getattr(page, n), int | float)}
    ends = {n: value for n, value in ends.items() if value is not None}
    kinds = {n: type(getattr(page, n)) for n in ends}
    given = {n: kinds[n](value) for n, value in ends.items()}
    found = checked(name, given)
    assert {n: getattr(found, n) for n in given} == given


@pytest.mark.parametrize("name", BAD)
def test_a_page_offers_the_tiers_that_it_can_do(name):
    """Each has data or a stand-in, and the networks that the page loads."""
    page = checked(name, {})
    if not hasattr(page, "tier"):
        return
    for tier in get_args(TierName):
        offered = get_args(get_type_hints(type(page))["tier"])
        if tier in offered:
            assert checked(name, {"tier": tier}).tier == tier
        else:
            with pytest.raises(InputError, match="tier must be .*, not"):
                checked(name, {"tier": tier})


def test_a_bad_parameter_stops_papermill_before_anything_is_computed(execute, tmp_path):
    papermill = pytest.importorskip("papermill")
    name = "01_forward_process"
    parameters, message = BAD[name][0]
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        execute(name, parameters)
    stopped = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    ran = [c for c in stopped.cells if c.cell_type == "code" and c.get("execution_count")]
    assert len(ran) == 3, "parameters, injected parameters, check"


@pytest.mark.parametrize("name", SMALLER)
def test_the_rhythm_of_a_page(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata.get("tags", [])
    assert "from_notebook(Page, globals())" in code[1].source
    assert notebook.cells[0].source.startswith("# ")
    for cell in code:  # every figure and table can be cited and says what it shows
        shown = cell.metadata.get("mystnb", {})
        if "figure" in shown:
            assert set(shown["figure"]) == {"name", "caption"}
        if any(mark in cell.source for mark in (":::{table}", "| ---", "to_markdown(")):
            # Without that format a page shows the bars themselves.
            assert ":::{table}" in cell.source
            assert ":name: tab-" in cell.source and shown == {"markdown_format": "myst"}
    assert "papermill" in "".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def test_figures_have_labels_of_their_own():
    """Two of one name are a warning of the book's build, minutes after a test says so."""
    labels = [
        cell.metadata["mystnb"]["figure"]["name"]
        for path in NOTEBOOKS
        for cell in nbformat.read(path, 4).cells
        if "figure" in cell.metadata.get("mystnb", {})
    ]
    for path in (ROOT / "book").glob("*.md"):
        labels += re.findall(r"^    name: (fig-\S+)$", path.read_text("utf8"), re.MULTILINE)
    assert "fig-story" in labels and len(labels) == len(set(labels))
