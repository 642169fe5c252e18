"""A training that is killed over and over, for test_train: `python killed_training.py FOLDER`.

Importing torch takes seconds, so that one process imports it and forks the victims. Each
victim resumes the run in FOLDER/killed and gets SIGKILL at a random moment; what it says
through a pipe and what it leaves on disk are printed as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # the first optimiser step imports it: here, not in every victim
from torch import nn

from ppap_lib.training.checkpoints import load_checkpoint
from ppap_lib.training.objectives import ClassifierLoss
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer

LIVES, STEPS = 20, 400


def tiny_classifier() -> nn.Module:
    """Everything that must survive a kill: weights, batch-norm statistics, dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 3),
    )


class Reporting(Trainer):
    """Writes what it does into a pipe: a line per step taken and per checkpoint saved."""

    pipe: int

    def step(self):
        out = super().step()
        self.say("step")
        return out

    def save(self):
        super().save()
        self.say("saved")

    def say(self, what):
        os.write(self.pipe, f"{what} {self.progress.step}\n".encode())


def trainer(folder: Path, pipe: int, checkpoint_every: float) -> Reporting:
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(256, (50, 1, 8, 8), generator=generator).byte()
    labels = torch.randint(3, (50,), generator=generator)
    settings = Settings(
        batch=4,
        steps=STEPS,
        warmup=10,
        checkpoint_every=checkpoint_every,
        log_every=7,
        snapshots=(100, 1000),
    )
    made = Reporting(tiny_classifier(), ClassifierLoss(erase=True), data, labels, settings, folder)
    made.pipe = pipe
    return made


def victim(folder: Path, checkpoint_every: float) -> tuple[int, int]:
    """Fork a process that trains in `folder` to the end: its id and the pipe it reports to."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        return child, read
    status = 1
    try:
        made = trainer(folder, write, checkpoint_every)
        made.resume()
        made.run()
        status = 0
    finally:  # never return into the parent's code
        os._exit(status)


def live(folder: Path, chance: random.Random) -> dict:
    """One life: let a victim take a few steps, kill it at a random moment, read its remains."""
    child, pipe = victim(folder, 0.003)
    reports = os.fdopen(pipe, "r")
    for _ in range(chance.randrange(1, 24)):
        last = reports.readline()
    time.sleep(chance.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = [last, *reports]  # up to the last line it wrote
    reports.close()
    whole = [line.split() for line in said if line.endswith("\n")]
    numbers = {what: int(step) for what, step in whole}
    kept = folder / "checkpoint.pt"
    step = load_checkpoint(kept, torch.device("cpu"))["progress"]["step"] if kept.exists() else 0
    # A save may be complete and not yet reported; one that was reported must be there.
    return {
        "said": numbers.get("saved", 0),
        "taken": max(numbers.values(), default=0),
        "kept": step,
    }


def finish(folder: Path) -> int:
    """Let a victim train to the end; its exit status."""
    child, pipe = victim(folder, 1.0)
    with os.fdopen(pipe) as reports:
        reports.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # A kill, unlike a power cut, loses nothing that was written: waiting for the disk only
    # takes time, and without it far more of the kills fall into a write.
    os.fsync = lambda descriptor: None
    chance = random.Random(0)
    lives = [live(folder / "killed", chance) for _ in range(LIVES)]
    statuses = [finish(folder / name) for name in ("killed", "straight")]
    print(json.dumps({"lives": lives, "statuses": statuses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
