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
from places import ROOT

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


# The second page and notebook: explorers of what guidance makes. Each has a value that the built
# page lacks, to be drawn live.
GUIDED = """
import ppap_lib as ppap
from ppap_book.widgets import guidance_explorer
from ppap_lib.zoo.tiers import tier

classes = tier("fashion").classes
model, clean = ppap.load("fashion/denoiser").clipped(), ppap.load("fashion/resnet18")

def draw(cls, scale, method):
    k = classes.index(cls)
    steered = model.guided(ppap.guide(clean, target=k), scale)
    return ppap.draw(steered, seeds=[k, k + 10], steps=5, batch=2)

guidance_explorer(
    draw,
    lambda cls: draw(cls, 0.0, "none"),
    lambda *given: "Drawn live.",
    classes=["sneaker", "bag"],
    scales=[0.0, 7.5],
    methods={"naive": "naive guidance"},
    page={"cls": ["sneaker"]},
)
"""
RANGED = """
from ppap_book.widgets import timestep_explorer, view_of
from ppap_lib.zoo import datasets

image = datasets.load("fashion", "test").images([0])
eps = ppap.Noise([0], image.shape[1:])()
boots = ppap.guide(clean, target=9)

def noised(t):
    return model.schedule.at(t).noised(image, eps)[0]

timestep_explorer(
    noised,
    lambda t: {"clean": view_of(clean, noised(t), model.schedule.at(t))},
    lambda begin, end: ppap.draw(
        model.guided(boots.during(begin, end), 7.5), seeds=range(2), steps=5, batch=2
    ),
    ppap.draw(model, seeds=range(2), steps=5, batch=2),
    points=[0, 200, 600, 1000],
    classes=classes,
    page=[0, 200, 1000],
)
"""


REFERENCE = """
# `ppap_book.studies.of_a_module_with_a_rather_long_name`

```{eval-rst}
.. py:function:: ppap_book.studies.of_a_module_with_a_rather_long_name.measured(images: Tensor)
```
"""


def explorers_notebook(folder: Path) -> None:
    """A notebook with a title, `GUIDED` and `RANGED`."""
    nbformat = pytest.importorskip("nbformat").v4
    cells = [nbformat.new_code_cell(source.strip()) for source in (GUIDED, RANGED)]
    book = nbformat.new_notebook(cells=[nbformat.new_markdown_cell("# Explorers"), *cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "explorers.ipynb").write_text(json.dumps(book), "utf8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of the first page and the explorers', as `jupyter-book build book/` makes them."""
    pytest.importorskip("jupyter_book")
    root = tmp_path_factory.mktemp("book")
    for name in ("ppap_lib", "_config.yml"):
        (root / name).symlink_to(ROOT / name)
    (root / "book").mkdir()
    for name in ("references.bib", "bibliography.md", "_static", "ppap_book"):
        (root / "book" / name).symlink_to(ROOT / "book" / name)
    small_notebook(root / "book" / "notebooks")
    explorers_notebook(root / "book" / "notebooks")
    (root / "book" / "reference.md").write_text(REFERENCE)
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: bibliography\nchapters:\n- file: reference\n"
        "- file: notebooks/01_forward_process\n- file: notebooks/explorers\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", JUPYTER_BOOK, "build", "book/"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / "_build" / "html" / "notebooks"


@pytest.fixture(scope="module")
def built(pages):
    return pages / "01_forward_process.html"


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
def test_pages_fit_a_narrow_screen(chromium, built):
    viewport = {"width": 400, "height": 800}
    for path in (built, built.parents[1] / "reference.html"):
        with opened(chromium, path.as_uri(), viewport=viewport) as (page, _):
            assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.timeout(400)
def test_the_built_explorers_of_guidance_turn_and_refuse(chromium, pages):
    with opened(chromium, (pages / "explorers.html").as_uri()) as (page, troubles):
        guided, ranged = page.locator(".ppap-explorer").all()

        def shown(explorer):
            image, words = explorer.locator("img"), explorer.locator("output").inner_text()
            return image.get_attribute("src"), image.get_attribute("alt"), words

        def press(slider, key):
            slider.focus()
            page.keyboard.press(key)

        first, other = shown(guided), shown(ranged)
        assert "scale 0, towards sneaker." in first[1] == first[2]
        press(guided.locator("input").nth(1), "ArrowRight")
        second = shown(guided)
        assert "scale 7.5, towards sneaker." in second[1] == second[2] and second[0] != first[0]

        assert shown(ranged) == other  # one explorer does not move the other
        assert "at timesteps 0 to 999." in other[1] == other[2]
        begin, end = ranged.locator("input").all()
        press(end, "ArrowLeft")
        early = shown(ranged)
        assert "at timesteps 0 to 199." in early[1] == early[2]
        press(begin, "ArrowRight")
        assert shown(ranged) == (*early[:2], "The range is empty: it must begin below its end.")
        press(end, "ArrowRight")
        late = shown(ranged)
        assert "at timesteps 200 to 999." in late[1] == late[2]
        assert len({other[0], early[0], late[0]}) == 3
        assert [trouble for trouble in troubles if "THEBE_JS_URL" not in trouble] == []


# No question which kernel, no cell left out because it is out of sight, no news from the network.
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {
        "autoStartDefaultKernel": True,
        "windowingMode": "none",
    },
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}


@pytest.fixture(scope="module")
def jupyterlab(tmp_path_factory):
    """The address of a JupyterLab that serves the explorers' notebook."""
    pytest.importorskip("jupyterlab")
    tmp_path = tmp_path_factory.mktemp("lab")
    explorers_notebook(tmp_path / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "book"))),
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
def test_the_explorers_are_live_in_jupyterlab(chromium, jupyterlab):
    address = f"{jupyterlab}/lab/workspaces/t/tree/notebooks/explorers.ipynb?token=local&reset"
    with opened(chromium, address, viewport={"width": 1400, "height": 1100}) as (page, _):
        page.set_default_timeout(120_000)
        run_until_shown(page, f":nth-match({IMAGE}, 2)")
        for place, slider, key, before, after in (
            (0, 0, "ArrowRight", "scale 0, towards sneaker.", "scale 0, towards bag."),
            (1, 1, "ArrowLeft", "timesteps 0 to 999.", "timesteps 0 to 599."),
        ):
            explorer = page.locator(".widget-vbox").nth(place)
            explorer.locator(".widget-html", has_text=before).wait_for()
            shown = explorer.locator(IMAGE).get_attribute("src")
            explorer.locator(".widget-slider .noUi-handle").nth(slider).focus()
            page.keyboard.press(key)
            explorer.locator(".widget-html", has_text=after).wait_for()
            page.wait_for_function(
                "([selector, place, shown]) =>"
                " document.querySelectorAll(selector)[place].src !== shown",
                arg=[IMAGE, place, shown],
            )
