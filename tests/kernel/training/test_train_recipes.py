"""Whole trainings: presets, speed figures, the command line and what it leaves behind."""

import json
import math

import pytest
import torch
from torch import nn

from ppap_book.measures import cost
from ppap_book.study import training_provenance
from ppap_lib import data
from ppap_lib.commands.train import main
from ppap_lib.errors import InputError, TrainingError
from ppap_lib.files import weights
from ppap_lib.training import fit
from ppap_lib.training.checkpoints import Log
from ppap_lib.training.settings import NETWORKS, Settings, settings
from ppap_lib.zoo import datasets, tiers
from ppap_lib.zoo.tiers import tier

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(256, (30, 1, 8, 8), generator=GENERATOR).byte()
LABELS = torch.randint(3, (30,), generator=GENERATOR)


# --- Settings, presets and speed


def test_learning_rate_rises_linearly_and_falls_as_a_cosine():
    s = Settings(steps=1000, warmup=10, lr=2.0)
    assert s.learning_rate(0, 0) == pytest.approx(0.2)
    assert s.learning_rate(4, 0) == pytest.approx(1.0, rel=1e-3)
    assert s.learning_rate(500, 0) == pytest.approx(1.0)
    assert s.learning_rate(250, 0) == pytest.approx(1 + math.sqrt(0.5))
    assert s.learning_rate(1000, 0) == pytest.approx(0, abs=1e-12)
    timed = Settings(minutes=10, warmup=0, lr=2.0)
    assert timed.learning_rate(12345, 300) == pytest.approx(1.0)


def test_ema_decay_ramps_up_to_its_setting():
    s = Settings(steps=1, ema=0.99)
    assert [s.ema_decay(k) for k in (1, 8)] == pytest.approx([2 / 11, 0.5])
    assert s.ema_decay(10_000) == 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": 5, "minutes": 1.0},
        {"steps": 0},
        {"minutes": -1.0},
        {"minutes": 0.0},
        {"minutes": math.nan},
        {"steps": 5, "batch": 0},
        {"steps": 5, "lr": 0.0},
        {"steps": 5, "lr": math.nan},
        {"steps": 5, "ema": 1.0},
        {"steps": 5, "clip": -1.0},
        {"steps": 5, "log_every": 0},
        {"steps": 5.5},
        {"steps": 5, "bf16": "no"},
    ],
)
def test_bad_settings_are_refused(changes):
    with pytest.raises((TrainingError, InputError)):
        Settings(**changes)


@pytest.mark.parametrize("what", NETWORKS)
def test_presets_use_a_gpus_formats_on_a_gpu_only(what):
    cpu, gpu = settings(what), settings(what, "cuda")
    assert not (cpu.bf16 or cpu.channels_last or cpu.compile)
    assert gpu.bf16 and gpu.channels_last and gpu.batch > cpu.batch
    assert settings(what, steps=7).steps == 7 and settings(what, steps=7).minutes is None
    assert settings(what, lr=None) == cpu


def test_unknown_presets_and_settings_are_refused():
    with pytest.raises(TrainingError, match="denoiser, resnet18, vit, judge"):
        settings("resnet50")
    with pytest.raises(InputError, match="unknown parameter 'learning_rate'"):
        settings("judge", learning_rate=1.0)


def test_flops_are_counted_per_image_forward_and_backward():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = [p.clone() for p in linear.parameters()]

    def plain(network, images, labels, generator):
        return network(images).sum()

    # Forward 2*64*3 and the weights' gradient the same; none for the images.
    for batch in (1, 2, 2 * len(PIXELS)):
        assert cost.flops_per_image(linear, plain, PIXELS, LABELS, batch) == 2 * 2 * 64 * 3
    assert all(torch.equal(a, b) for a, b in zip(before, linear.parameters(), strict=True))
    assert all(p.grad is None for p in linear.parameters())


def test_what_a_step_computes_once_is_shared_by_its_images():
    """Low-rank factors are multiplied once a step, and their gradients once."""
    rank, inputs, outputs = 2, 64, 3
    a, b = (nn.Parameter(torch.ones(s)) for s in ((rank, inputs), (outputs, rank)))
    module = nn.ParameterList([a, b])

    def low_rank(factors, images, labels, generator):
        return (images.flatten(1) @ (factors[1] @ factors[0]).T).sum()

    product, applied = 2 * rank * inputs * outputs, 2 * inputs * outputs
    for batch in (2, 30):
        # The product and its two gradients; the images' own and the one of the weights.
        expected = 3 * product / batch + 2 * applied
        found = cost.flops_per_image(module, low_rank, PIXELS, LABELS, batch)
        assert found == pytest.approx(expected)


def test_datasheet_peaks_go_by_the_devices_name():
    assert cost.datasheet_peak("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert cost.datasheet_peak("NVIDIA H100 PCIe", "bf16") == 756.5e12
    assert cost.datasheet_peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert cost.datasheet_peak("x86_64 CPU with 1 thread(s)", "fp32") is None


def test_share_of_peak_is_the_rate_times_the_cost():
    found = cost.Speed(2e9, 1e12, None, "fp32", "a device")
    assert found.share(100.0) == pytest.approx(0.2)


# --- The command line


@pytest.fixture
def tiny_fashion(monkeypatch):
    """Forty random images in place of the training set."""
    pixels = torch.randint(256, (40, 1, 32, 32), generator=GENERATOR).byte()
    labels = torch.arange(40) % 10
    images = data.ImageSet(pixels, labels, tier("fashion").classes, "random")
    monkeypatch.setattr(data, "require", lambda name, split: images)


JUDGE = ["classifier", "judge", "--batch", "4", "--log-every", "2", "--quiet", "--device", "cpu"]


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


@pytest.mark.usefixtures("quick_training")
def test_a_summary_says_what_the_network_predicts(tmp_path, tiny_fashion):
    images = datasets.require("fashion", "train")
    for what, changes, said in (("denoiser", {"prediction": "eps"}, "eps"), ("judge", {}, None)):
        summary = tiers.train_network(
            *(tier("fashion"), what, images.pixels, images.labels),
            *(Settings(steps=1, batch=1), tmp_path / what),
            loss=tiers.training_objective(tier("fashion"), what, **changes),
        )
        assert summary["prediction"] == said


def test_a_summary_has_the_commit_that_trained(tmp_path, tiny_fashion, moving_head, monkeypatch):
    images = datasets.require("fashion", "train")

    def moved(row):
        moving_head.append("later")

    tiers.train_network(
        *(tier("fashion"), "judge", images.pixels, images.labels),
        *(Settings(steps=1, batch=4), tmp_path),
        on_log=moved,
    )
    assert len(moving_head) == 2
    summary = json.loads((tmp_path / fit.SUMMARY).read_text())
    assert summary["commit"] == "earlier"
    about = training_provenance(summary)
    assert about["trained_by"] == "earlier" and about["trained_with"] == summary["versions"]
    assert about["data"] == summary["data"] and "snapshots" not in about["settings"]
    old = {key: summary[key] for key in ("speed", "settings")}
    assert training_provenance(old).keys() == {"settings", "trained_on"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*JUDGE, "--tier", "mnist"], "no tier 'mnist'"),
        ([*JUDGE, "--steps", "1", "--minutes", "1"], "steps or minutes"),
        ([*JUDGE, "--device", "gpu"], "no device 'gpu'"),
        ([*JUDGE, "--init", "nowhere.safetensors"], "nowhere.safetensors"),
        ([*JUDGE, "--tier", "tin10", "--steps", "1"], "trains on images"),
        (["denoiser", "--min-snr", "-1"], "min_snr must be positive"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, tiny_fashion, capsys, arguments, says):
    assert main([*arguments, "--folder", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


def test_initial_weights_are_decided_by_the_seed_alone():
    chosen = tier("fashion")
    torch.manual_seed(9)
    one = tiers.untrained_network(chosen, "judge", 3)
    torch.manual_seed(10)
    assert torch.equal(one[0].weight, tiers.untrained_network(chosen, "judge", 3)[0].weight)
    other = tiers.untrained_network(chosen, "judge", 4)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_objectives_follow_tier_and_network():
    fashion, tin10 = tier("fashion"), tier("tin10")
    assert tiers.training_objective(fashion, "judge").erase
    assert not tiers.training_objective(fashion, "resnet18").erase
    assert tiers.training_objective(tin10, "vit").shift == 4
    assert tiers.training_objective(fashion, "denoiser", min_snr=5.0).min_snr == 5.0
