"""What the README shows, done."""

import re

import printed
import torch
from PIL import Image
from places import ROOT

import ppap_lib as ppap

README = (ROOT / "README.md").read_text("utf8")


def test_it_opens_with_the_two_commands_and_one_picture():
    opening = README.split("\n\n")[:4]
    assert "make book" in opening[1] and "make test" in opening[1]
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", README)
    assert (ROOT / picture).exists()


def test_the_listing_steers_towards_its_target(tmp_path, monkeypatch):
    """Each guide must come to believe in its target."""
    names: dict = {}
    monkeypatch.chdir(tmp_path)
    exec(printed.readme_listing(5), names)
    with Image.open("boots.png") as sheet:
        assert sheet.size == (4 * 33 - 1, 2 * 33 - 1)

    clean = ppap.load("fashion/resnet18")
    at_the_end = names["experts"].at(names["model"].schedule.at(0))
    for reader, images, how, least in (
        (clean, names["boots"], {"solver": "ddim", "steps": 5}, 0.5),
        (at_the_end, names["again"], {"solver": "dpmpp_2m", "evaluations": 5}, 0.5),
    ):
        assert images.shape == (8, 1, 32, 32) and images.abs().max() <= 1
        plain = ppap.draw(names["model"], seeds=range(8), **how)
        believed, before = (
            ppap.Classification().log_prob(reader(drawn), torch.full((8,), 9)).mean()
            for drawn in (images, plain)
        )
        assert believed > before + least
