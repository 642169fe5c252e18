"""A training for test_lifecycle: `python interrupted_training.py FOLDER [minutes]`.

Each step takes two hundredths of a second, and the first ones are told on standard output.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn

from ppap_lib.cli import run_command
from ppap_lib.training.fit import fit
from ppap_lib.training.settings import Settings


def slow_loss(network, x, y, generator):
    time.sleep(0.02)
    return network(x).square().mean()


def train(given):
    torch.manual_seed(0)
    budget = {"minutes": given.minutes} if given.minutes else {"steps": 100_000}
    settings = Settings(batch=2, log_every=5, **budget)
    data = torch.ones(8, 3)

    def on_log(row):
        print(row["step"], flush=True)

    summary = fit(nn.Linear(3, 1), slow_loss, data, data, settings, given.folder, on_log=on_log)
    return f"{summary['seconds']} seconds"


if __name__ == "__main__":
    from ppap_lib.cli import CommandLine

    parser = CommandLine()
    parser.add_argument("folder", type=Path)
    parser.add_argument("minutes", type=float, nargs="?")
    sys.exit(run_command(parser, train))
