"""Presets: how every network of a tier, and experts made of it, are trained.

`PRESETS` is the one table of settings, by tier and by what is trained, for two CPU cores; on a GPU
a few of them change. `EXPERTS` says what an update of each network consists of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from ppap_lib.errors import TrainingError
from ppap_lib.experts import lora
from ppap_lib.training.settings import Settings

NETWORKS = ("denoiser", "resnet18", "vit", "judge")
"""The networks that a tier of this project trains."""

IMAGES = 600_000
"""The small tiers' budget: images seen by all experts together, whatever their number."""

ExpertKind = Literal["updates", "copies"]
"""Low-rank updates of one network, or whole networks."""


@dataclass(frozen=True)
class Preset:
    """Settings of one training.

    Parameters
    ----------
    settings : mapping
        Fields of `Settings`, for two CPU cores. Instead of `steps` or `minutes` they may give
        "images", the number of images to be seen.
    gpu : mapping
        Those that differ on a GPU.
    loss : mapping
        Arguments of the objective that differ from its defaults.
    """

    settings: Mapping[str, Any]
    gpu: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)


def _doublings(first: int) -> tuple[int, ...]:
    """Numbers of images seen at which averaged weights are kept, for quality curves."""
    return tuple(first * 2**k for k in range(12))


_GPU = {"bf16": True, "channels_last": True, "log_every": 100}


def _denoiser(**loss: Any) -> Preset:
    return Preset(
        {"batch": 32, "lr": 5e-4, "warmup": 300, "minutes": 120.0, "snapshots": _doublings(6_250)},
        {**_GPU, "batch": 256, "lr": 1e-3, "warmup": 1000, "ema": 0.9999},
        loss,
    )


def _resnet18(**loss: Any) -> Preset:
    return Preset(
        {"batch": 128, "lr": 3e-3, "weight_decay": 0.05, "minutes": 15.0},
        {**_GPU, "batch": 512, "lr": 4e-3, "minutes": 3.0},
        loss,
    )


def _vit(**loss: Any) -> Preset:
    return Preset(
        {"batch": 128, "lr": 1e-3, "weight_decay": 0.05, "warmup": 400, "minutes": 30.0},
        {**_GPU, "batch": 512, "lr": 2e-3, "minutes": 5.0},
        loss,
    )


def _judge(**loss: Any) -> Preset:
    return Preset(
        {"batch": 128, "lr": 3e-3, "weight_decay": 0.05, "minutes": 20.0},
        {**_GPU, "batch": 512, "lr": 4e-3, "minutes": 5.0},
        loss,
    )


# 1, 2, 5 and 10 experts share the small tiers' batches evenly; their rates are the networks' own.
_SMALL_EXPERTS = Preset(
    {
        "batch": 100,
        "weight_decay": 0.05,
        "warmup": 100,
        "clip": 0.0,
        "channels_last": True,
        "images": IMAGES,
        "snapshots": _doublings(9_375),
    },
    {"batch": 500, "log_every": 100},
)

# PPAP's numbers. Two things are not the released code's: its rate falls to zero as a line, ours as
# a cosine; and its weight decay is on biases and norms, too.
_PAPER_EXPERTS = Preset(
    {
        "batch": 256,
        "lr": 1e-4,
        "weight_decay": 0.05,
        "warmup": 0,
        "ema": 0.0,
        "clip": 0.0,
        "steps": 300_000,
        "snapshots": _doublings(9_375),
    }
)

PRESETS: Mapping[str, Mapping[str, Preset]] = MappingProxyType(
    {
        "fashion": {
            "denoiser": _denoiser(),
            "resnet18": _resnet18(),
            "vit": _vit(),
            "judge": _judge(erase=True),
            "experts": _SMALL_EXPERTS,
        },
        "tin10": {
            "denoiser": _denoiser(flip=True),
            "resnet18": _resnet18(shift=4),
            "vit": _vit(shift=4),
            "judge": _judge(shift=4, erase=True),
            "experts": _SMALL_EXPERTS,
        },
        "imagenet256": {"experts": _PAPER_EXPERTS},
    }
)
"""By tier and by what is trained: a network, or "experts" of one."""


def any_lora(network: nn.Module, rank: int = 8, alpha: float = 4.0) -> lora.LoraConfig:
    """Return a configuration for a network of which nothing is known.

    Linear layers and convolutions get factors, or are trained in full where their factors would be
    no smaller; so are all biases and norms. Depthwise convolutions stay frozen.
    """
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    layers = {n: m for n, m in layers.items() if not _depthwise(m)}
    factors = {n: lora.factor_shapes(m, rank, n) for n, m in layers.items()}
    smaller = [
        name
        for name, shapes in factors.items()
        # A network that is one layer has no name, by which its factors could be held.
        if name and sum(a * b for a, b in shapes) < layers[name].weight.numel()
    ]
    whole = [f"{name}.weight".lstrip(".") for name in layers if name not in smaller]
    whole += [*lora.biases(network), *lora.norm_affines(network)]
    if not layers:
        raise TrainingError(
            f"no layer of a {type(network).__name__} is a Linear or a plain Conv2d: make experts "
            f"with a LoraConfig of your own, or train whole networks"
        )
    return lora.lora_config(network, smaller, rank, alpha, tuple(dict.fromkeys(whole)))


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels


@dataclass(frozen=True)
class ExpertPreset:
    """Updates of one network, and how fast the small tiers train its experts.

    Parameters
    ----------
    config : callable
        `(network, rank, alpha) -> LoraConfig`: which layers are updated.
    rank : int
        The updates' rank.
    scale : float
        The LoRA scale, alpha / rank, as in the paper.
    lr, lr_copies : float, optional
        Highest learning rates of updates and of whole networks at a batch of 100. Updates alone
        bear larger ones, whether labels or the clean network teach them.
    """

    config: Callable[[nn.Module, int, float], lora.LoraConfig]
    rank: int
    scale: float
    lr: float | None = None
    lr_copies: float | None = None


EXPERTS: Mapping[str, ExpertPreset] = MappingProxyType(
    {
        "resnet18": ExpertPreset(lora.resnet_lora, 2, 8 / 16, lr=4e-3, lr_copies=2e-3),
        "vit": ExpertPreset(lora.vit_lora, 8, 8 / 32, lr=2e-3, lr_copies=1e-3),
        "lite0": ExpertPreset(lora.efficientnet_lora, 8, 8 / 16, lr=2e-3, lr_copies=1e-3),
        "resnet50": ExpertPreset(lora.resnet_lora, 16, 8 / 16),
        "deit_s": ExpertPreset(lora.vit_lora, 32, 8 / 32),
        "any": ExpertPreset(any_lora, 8, 8 / 16, lr=2e-3, lr_copies=1e-3),
    }
)
"""PPAP's updates by network: the paper's for its own two; for those of the small tiers a rank at
which five updates are a quarter of the network; and for "any" other a guess."""


def preset(tier: str, what: str) -> Preset:
    """Return the row of `PRESETS` for what is trained at a tier.

    Raises `TrainingError` if there is none.
    """
    if tier not in PRESETS:
        raise TrainingError(f"no tier {tier!r} has presets: there are {', '.join(PRESETS)}")
    if what not in (rows := PRESETS[tier]):
        raise TrainingError(f"{tier} has no preset for {what!r}: there are {', '.join(rows)}")
    return rows[what]


def expert_preset(network: str) -> ExpertPreset:
    """Return the row of `EXPERTS` for a network; "module:function" is any.

    Raises `TrainingError` if there is none.
    """
    if ":" in network:
        network = "any"
    if network not in EXPERTS:
        raise TrainingError(f"no experts of a network {network!r}: there are {', '.join(EXPERTS)}")
    return EXPERTS[network]


def settings(
    tier: str,
    network: str,
    device: torch.device | str = "cpu",
    *,
    experts: ExpertKind | None = None,
    images: int | None = None,
    **overrides: Any,
) -> Settings:
    """Return the settings that train a network of a tier, or experts made of it, on a device.

    Parameters
    ----------
    tier : str
        Whose presets to take: "fashion", "tin10", or "imagenet256" for the numbers of PPAP.
    network : str
        A name of `NETWORKS`; with `experts`, one of `EXPERTS`.
    device : torch.device or str
        On a GPU batches are larger. The experts' rate then grows as the square root of the batch
        does (Malladi et al. 2022).
    experts : {"updates", "copies"}, optional
        Train a set of experts of the network, not the network itself.
    images : int, optional
        Budget in images seen, of all experts together.
    **overrides
        Fields of `Settings`; None leaves one to the preset. A budget replaces the preset's.

    Returns
    -------
    Settings
        The preset with the overrides.

    Raises
    ------
    TrainingError
        If there is no such preset, or more than one budget is given.
    InputError
        If an override is no field of `Settings`, or out of its range.

    Examples
    --------
    >>> settings("fashion", "resnet18", experts="updates", images=1000).steps
    10
    """
    row = preset(tier, "experts" if experts else network)
    given = {name: value for name, value in overrides.items() if value is not None}
    if images is not None and (given.keys() & {"steps", "minutes"} or images < 1):
        raise TrainingError("give one budget: at least one image, or steps, or minutes")
    on_gpu = torch.device(device).type == "cuda"
    values = {**row.settings, **(row.gpu if on_gpu else {})}
    if experts and "lr" not in values:
        made_for = values["batch"] / row.settings["batch"]
        values["lr"] = _rate(network, experts) * made_for**0.5
    if images is not None or given.keys() & {"steps", "minutes"}:
        values = {k: v for k, v in values.items() if k not in ("images", "steps", "minutes")}
        values |= {} if images is None else {"images": images}
    values.update(given)
    if (seen := values.pop("images", None)) is not None:
        values["steps"] = -(-seen // values["batch"])
    return Settings.of(values)


def _rate(network: str, experts: ExpertKind) -> float:
    row = expert_preset(network)
    if row.lr is None:
        known = ", ".join(name for name, other in EXPERTS.items() if other.lr is not None)
        raise TrainingError(f"no learning rates for experts of {network!r}: there are {known}")
    return row.lr if experts == "updates" else row.lr_copies
