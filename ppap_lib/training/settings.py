"""How a network is trained: settings, and the presets by tier and network as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from ppap_lib.errors import TrainingError
from ppap_lib.parameters import Parameters, param


@dataclass(frozen=True)
class Settings(Parameters):
    """How long and how a network is trained.

    The budget is `steps`, or `minutes` of training time; the learning rate rises linearly over
    `warmup` steps and falls to zero as a cosine that fits the budget. `clip` bounds the
    gradient's norm (0: not at all). `bf16`, `channels_last` and `compile` help on a GPU; on a
    CPU without bf16 units they do harm. `checkpoint_every` is in seconds, `log_every` in steps.
    `snapshots` are numbers of images seen after which the EMA weights are kept, for quality
    curves.
    """

    batch: int = param(64, low=1)
    lr: float = param(5e-4, low=0)
    weight_decay: float = param(0.0, low=0)
    warmup: int = param(200, low=0)
    ema: float = param(0.999, low=0)
    clip: float = param(1.0, low=0)
    steps: int | None = param(None, low=1)
    minutes: float | None = param(None, low=0)
    seed: int = 0
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    checkpoint_every: float = param(180.0, low=0)
    log_every: int = param(50, low=1)
    snapshots: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise TrainingError("give either steps or minutes, not both and not neither")
        for name in ("lr", "minutes"):
            if getattr(self, name) == 0:
                raise TrainingError(f"{name} must be positive")
        if self.ema >= 1:
            raise TrainingError(f"ema is a decay below 1, not {self.ema}")

    def fraction(self, steps: int, seconds: float) -> float:
        """The share of the budget that `steps` taken in `seconds` use up, in [0, 1]."""
        used = seconds / (60 * self.minutes) if self.steps is None else steps / self.steps
        return min(used, 1.0)

    def learning_rate(self, steps: int, seconds: float) -> float:
        """The rate of the step after `steps` taken in `seconds`."""
        rise = min(1.0, (steps + 1) / max(self.warmup, 1))
        fall = 0.5 * (1 + math.cos(math.pi * self.fraction(steps, seconds)))
        return self.lr * rise * fall

    def ema_decay(self, steps: int) -> float:
        """The decay after the `steps`-th step: a ramp, so that a short run's average is not
        dominated by the initial weights."""
        return min(self.ema, (1 + steps) / (10 + steps))


NETWORKS = ("denoiser", "resnet18", "vit", "judge")

_GPU = {"bf16": True, "channels_last": True, "log_every": 100}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "denoiser": {"batch": 32, "lr": 5e-4, "warmup": 300, "ema": 0.999, "minutes": 120.0},
        "resnet18": {"batch": 128, "lr": 3e-3, "weight_decay": 0.05, "minutes": 15.0},
        "vit": {"batch": 128, "lr": 1e-3, "weight_decay": 0.05, "warmup": 400, "minutes": 30.0},
        "judge": {"batch": 128, "lr": 3e-3, "weight_decay": 0.05, "minutes": 20.0},
    }
)
"""Settings by network, for two CPU cores."""

GPU_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "denoiser": {**_GPU, "batch": 256, "lr": 1e-3, "warmup": 1000, "ema": 0.9999},
        "resnet18": {**_GPU, "batch": 512, "lr": 4e-3, "minutes": 3.0},
        "vit": {**_GPU, "batch": 512, "lr": 2e-3, "minutes": 5.0},
        "judge": {**_GPU, "batch": 512, "lr": 4e-3, "minutes": 5.0},
    }
)
"""What changes on a GPU: larger batches at a higher rate, bf16, channels_last."""

OBJECTIVES: Mapping[tuple[str, str], Mapping[str, Any]] = MappingProxyType(
    {
        ("fashion", "judge"): {"erase": True},
        ("tin10", "denoiser"): {"flip": True},
        ("tin10", "resnet18"): {"shift": 4},
        ("tin10", "vit"): {"shift": 4},
        ("tin10", "judge"): {"shift": 4, "erase": True},
    }
)
"""Arguments of the objective that differ from its defaults, by tier and network."""

SNAPSHOTS = tuple(6_250 * 2**k for k in range(12))
"""Images seen at which a denoiser's EMA weights are kept: doublings, for KID curves."""


def settings(what: str, device: torch.device | str = "cpu", **overrides) -> Settings:
    """The preset of a network on a device, with `overrides` (None: as the preset has it).

    A given budget replaces the preset's: `steps=1000` drops its minutes. Raises `InputError`
    for a setting that is none or out of its range, `TrainingError` for a network that is none.
    """
    if what not in PRESETS:
        raise TrainingError(f"no network {what!r}: there are {', '.join(NETWORKS)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    values = dict(PRESETS[what])
    if torch.device(device).type == "cuda":
        values.update(GPU_PRESETS[what])
    if what == "denoiser":
        values["snapshots"] = SNAPSHOTS
    if "steps" in given:
        del values["minutes"]
    return Settings.of({**values, **given})
