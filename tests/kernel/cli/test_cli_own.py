"""`ppap distill --guide module:function`: experts of a network that no registry knows."""

import json
from pathlib import Path

import pytest
import torch

import ppap_lib as ppap
from ppap_lib import cli, experts
from ppap_lib.data.shards import Manifest, claim, write_shard
from ppap_lib.diffusion.analytic import Gaussian
from ppap_lib.distill.fit import EXPERTS
from ppap_lib.training.fit import SUMMARY

pytestmark = pytest.mark.usefixtures("quick_training")

OWN = """
import torch
from torch import nn

number = 5

def classifier():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(1, 16, 8, 8), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten())
    return nn.Sequential(stem, nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 3))

def brightness():
    return Brightness()

class Brightness(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 1, 8, 8)

    def forward(self, images):
        return {"map": self.layer(images), "all": images.mean((1, 2, 3))}

class SquaredError:
    def __repr__(self):
        return "SquaredError()"

    def log_prob(self, output, target):
        return -(output["all"] - target) ** 2

    def divergence(self, student, teacher):
        gaps = [(student[key] - teacher[key]).flatten(1) for key in ("map",)]
        return sum(gap.square().mean(1) for gap in gaps)

def needs(width):
    return None

def colours():
    return nn.Conv2d(3, 1, 1)

def breaks():
    raise RuntimeError("a fault of the user")
"""

SMALL = ["--experts", "2", "--batch", "4", "--steps", "2", "--quiet", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with the module `own_guides` and a generated set."""
    (tmp_path / "own_guides.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    claim(Path("set"), Manifest(20, 0, 20, (1, 32, 32), "fashion/denoiser", ""))
    pixels = torch.randint(256, (20, 1, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    write_shard(Path("set"), range(20), pixels)
    return tmp_path


def distil(guide: str, *more: str) -> int:
    """The exit status of a transfer from the network that a function of `own_guides` makes."""
    given = ["distill", "transfer", "--guide", guide, "--data", "set", *SMALL]
    return cli.main([*given, "--folder", "run", *more])


def test_experts_of_one_s_own_classifier_are_trained_read_and_guide(here):
    assert distil("own_guides:classifier") == 0
    summary = json.loads(Path("run", SUMMARY).read_text())
    assert summary["guide"] == summary["trunk"] == "own_guides:classifier"
    assert summary["generated"] == {
        "n": 20, "denoiser": "fashion/denoiser", "spacing": "ddim25", "first": None, "sha256": "",
    }  # fmt: skip

    from own_guides import classifier

    file = Path("run", EXPERTS)
    assert experts.describe(file).backbone_sha256 == summary["trunk_sha256"]
    trained = experts.read(file, classifier().eval())
    assert len(trained) == 2 and trained.bank[0].config.layers == ("1",)
    denoise = Gaussian(torch.zeros(1, 32, 32), 0.5).denoise
    model = ppap.Diffusion(denoise, ppap.Schedule.linear(), (1, 32, 32), bounds=(-1.0, 1.0))
    guided = model.guided(ppap.guide(trained, target=2), scale=20.0)

    def chance(way):
        """How likely the experts find the target in what is drawn."""
        x_T, grid = ppap.Noise(range(4), way.shape)(), way.grid("4")
        x0 = ppap.sample(way.denoise, x_T, grid, ppap.ddim())
        return float(trained.at(grid[-2])(x0).softmax(1)[:, 2].mean())

    assert chance(guided) > chance(model) + 0.05


def test_a_run_is_resumed_by_the_same_network_only(here, monkeypatch, capsys):
    assert distil("own_guides:classifier") == 0
    assert distil("own_guides:classifier", "--steps", "3", "--resume") == 0
    monkeypatch.setattr(torch, "manual_seed", lambda seed: torch.default_generator.manual_seed(7))
    assert distil("own_guides:classifier", "--steps", "4", "--resume") == 1
    assert "is another run's, by its teacher.safetensors" in capsys.readouterr().err


def test_any_network_learns_by_a_task_of_one_s_own(here, capsys):
    """Its output is a dictionary, which a resumed run reads from the folder."""
    given = ["own_guides:brightness", "--task", "own_guides:SquaredError"]
    assert distil(*given) == 0
    summary = json.loads(Path("run", SUMMARY).read_text())
    assert summary["task"] == "own_guides:SquaredError" and summary["temperature"] is None
    assert "task=SquaredError()" in summary["objective"]
    assert distil(*given, "--steps", "4", "--resume") == 0
    assert json.loads(Path("run", SUMMARY).read_text())["final_loss"] < summary["final_loss"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["nowhere:guide"], "no module 'nowhere' in "),
        (["own_guides:"], "write what is your own as module:function, not 'own_guides:'"),
        (["own_guides:missing"], "own_guides has no function 'missing'"),
        (["own_guides:number"], "own_guides has no function 'number'"),
        (["own_guides:needs"], "own_guides:needs takes arguments, (width): give a function"),
        (["own_guides:SquaredError"], "returned a SquaredError, not a torch.nn.Module"),
        (["own_guides:colours"], "own_guides:colours cannot read images [1, 1, 32, 32]: "),
        (["own_guides:brightness"], "returns a dict for one image, not logits [1, K]: give the"),
        (
            ["own_guides:brightness", "--task", "own_guides:classifier"],
            "returned a Sequential without log_prob and divergence",
        ),
        (["resnet18", "--task", "own_guides:SquaredError"], "resnet18 is a classifier: a task"),
    ],
)
def test_what_was_wrong_is_said_in_a_line(here, capsys, given, says):
    assert distil(*given) == 1
    message = capsys.readouterr().err
    assert says in message and message.startswith("error: ") and message.count("\n") == 1


def test_a_fault_of_the_user_s_own_code_is_raised(here):
    with pytest.raises(RuntimeError, match="a fault of the user"):
        distil("own_guides:breaks")
