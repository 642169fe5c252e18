"""Training: resuming, kills, budgets, schedules, logs, and what a run leaves behind."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from places import ROOT
from torch import nn

from ppap_lib.data.pixels import from_bytes
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import TrainingError
from ppap_lib.files import weights
from ppap_lib.networks.adm import Architecture, UNet
from ppap_lib.training.checkpoints import Epochs, Log, snapshot_file, snapshots
from ppap_lib.training.objectives import ClassifierLoss, DenoiserLoss
from ppap_lib.training.preparation import parameter_groups
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer
from ppap_lib.zoo.tiers import tier

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(256, (30, 1, 8, 8), generator=GENERATOR).byte()
LABELS = torch.randint(3, (30,), generator=GENERATOR)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One thread, and no waiting for the disk, which only a power cut would need."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    torch.set_num_threads(threads)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def denoiser() -> nn.Module:
    torch.manual_seed(0)
    return UNet(
        Architecture(
            in_channels=1,
            model_channels=32,
            out_channels=2,
            num_res_blocks=1,
            attention_resolutions=(),
            channel_mult=(1,),
            dropout=0.2,
            use_scale_shift_norm=True,
        )
    )


def trainer(folder, make=classifier, loss=None, clock=None, **changes) -> Trainer:
    values = {"batch": 4, "steps": 12, "warmup": 3, "log_every": 4, **changes}
    if loss is None:
        loss = ClassifierLoss(erase=True) if make is classifier else DenoiserLoss(Schedule.linear())
    extra = {} if clock is None else {"clock": clock}
    return Trainer(make(), loss, PIXELS, LABELS, Settings(**values), folder, **extra)


class Stop(Exception):
    """What ends a run in the middle, as a kill would."""


def stopped_at(step: int, made: Trainer) -> Trainer:
    """A trainer that is interrupted before it takes this step."""
    take = made.step

    def guarded():
        if made.progress.step == step:
            raise Stop
        return take()

    made.step = guarded
    return made


def timeless(log: Log) -> list[dict]:
    """Logged rows without what the clock decides."""
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds", "images_per_second")}
        for row in log.rows()
    ]


def assert_same_state(a: nn.Module, b: nn.Module):
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


# --- Resuming


@pytest.mark.parametrize("make", [classifier, denoiser])
@pytest.mark.parametrize("broken_at", [5, 8])
def test_a_resumed_run_is_bitwise_the_unbroken_one(tmp_path, make, broken_at):
    """Losses, log, weights, batch-norm statistics and EMA; also off the logging interval."""
    straight = trainer(tmp_path / "straight", make)
    straight.run()
    broken = stopped_at(broken_at, trainer(tmp_path / "broken", make, checkpoint_every=0.0))
    with pytest.raises(Stop):
        broken.run()
    resumed = trainer(tmp_path / "broken", make)
    assert resumed.resume() and resumed.progress.step == broken_at
    resumed.run()
    assert [row["step"] for row in resumed.log.rows()] == [4, 8, 12]
    assert timeless(resumed.log) == timeless(straight.log)
    assert_same_state(resumed.network, straight.network)
    assert_same_state(resumed.ema, straight.ema)


def test_steps_behind_the_last_checkpoint_are_taken_again_and_logged_once(tmp_path):
    straight = trainer(tmp_path / "straight")
    straight.run()
    now = [0.0]
    broken = stopped_at(11, trainer(tmp_path / "b", clock=lambda: now[0], checkpoint_every=6.5))
    inner = broken.step

    def ticking():
        now[0] += 1
        return inner()

    broken.step = ticking
    with pytest.raises(Stop):
        broken.run()
    assert [row["step"] for row in broken.log.rows()] == [4, 8]
    resumed = trainer(tmp_path / "b")
    resumed.resume()
    assert resumed.progress.step == 7  # the first full step past 6.5 seconds
    assert [row["step"] for row in resumed.log.rows()] == [4]
    resumed.run()
    assert timeless(resumed.log) == timeless(straight.log)
    assert_same_state(resumed.ema, straight.ema)


def test_a_finished_run_can_be_given_a_larger_budget(tmp_path):
    trainer(tmp_path, steps=6).run()
    longer = trainer(tmp_path, steps=10)
    longer.resume()
    longer.run()
    assert longer.progress.step == 10
    assert [row["step"] for row in longer.log.rows()] == [4, 6, 8, 10]


def test_nothing_to_resume_is_a_fresh_start_and_clears_the_log(tmp_path):
    made = trainer(tmp_path)
    made.log.append({"step": 4})  # of a run that was killed before its first checkpoint
    assert not made.resume()
    made.run()
    assert [row["step"] for row in made.log.rows()] == [4, 8, 12]


def test_snapshots_of_a_killed_run_are_not_the_new_ones(tmp_path):
    """Killed before its first checkpoint, or after its last one: what it kept is taken again."""
    killed = stopped_at(9, trainer(tmp_path, snapshots=(4, 20)))
    with pytest.raises(Stop):
        killed.run()
    assert [images for images, _ in snapshots(tmp_path)] == [4, 20]
    anew = stopped_at(6, trainer(tmp_path, snapshots=(8,), seed=1, checkpoint_every=0.0))
    assert not anew.resume()
    with pytest.raises(Stop):
        anew.run()
    (snapshot,) = snapshots(tmp_path)
    assert snapshot[0] == 8
    shutil.copy(snapshot[1], snapshot_file(tmp_path, 28))
    resumed = trainer(tmp_path, seed=1)
    resumed.resume()
    assert snapshots(tmp_path) == [snapshot]


def test_an_earlier_run_is_not_overwritten(tmp_path):
    trainer(tmp_path).run()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError, match="--resume"):
        trainer(tmp_path).run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"batch": 5}, "batch 4 there, 5 here"),
        ({"loss": ClassifierLoss(erase=False)}, "objective"),
        ({"loss": DenoiserLoss(Schedule.linear())}, "schedule none there, crc32"),
    ],
)
def test_another_runs_checkpoint_is_refused(tmp_path, changes, named):
    trainer(tmp_path).run()
    with pytest.raises(TrainingError, match=named):
        trainer(tmp_path, **changes).resume()


def test_a_checkpoint_of_other_noise_levels_is_refused(tmp_path):
    trainer(tmp_path, denoiser, DenoiserLoss(Schedule.linear()), steps=1).run()
    for other in (Schedule.cosine(), Schedule.linear(100)):
        with pytest.raises(TrainingError, match=r"schedule crc32 \w+ there, crc32 \w+ here"):
            trainer(tmp_path, denoiser, DenoiserLoss(other), steps=1).resume()
    assert trainer(tmp_path, denoiser, DenoiserLoss(Schedule.linear()), steps=1).resume()


def test_an_objective_that_prints_its_address_can_be_resumed(tmp_path):
    class Plain(ClassifierLoss):
        __repr__ = object.__repr__

    trainer(tmp_path, loss=Plain(erase=True)).run()
    assert trainer(tmp_path, loss=Plain(erase=True)).resume()


def test_a_checkpoint_of_other_images_is_refused(tmp_path):
    trainer(tmp_path).run()
    other = Trainer(
        classifier(),
        ClassifierLoss(erase=True),
        255 - PIXELS,
        LABELS,
        Settings(batch=4, steps=12),
        tmp_path,
    )
    with pytest.raises(TrainingError, match="data 30 images"):
        other.resume()


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        ({}, {"init": "x"}, "init None there, x here"),
        ({"init": "x"}, {}, "init x there, None here"),
    ],
)
def test_a_checkpoint_that_says_more_or_less_of_its_run_is_refused(tmp_path, first, then, says):
    def made(about):
        settings = Settings(batch=4, steps=2)
        arguments = classifier(), ClassifierLoss(), PIXELS, LABELS, settings, tmp_path
        return Trainer(*arguments, about=about)

    made(first).run()
    with pytest.raises(TrainingError, match=f"another run's: {says}"):
        made(then).resume()
    assert made(first).resume()


def test_a_damaged_checkpoint_is_named(tmp_path):
    trainer(tmp_path).run()
    kept = tmp_path / "checkpoint.pt"
    kept.write_bytes(kept.read_bytes()[:2000])
    with pytest.raises(TrainingError, match="checkpoint.pt cannot be read"):
        trainer(tmp_path).resume()


def test_twenty_kills_at_random_moments_lose_nothing_saved(tmp_path):
    """Real processes, real SIGKILL, also in the middle of writes; see killed_training.py."""
    script = ROOT / "tests" / "killed_training.py"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    lives = found["lives"]
    assert len(lives) == 20 and found["statuses"] == [0, 0]
    for life, before in zip(lives, [{"kept": 0}, *lives], strict=False):
        assert life["said"] <= life["kept"]  # every checkpoint it said it saved is there
        assert before["kept"] <= life["kept"]  # and no kill throws the run back
        assert life["kept"] <= life["taken"] or life["kept"] == before["kept"]
    assert lives[-1]["kept"] > 40
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    assert timeless(Log(killed / "log.jsonl")) == timeless(Log(straight / "log.jsonl"))
    states = [
        torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (killed, straight)
    ]
    for part in ("network", "ema"):
        assert all(torch.equal(v, states[1][part][k]) for k, v in states[0][part].items())
    assert not list(killed.rglob("*.part"))
    snapshots = [sorted(p.name for p in (f / "snapshots").iterdir()) for f in (killed, straight)]
    assert snapshots == [["000000100.safetensors", "000001000.safetensors"]] * 2


# --- Budgets and schedules


def test_a_budget_in_minutes_ends_within_a_step_and_fits_the_cosine(tmp_path):
    now = [0.0]
    made = trainer(
        tmp_path, clock=lambda: now[0], steps=None, minutes=2.0, warmup=1, log_every=1, lr=0.1
    )
    inner = made.step

    def step():  # seven seconds each: 18 of them pass two minutes
        now[0] += 7
        return inner()

    made.step = step
    made.run()
    assert made.progress.step == math.ceil(120 / 7)
    assert made.progress.seconds == pytest.approx(7 * made.progress.step)
    rates = [row["lr"] for row in made.log.rows()]
    expected = [0.05 * (1 + math.cos(math.pi * 7 * k / 120)) for k in range(len(rates))]
    assert rates == pytest.approx(expected)


def test_the_last_steps_of_a_budget_are_logged(tmp_path):
    made = trainer(tmp_path, steps=11)
    made.run()
    assert [row["step"] for row in made.log.rows()] == [4, 8, 11]


def test_the_ema_is_the_weighted_average_of_weights_and_batch_norm_statistics(tmp_path):
    made = trainer(tmp_path, lr=0.05)
    state = {k: v.clone().double() for k, v in made.network.state_dict().items()}
    made.network.train()
    for _ in range(5):
        made.step()
        decay = made.settings.ema_decay(made.progress.step)
        for key, own in made.network.state_dict().items():
            state[key] = state[key] * decay + own * (1 - decay)
    for key, average in made.ema.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert average == 5
        else:
            assert torch.allclose(average.double(), state[key], atol=1e-6), key
            assert not torch.equal(average, made.network.state_dict()[key])
    assert not made.ema.training and not any(p.requires_grad for p in made.ema.parameters())


def test_every_image_is_seen_once_an_epoch():
    epochs = Epochs(count=10, batch=4, seed=3)
    seen = torch.cat([epochs(step) for step in range(10)])
    for start in range(0, 40, 10):
        assert torch.equal(seen[start : start + 10].sort().values, torch.arange(10))
    assert not torch.equal(seen[:10], seen[10:20])
    # A step's batch is a function of its number, whichever was asked for before.
    assert torch.equal(Epochs(10, 4, 3)(7), seen[28:32])
    assert not torch.equal(Epochs(10, 4, 4)(7), seen[28:32])


def test_a_batch_larger_than_the_set_runs_through_several_epochs():
    assert torch.equal(Epochs(3, 8, 0)(0).bincount().sort().values, torch.tensor([2, 3, 3]))


def test_weight_decay_spares_biases_norms_and_embeddings():
    vit = tier("fashion").classifier("vit")
    decayed, rest = parameter_groups(vit, 0.05)
    assert decayed["weight_decay"] == 0.05 and rest["weight_decay"] == 0
    spared = {id(p) for p in rest["params"]}
    names = {name for name, p in vit.named_parameters() if id(p) in spared}
    assert {"pos_embed", "cls_token", "norm.weight", "head.bias"} <= names
    assert not {name for name in names if name.endswith(("qkv.weight", "fc1.weight"))}
    assert len(decayed["params"]) + len(rest["params"]) == len(list(vit.parameters()))


def test_weight_decay_is_that_of_the_settings_also_after_resuming(tmp_path):
    trainer(tmp_path, weight_decay=0.05).run()
    made = trainer(tmp_path, weight_decay=0.5)
    assert made.resume()
    assert [group["weight_decay"] for group in made.optimizer.param_groups] == [0.5, 0.0]


def test_gradients_are_clipped_to_a_norm_and_logged_as_they_were(tmp_path):
    made = trainer(tmp_path, clip=0.01)
    logged = float(made.step()[1])
    grads = torch.cat([p.grad.flatten() for p in made.network.parameters()])
    assert logged > 0.1 and float(grads.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_is_what_the_network_computes_in_and_not_what_is_trained(tmp_path, bf16):
    made, seen = trainer(tmp_path, bf16=bf16), []
    made.network[-1].register_forward_hook(lambda layer, x, output: seen.append(output.dtype))
    made.step()
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}


def test_a_frozen_parameter_is_its_own_average(tmp_path):
    def last_layer_only():
        network = classifier().requires_grad_(False)
        network[-1].requires_grad_(True)
        return network

    made = trainer(tmp_path, last_layer_only, ClassifierLoss(erase=True), ema=0.5)
    start = {name: tensor.clone() for name, tensor in made.ema.state_dict().items()}
    made.run()
    moved = {n for n, t in made.ema.state_dict().items() if not torch.equal(t, start[n])}
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert moved == {"5.weight", "5.bias"} | statistics
    assert made.ema.state_dict().keys() == made.network.state_dict().keys()


# --- Robustness


def test_a_diverged_network_is_not_kept_as_a_snapshot(tmp_path):
    def exploding(network, images, labels, generator):
        return ClassifierLoss()(network, images, labels, generator) * math.nan

    made = trainer(tmp_path, loss=exploding, log_every=50, snapshots=(20,))
    with pytest.raises(TrainingError, match="diverged before step"):
        made.run()
    assert not list(tmp_path.glob("snapshots/*"))


def test_a_diverging_loss_stops_the_run_and_spares_the_checkpoint(tmp_path):
    def exploding(network, images, labels, generator):
        loss = ClassifierLoss()(network, images, labels, generator)
        return loss * (math.inf if made.progress.step >= 6 else 1)

    made = trainer(tmp_path, loss=exploding, checkpoint_every=0.0)
    with pytest.raises(TrainingError, match="diverged before step 7.*smaller lr"):
        made.run()
    assert [row["step"] for row in made.log.rows()] == [4]
    resumed = trainer(tmp_path, loss=exploding)
    resumed.resume()
    assert resumed.progress.step == 6
    assert all(v.isfinite().all() for v in resumed.network.state_dict().values())


@pytest.mark.parametrize("make", [classifier, denoiser])
def test_the_device_is_read_once_a_logging_interval(tmp_path, monkeypatch, make):
    """Reads of tensor values are what makes a GPU wait for the host, and the other way round."""
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, name=name, **kwargs):
            reads.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    made = trainer(tmp_path, make, steps=20, log_every=5, checkpoint_every=1e9)
    made.network.train()
    made.step()
    reads.clear()
    # Neither the final checkpoint nor AdamW, whose step counts live on the CPU outside its
    # fused kernel, belong to the loop.
    monkeypatch.setattr(made, "save", lambda: None)
    monkeypatch.setattr(made.optimizer, "step", lambda: None)
    seen = [0]
    made.run(lambda row: seen.append(len(reads)))
    assert seen == [0, 1, 2, 3, 4], reads


def test_training_leaves_the_global_generator_alone(tmp_path):
    made = trainer(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made.run()
    assert torch.equal(torch.rand(3), expected)


def test_snapshots_hold_the_average_of_their_moment(tmp_path):
    made = trainer(tmp_path, snapshots=(6, 16, 400))
    made.run()
    names = sorted(p.name for p in (tmp_path / "snapshots").iterdir())
    assert names == ["000000008.safetensors", "000000016.safetensors"]  # 6 is within step 2
    shorter = trainer(tmp_path / "shorter")
    shorter.network.train()
    for _ in range(4):
        shorter.step()
    kept = weights.read(tmp_path / "snapshots" / names[1])
    for key, value in shorter.ema.state_dict().items():
        expected = value.half() if value.is_floating_point() else value
        # The learning rate's cosine is the same: both budgets are twelve steps.
        assert torch.equal(kept[key], expected)


@pytest.mark.parametrize(
    ("samples", "labels"),
    [
        (PIXELS.int(), LABELS),
        (PIXELS[:, 0], LABELS),
        (PIXELS, LABELS[:3]),
        (PIXELS, {"class": LABELS, "size": LABELS[:3]}),
        (PIXELS, ()),
        (PIXELS[:0], LABELS[:0]),
    ],
)
def test_what_are_no_samples_with_a_label_each_are_refused(tmp_path, samples, labels):
    with pytest.raises(TrainingError, match="expected uint8 pixels .* or floating samples"):
        Trainer(classifier(), ClassifierLoss(), samples, labels, Settings(steps=1), tmp_path)


# --- Samples of any shape, labels of any kind


class Flat(nn.Module):
    """A denoiser of samples [B, ...] without learned variance: one linear layer and t."""

    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(math.prod(shape) + 1, math.prod(shape))

    def forward(self, x_t, t):
        out = self.layer(torch.cat([x_t.flatten(1), t[:, None] / 1000], 1))
        return out.view(x_t.shape)


@pytest.mark.parametrize("shape", [(5,), (6, 24), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floating_samples_are_read_as_they_are_and_resumed(tmp_path, shape, dtype):
    samples = (3 * torch.randn(30, *shape, generator=GENERATOR)).to(dtype)
    seen = []

    def loss(network, samples, labels, generator):
        seen.append(samples)
        return plain(network, samples, labels, generator)

    plain = DenoiserLoss(Schedule.linear(), "x0", learned_variance=False)
    settings = Settings(batch=30, steps=2, channels_last=True)
    arguments = Flat(shape), loss, samples, torch.zeros(30, 0), settings, tmp_path
    Trainer(*arguments).run()
    assert seen[0].dtype == torch.float32 and seen[0].shape == samples.shape
    assert torch.equal(seen[0].flatten().sort().values, samples.float().flatten().sort().values)
    assert Trainer(*arguments).resume()
    other = Trainer(*arguments[:2], samples + 1, *arguments[3:])
    with pytest.raises(TrainingError, match="data 30 images, crc32"):
        other.resume()


def test_labels_may_be_a_tree_of_tensors(tmp_path):
    labels = {"row": torch.arange(30), "pair": (PIXELS.double().mean((1, 2, 3)), [LABELS])}

    def loss(network, samples, labels, generator):
        brightness, (kind,) = labels["pair"]
        assert torch.equal(samples, from_bytes(PIXELS[labels["row"]]))
        assert torch.equal(brightness, PIXELS.double().mean((1, 2, 3))[labels["row"]])
        assert torch.equal(kind, LABELS[labels["row"]])
        return network(samples).square().mean()

    made = Trainer(classifier(), loss, PIXELS, labels, Settings(batch=7, steps=3), tmp_path)
    made.run()
    changed = {**labels, "row": labels["row"] + 1}
    with pytest.raises(TrainingError, match="data 30 images"):
        Trainer(classifier(), loss, PIXELS, changed, Settings(batch=7, steps=4), tmp_path).resume()
