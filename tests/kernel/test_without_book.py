"""The kernel alone: a copy of `ppap_lib`, and nothing of the book beside it or anywhere."""

import os
import shutil
import subprocess
import sys

import printed
import pytest
from places import ROOT

ALONE = """
import sys

class WithoutBook:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ppap_book":
            raise ModuleNotFoundError(f"the kernel imports {name}")

sys.meta_path.insert(0, WithoutBook())
"""
"""The package may be installed beside the book that it is tested with."""

GUIDED = """
import ppap_lib as ppap

model = ppap.load("fashion/denoiser").clipped()
guide = ppap.at_xt(ppap.load("fashion/ppap5-resnet18"), ppap.Classification(), 9)
noise = ppap.Noise(range(2), model.shape)
drawn = ppap.sample(
    ppap.guided(model.denoise, guide, 7.5), noise(), model.grid("ddim2"), ppap.ddim(), noise
)
assert drawn.isfinite().all() and drawn.shape == (2, 1, 32, 32)
"""


@pytest.fixture
def alone(tmp_path):
    """Runs code in a fresh interpreter that sees the copy only."""
    package = tmp_path / "ppap_lib"
    leave = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "ppap_lib", package, ignore=leave)
    (package / "assets").symlink_to(ROOT / "ppap_lib" / "assets")

    def run(code: str) -> subprocess.CompletedProcess:
        ours = f"import ppap_lib\nassert ppap_lib.__file__.startswith({str(tmp_path)!r})\n"
        return subprocess.run(
            [sys.executable, "-c", ALONE + ours + code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("code", [printed.readme_listing(2), GUIDED], ids=["README", "guided"])
def test_the_kernel_draws_without_the_book(code, alone):
    done = alone(code)
    assert done.returncode == 0, done.stderr


def test_its_command_runs_without_the_book(alone):
    done = alone("from ppap_lib.cli import main\nassert main(['list']) == 0")
    assert done.returncode == 0 and "fashion/denoiser" in done.stdout, done.stderr


def test_the_book_would_be_missed(alone):
    done = alone("import ppap_book")
    assert done.returncode and "the kernel imports ppap_book" in done.stderr
