"""What the README shows, done."""

import re

import torch
from PIL import Image
from places import ROOT

from ppap_lib.guidance.tasks import Classification

README = (ROOT / "README.md").read_text("utf8")


def test_it_opens_with_the_two_commands_and_one_picture():
    opening = README.split("\n\n")[:4]
    assert "make book" in opening[1] and "make test" in opening[1]
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", README)
    assert (ROOT / picture).exists()


def test_the_guidance_example_steers_towards_its_target(tmp_path, monkeypatch):
    """The lines of the README, at fewer steps; the guide must come to believe in its target."""
    first, then = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(first.strip().splitlines()) <= 14
    found: dict = {}
    monkeypatch.chdir(tmp_path)
    exec((first + then).replace("ddim25", "ddim10").replace("(25,", "(3,"), found)
    target = torch.full((8,), 9)
    plain = found["sample"](
        found["clipped"](found["zoo"].denoiser("fashion/denoiser")),
        found["seeds"].Noise(range(8), (1, 32, 32))(),
        found["grid"],
        found["ddim"](),
    )

    def belief(images):
        return float(Classification().log_prob(found["model"](images.float()), target).mean())

    assert found["boots"].shape == (8, 1, 32, 32)
    assert belief(found["boots"]) > belief(plain) + 0.5
    assert found["again"].isfinite().all() and len(found["finest"]) - 1 == 3
    with Image.open("boots.png") as sheet:
        assert sheet.size == (4 * 33 - 1, 2 * 33 - 1)
