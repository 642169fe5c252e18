"""`ppap train`: a tier's networks, and one's own in their place."""

import json
from pathlib import Path

import pytest
import torch

from ppap_lib import cli, data
from ppap_lib.files import weights
from ppap_lib.training import fit
from ppap_lib.training.checkpoints import Log
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier

pytestmark = pytest.mark.usefixtures("quick_training")

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_fashion(monkeypatch):
    """Forty random images in place of the training set."""
    pixels = torch.randint(256, (40, 1, 32, 32), generator=GENERATOR).byte()
    labels = torch.arange(40) % 10
    images = data.ImageSet(pixels, labels, tier("fashion").classes, "random")
    monkeypatch.setattr(datasets, "require", lambda name, split: images)


def main(arguments: list[str]) -> int:
    """The exit status of `ppap train`."""
    return cli.main(["train", *arguments])


JUDGE = ["judge", "--batch", "4", "--log-every", "2", "--quiet", "--device", "cpu"]


def test_the_command_line_trains_resumes_and_summarises(tmp_path, tiny_fashion, capsys):
    here = [*JUDGE, "--folder", str(tmp_path)]
    assert main([*here, "--steps", "2"]) == 0
    assert main([*here, "--steps", "4"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*here, "--steps", "4", "--resume"]) == 0
    summary = json.loads((tmp_path / fit.SUMMARY).read_text())
    assert summary["images_seen"] == 16 and summary["settings"]["seed"] == 0
    assert "erase=True" in summary["objective"]
    assert summary["final_loss"] == Log(tmp_path / "log.jsonl").rows()[-1]["loss"]
    assert summary["sha256"] == weights.sha256(tmp_path / fit.WEIGHTS)
    network = tier("fashion").classifier("judge")
    weights.load(network, weights.read(tmp_path / fit.WEIGHTS, summary["sha256"]))


def test_weights_can_be_started_from(tmp_path, tiny_fashion, capsys):
    first = [*JUDGE, "--folder", str(tmp_path / "a"), "--steps", "2"]
    assert main(first) == 0
    file = tmp_path / "a" / fit.WEIGHTS
    still = ["--steps", "1", "--lr", "1e-12", "--warmup", "0", "--init", str(file)]
    assert main([*JUDGE, "--folder", str(tmp_path / "b"), *still]) == 0
    start, end = weights.read(file), weights.read(tmp_path / "b" / fit.WEIGHTS)
    trained = [key for key in start if "running" not in key and "num_batches" not in key]
    assert all(torch.allclose(start[key], end[key], atol=1e-3) for key in trained)
    summary = json.loads((tmp_path / "b" / fit.SUMMARY).read_text())
    assert summary["init"] == weights.sha256(file)
    assert main([*JUDGE, "--folder", str(tmp_path / "b"), "--steps", "2", "--resume"]) == 1
    assert f"init {summary['init']} there, none here" in capsys.readouterr().err
    assert main([*first, "--init", str(file), "--resume"]) == 1
    assert f"init none there, {summary['init']} here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*JUDGE, "--tier", "mnist"], "no tier 'mnist'"),
        ([*JUDGE, "--steps", "1", "--minutes", "1"], "steps or minutes"),
        ([*JUDGE, "--seed", "4294967296", "--steps", "1"], "seed must be in [0, 4294967295]"),
        ([*JUDGE, "--seed", "-1", "--steps", "1"], "seed must be in [0, 4294967295], not -1"),
        ([*JUDGE, "--device", "gpu"], "no device 'gpu'"),
        ([*JUDGE, "--init", "nowhere.safetensors"], "nowhere.safetensors"),
        ([*JUDGE, "--tier", "tin10", "--steps", "1"], "trains on images"),
        ([*JUDGE, "--tier", "imagenet256"], "no preset for 'judge'"),
        ([*JUDGE, "--prediction", "eps"], "judge has no prediction: a denoiser has"),
        ([*JUDGE, "--steps", "1", "--network", "nowhere:net"], "no module 'nowhere'"),
        (["denoiser", "--min-snr", "-1"], "min_snr must be positive"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, tiny_fashion, capsys, arguments, says):
    assert main([*arguments, "--folder", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


OWN = """
from torch import nn

class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t):
        return self.layer(x)

def number():
    return 5
"""


def test_a_network_of_one_s_own_is_trained_in_the_tier_s_place(
    tmp_path, tiny_fashion, monkeypatch, capsys
):
    (tmp_path / "own_train.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    given = ["denoiser", "--steps", "2", "--batch", "4", "--quiet", "--device", "cpu"]
    given += ["--folder", "run", "--no-learned-variance"]
    assert main([*given, "--network", "own_train:Denoiser"]) == 0
    summary = json.loads(Path("run", fit.SUMMARY).read_text())
    assert summary["class"] == "Denoiser" and summary["parameters"] == 10
    assert weights.read(Path("run", fit.WEIGHTS)).keys() == {"layer.weight", "layer.bias"}
    assert main([*given, "--network", "own_train:number"]) == 1
    assert "own_train:number returned a int, not a torch.nn.Module" in capsys.readouterr().err
