"""`ppap distill`: from a folder of images to experts and a summary."""

import json

import pytest
import torch

from ppap_lib import cli, data, distill, experts, zoo
from ppap_lib.data.shards import Manifest, claim, write_shard
from ppap_lib.distill import teacher_outputs, transfer
from ppap_lib.distill.fit import EXPERTS
from ppap_lib.errors import InputError, TrainingError
from ppap_lib.files import weights
from ppap_lib.networks.vision import Vision
from ppap_lib.training.checkpoints import Log
from ppap_lib.training.fit import SUMMARY
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier

pytestmark = pytest.mark.usefixtures("quick_training")

TRAIN = ["--guide", "resnet18", "--experts", "2", "--batch", "4", "--steps", "2", "--quiet"]
TRAIN += ["--device", "cpu", "--log-every", "1"]


def main(arguments: list[str]) -> int:
    """The exit status of `ppap distill`."""
    return cli.main(["distill", *arguments])


@pytest.fixture
def tiny_fashion(monkeypatch):
    """Random images in place of the training set, an untrained network for the guide.

    There is no test set: a bare machine needs none to train.
    """
    fashion = tier("fashion")
    pixels = torch.randint(256, (40, 1, 32, 32), generator=torch.Generator().manual_seed(5)).byte()
    images = data.ImageSet(pixels, torch.arange(40) % 10, fashion.classes, "random")
    torch.manual_seed(0)
    backbone = Vision(fashion.classifier("resnet18"), 32, 1, fashion.classes)
    monkeypatch.setattr(datasets, "require", lambda name, split: images)
    monkeypatch.setattr(datasets, "test_images", lambda name: pytest.fail("test images were read"))
    backbone.eval().requires_grad_(False)
    monkeypatch.setattr(zoo, "load", lambda name, device="cpu": backbone)
    return backbone


def test_the_command_line_transfers_resumes_and_summarises(
    tmp_path, tiny_fashion, monkeypatch, capsys
):
    """From a generated set; the teacher reads it once, and another set is refused."""
    for name, seed in (("set", 0), ("other", 1)):
        manifest = Manifest(20, seed, 20, (1, 32, 32), "fashion/denoiser", "")
        claim(tmp_path / name, manifest)
        pixels = torch.randint(
            256, (20, 1, 32, 32), generator=torch.Generator().manual_seed(seed)
        ).byte()
        write_shard(tmp_path / name, range(seed, seed + 20), pixels)
    taught = []

    def counted(teacher, pixels):
        taught.append(len(pixels))
        return teacher_outputs(teacher, pixels)

    monkeypatch.setattr(transfer, "teacher_outputs", counted)
    here = ["transfer", *TRAIN, "--folder", str(tmp_path), "--data", str(tmp_path / "set")]
    assert main(here) == 0
    assert main([*here, "--steps", "3"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*here, "--steps", "3", "--resume"]) == 0
    assert taught == [20]
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert summary["images_seen"] == 12 and summary["images_per_expert"] == [6, 6]
    assert summary["experts"] == 2 and summary["trunk"] == "fashion/resnet18"
    assert summary["rank"] == 2 and summary["temperature"] == 0.25
    assert summary["parameters"] == 2 * 35_250 and summary["trunk_parameters"] == 701_178
    assert summary["final_loss"] == Log(tmp_path / "log.jsonl").rows()[-1]["loss"]
    assert summary["sha256"] == weights.sha256(tmp_path / EXPERTS)
    found = experts.read(tmp_path / EXPERTS, tiny_fashion)
    assert len(found) == 2 and found.bank[0].config.rank == 2
    assert main([*here, "--data", str(tmp_path / "other"), "--resume"]) == 1
    assert taught == [20] and "another run's" in capsys.readouterr().err


def test_the_command_line_trains_with_labels_in_the_released_way(tmp_path, tiny_fashion):
    released = ["--rank", "1", "--warm-start", "--shared-time"]
    assert main(["supervised", *TRAIN, *released, "--folder", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert summary["released"]["warm start"] and "shared_time=True" in summary["objective"]
    assert (tmp_path / "expert-2" / "log.jsonl").exists()
    assert experts.read(tmp_path / EXPERTS, tiny_fashion).bank[1].config.rank == 1


@pytest.mark.parametrize("kind", ["transfer", "supervised"])
def test_training_under_torchrun_is_refused(kind, tmp_path, tiny_fashion, capsys, monkeypatch):
    """At once: not after every process has asked the teacher about all images."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(transfer, "teacher_outputs", lambda *_: pytest.fail("it was asked"))
    source = ["--labelled"] if kind == "transfer" else []
    assert main([kind, *TRAIN, *source, "--folder", str(tmp_path)]) == 1
    assert "torchrun started 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["transfer", *TRAIN, "--data", "nowhere"], "no generated set in nowhere"),
        (["transfer", *TRAIN, "--labelled", "--temperature", "0"], "temperature"),
        (["transfer", *TRAIN, "--labelled", "--first", "41"], "the first 41 of 40 images"),
        (["transfer", *TRAIN, "--labelled", "--rank", "0"], "rank must be at least 1"),
        (["transfer", *TRAIN, "--labelled", "--experts", "0"], "experts must be at least 1"),
        (["transfer", *TRAIN, "--labelled", "--clip", "1"], "clip=0"),
        (["supervised", *TRAIN, "--no-lora-scale"], "no LoRA scale"),
        (["supervised", *TRAIN, "--rank", "1", "--no-lora-scale"], "of convolutions only"),
        (["supervised", *TRAIN, "--images", "9"], "one budget"),
        (["supervised", *TRAIN, "--temperature", "1"], "--temperature sharpens a teacher"),
        (["transfer", *TRAIN], "say which images: --data FOLDER"),
        (["transfer", *TRAIN, "--labelled", "--data", "set"], "say which images: --data FOLDER"),
        (["supervised", *TRAIN, "--guide", "lite0"], "has no guide 'lite0': use resnet18 or vit"),
        (["supervised", *TRAIN, "--tier", "mnist"], "no tier 'mnist' has presets"),
        (["supervised", *TRAIN, "--tier", "tin10"], "tin10's"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, tiny_fashion, capsys, arguments, says):
    assert main([*arguments, "--folder", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="one of 'transfer', 'supervised', not 'taught'"):
        distill.ExpertTraining("resnet18", "taught")
    with pytest.raises(TrainingError, match="no labels to learn from"):
        distill.ExpertTraining("resnet18", "supervised", generated=tmp_path)
    with pytest.raises(TrainingError, match="a transfer trains updates"):
        distill.ExpertTraining("resnet18", whole=True)
    with pytest.raises(TrainingError, match="whole networks have no rank 2"):
        distill.ExpertTraining("resnet18", "supervised", rank=2, whole=True)
