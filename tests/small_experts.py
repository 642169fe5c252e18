"""Experts of a small network, and images, timesteps and settings to train them on."""

import torch
from torch import nn

from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.distill import Supervised, Transfer
from ppap_lib.experts import Experts, full_copies, lora, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.guidance.tasks import Classification
from ppap_lib.training.settings import Settings

LINEAR = Schedule.linear()
TWO, FIVE = Intervals(1000, 2), Intervals(1000, 5)
GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(256, (40, 1, 8, 8), generator=GENERATOR).byte()
LABELS = torch.randint(3, (40,), generator=GENERATOR)
LOGITS = 2 * torch.randn(40, 3, generator=GENERATOR)


def network(seed=0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    return made.eval()


def adapted(intervals=TWO, backbone=None, alpha=1.0) -> Experts:
    backbone = network() if backbone is None else backbone
    torch.manual_seed(1)
    return low_rank(
        backbone, lora.lora_config(backbone, ("0", "4"), 2, alpha, ("1.*", "4.bias")), intervals
    )


def copies(intervals=TWO) -> Experts:
    return full_copies(network(), intervals)


def transfer(intervals=TWO, **changes) -> Transfer:
    return Transfer(LINEAR, intervals, Classification(), **changes)


def supervised(intervals=TWO, **changes) -> Supervised:
    return Supervised(LINEAR, intervals, Classification(), **changes)


def plan(**changes) -> Settings:
    values = {"batch": 8, "steps": 8, "lr": 1e-2, "weight_decay": 0.05, "warmup": 2, "ema": 0.0}
    return Settings(**{**values, "clip": 0.0, "log_every": 1, **changes})


def seeded(seed=5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noised(loss, images, seed=5):
    """The timesteps, the level and x_t that a loss makes of images with this seed."""
    t = loss.times(len(images), seeded(seed))
    level = LINEAR.at(t)
    return t, level, level.noised(images, torch.randn(images.shape, generator=seeded(seed)))


def state(module: nn.Module) -> dict:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
