"""What a reader sees: a built page and a live JupyterLab, driven in chromium, without a network."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "01_forward_process.ipynb"
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
SMALL = {"T: int = 1000": "T: int = 60", "size: int = 96": "size: int = 32"}


@pytest.fixture(scope="module")
def chromium():
    """Debian's chromium, or playwright's own; it may reach this machine only."""
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with api.sync_playwright() as playwright:
        if program is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no chromium: install Debian's chromium or `playwright install chromium`")
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def small_notebook(folder: Path) -> None:
    """The first page's notebook with small defaults."""
    text = NOTEBOOK.read_text("utf8")
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTEBOOK.name).write_text(text, "utf8")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The first page alone, as `jupyter-book build book/` makes it from our settings."""
    pytest.importorskip("jupyter_book")
    root = tmp_path_factory.mktemp("book")
    for name in ("ppap_lib", "_config.yml"):
        (root / name).symlink_to(ROOT / name)
    (root / "book").mkdir()
    for name in ("references.bib", "bibliography.md", "_static"):
        (root / "book" / name).symlink_to(ROOT / "book" / name)
    small_notebook(root / "book" / "notebooks")
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: bibliography\nchapters:\n- file: notebooks/01_forward_process\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", JUPYTER_BOOK, "build", "book/"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / "_build" / "html" / "notebooks" / "01_forward_process.html"


@contextmanager
def opened(chromium, url, **options):
    """A page and the list of its troubles: failed requests, exceptions, console errors."""
    page = chromium.new_page(**options)
    troubles = []
    page.on("requestfailed", lambda request: troubles.append(request.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
    page.goto(url, wait_until="load")
    try:
        yield page, troubles
    finally:
        page.close()


@pytest.mark.timeout(400)
def test_the_built_page_plays_without_a_kernel_or_a_network(chromium, built):
    with opened(chromium, built.as_uri()) as (page, troubles):
        explorer = page.locator(".ppap-explorer")
        image, words = explorer.locator("img"), explorer.locator("output")
        slider = explorer.locator("input")
        first = (image.get_attribute("src"), words.inner_text())
        assert "Timestep 17" in first[1]
        slider.focus()
        page.keyboard.press("ArrowRight")
        second = (image.get_attribute("src"), words.inner_text())
        assert second[0] != first[0] and "Timestep 21" in second[1]
        assert image.get_attribute("alt") == second[1]
        assert slider.get_attribute("aria-valuetext") == "21"
        page.keyboard.press("ArrowLeft")
        assert (image.get_attribute("src"), words.inner_text()) == first

        slider.fill("12")
        button = explorer.locator("button")
        button.click()
        assert button.inner_text() == "Pause" and button.get_attribute("aria-pressed") == "true"
        page.wait_for_function("() => document.querySelector('.ppap-explorer input').value == 14")
        page.wait_for_function(
            "() => document.querySelector('.ppap-explorer button').textContent == 'Play'"
        )
        assert "Timestep 59" in words.inner_text()

        page.wait_for_function("() => document.querySelectorAll('mjx-container').length > 10")
        # Jupyter Book 1.x loads sphinx-thebe twice; nothing depends on it.
        assert [trouble for trouble in troubles if "THEBE_JS_URL" not in trouble] == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_explorers_words_can_be_read_in_both_themes(chromium, built, theme):
    with opened(chromium, built.as_uri()) as (page, _):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        contrast = page.evaluate(CONTRAST)
        assert contrast > 4.5, "the contrast that WCAG 2 asks of text"


# Contrast ratio of the status line against the first opaque background behind it.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = color => rgba(color).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const words = document.querySelector(".ppap-explorer output");
  let behind = words;
  while (behind.parentElement && rgba(getComputedStyle(behind).backgroundColor)[3] < 255)
    behind = behind.parentElement;
  const pair = [getComputedStyle(words).color, getComputedStyle(behind).backgroundColor]
    .map(luminance).sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""


@pytest.mark.timeout(400)
def test_the_page_fits_a_narrow_screen(chromium, built):
    viewport = {"width": 400, "height": 800}
    with opened(chromium, built.as_uri(), viewport=viewport) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_range_with_two_ends_plays_and_refuses(chromium, tmp_path):
    pytest.importorskip("ipywidgets")
    figures = pytest.importorskip("matplotlib.figure")
    from ppap_lib.widgets import Explorer

    def draw(begin, end):
        figure = figures.Figure(figsize=(2, 1))
        figure.subplots().axvspan(begin, end)
        return figure

    explorer = Explorer(
        draw,
        "from {begin} to {end}".format,
        valid=lambda begin, end: begin < end,
        refusal="an empty range",
        start={"begin": 200, "end": 400},
        begin=[0, 200, 400],
        end=[200, 400, 1000],
    )
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><body>{explorer.static_html()}</body>", "utf8")
    with opened(chromium, path.as_uri()) as (page, troubles):
        image, words = page.locator("img"), page.locator("output")
        begin, end = page.locator("input").all()
        first = image.get_attribute("src")
        assert words.inner_text() == "from 200 to 400"
        end.focus()
        page.keyboard.press("ArrowRight")
        second = image.get_attribute("src")
        assert words.inner_text() == image.get_attribute("alt") == "from 200 to 1000"
        end.fill("0")
        assert words.inner_text() == "an empty range" and image.get_attribute("src") == second
        begin.focus()
        page.keyboard.press("ArrowLeft")
        assert words.inner_text() == "from 0 to 200"
        assert len({first, second, image.get_attribute("src")}) == 3 and troubles == []


# No question which kernel, no cell left out because it is out of sight, no news from the network.
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {
        "autoStartDefaultKernel": True,
        "windowingMode": "none",
    },
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}


# The second notebook of the live test: a scale of zero lies in the page, the other does not.
GUIDED = """
from ppap_lib.generate import generate
from ppap_lib.samplers import ddim
from ppap_lib.studies import methods
from ppap_lib.tiers import tier
from ppap_lib.widgets import guidance_explorer

fashion = tier("fashion")
grid = fashion.schedule().grid("ddim5")

def draw(cls, scale, method):
    k = fashion.classes.index(cls)
    steering = methods.steering(method, scale=scale)
    return generate(steering, fashion.shape, [k, k + 10], grid, ddim(), steered=True)

guidance_explorer(
    draw,
    lambda cls: draw(cls, 0.0, "none"),
    lambda *given: "Drawn live.",
    classes=["sneaker", "bag"],
    scales=[0.0, 7.5],
    methods={"naive": "naive guidance"},
    page={"cls": ["sneaker"], "scale": [0.0]},
)
"""


@pytest.fixture(scope="module")
def jupyterlab(tmp_path_factory):
    """The address of a JupyterLab that serves the small notebook and `GUIDED`."""
    pytest.importorskip("jupyterlab")
    nbformat = pytest.importorskip("nbformat").v4
    tmp_path = tmp_path_factory.mktemp("lab")
    small_notebook(tmp_path / "notebooks")
    guided = nbformat.new_notebook(cells=[nbformat.new_code_cell(GUIDED.strip())])
    guided.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    (tmp_path / "notebooks" / "guided.ipynb").write_text(json.dumps(guided), "utf8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
    }
    overrides = tmp_path / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps(SETTINGS))
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}"),
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=local",
            f"--ServerApp.root_dir={tmp_path}",
            "--LabApp.news_url=",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ],
        env=os.environ | own,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=local", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


IMAGE = "img.widget-image"


def wait_until_idle(page) -> None:
    """Until the notebook is there and its kernel, having connected, has come to rest."""
    page.wait_for_selector(".jp-NotebookPanel-toolbar")
    page.wait_for_function(
        "() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
    )
    page.wait_for_timeout(3000)


def run_until_shown(page, selector: str) -> None:
    """Run all cells until `selector` is there.

    A JupyterLab that is still starting may reconnect to its kernel: it then drops queued cells,
    or its widget manager misses the widgets ("model not found"). Loading the page again, with
    the kernel already running, mends both.
    """
    for _ in range(4):
        wait_until_idle(page)
        # Not awaited: the promise resolves only when every cell has run.
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        quiet = 0  # seconds without a cell that runs or waits: a busy machine starts late
        while quiet < 8:
            page.wait_for_timeout(1000)
            if page.locator(selector).count():
                return
            prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
            quiet = 0 if any("*" in prompt for prompt in prompts) else quiet + 1
        page.reload()
    raise AssertionError(f"no {selector}: {page.inner_text('.jp-Notebook')[-2000:]}")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "slider", "before", "after"),
    [
        (NOTEBOOK.name, 0, "Timestep 17,", "Timestep 21,"),
        ("guided.ipynb", 1, "scale 0, towards sneaker.", "scale 7.5, towards sneaker."),
    ],
    ids=["time", "guidance"],
)
def test_the_explorers_are_live_in_jupyterlab(chromium, jupyterlab, name, slider, before, after):
    address = f"{jupyterlab}/lab/workspaces/t/tree/notebooks/{name}?token=local&reset"
    with opened(chromium, address, viewport={"width": 1400, "height": 1100}) as (page, _):
        page.set_default_timeout(120_000)
        run_until_shown(page, IMAGE)
        shown = page.locator(IMAGE).get_attribute("src")
        page.locator(".widget-vbox .widget-html", has_text=before).wait_for()

        page.locator(".widget-slider .noUi-handle").nth(slider).focus()
        page.keyboard.press("ArrowRight")
        page.locator(".widget-vbox .widget-html", has_text=after).wait_for()
        page.wait_for_function(
            "([selector, shown]) => document.querySelector(selector).src !== shown",
            arg=[IMAGE, shown],
        )
