"""Training a set of experts: presets, fresh updates, all at once or one after another."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.distill.transfer import NoisyLoss
from ppap_lib.errors import TrainingError
from ppap_lib.experts import Experts, LoraBank, lora, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.training import checkpoints
from ppap_lib.training.fit import complete
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer, crc32

OnLog = Callable[[dict[str, Any]], None]

IMAGES = 600_000
"""The small tiers' budget: images seen by all experts together, whatever their number."""

_SMALL = {
    "batch": 100,
    "weight_decay": 0.05,
    "warmup": 100,
    "ema": 0.999,
    "clip": 0.0,
    "channels_last": True,
}

_PAPER = {
    "batch": 256,
    "lr": 1e-4,
    "weight_decay": 0.05,
    "warmup": 0,
    "ema": 0.0,
    "clip": 0.0,
    "steps": 300_000,
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"paper": _PAPER, "fashion": _SMALL, "tin10": _SMALL, "imagenet256": _PAPER}
)
"""Settings by tier, and the numbers of PPAP's training as "paper". 1, 2, 5 and 10 experts share a
small tier's batches evenly; in the paper's 256 the shares of 5 and 10 vary a little from step to
step. Two things are not the released code's: its rate falls to zero as a line, ours as a cosine;
and its weight decay is on biases and norms, too."""

RATES: Mapping[tuple[str, bool], float] = MappingProxyType(
    {
        ("resnet18", False): 4e-3,
        ("resnet18", True): 2e-3,
        ("vit", False): 2e-3,
        ("vit", True): 1e-3,
        ("lite0", False): 2e-3,
        ("lite0", True): 1e-3,
    }
)
"""The small tiers' highest learning rates, by guide and whether whole networks are trained.

Updates alone bear larger ones, whether labels or the clean network teach them. Those of
EfficientNet-Lite0 are the ViT's.
"""

GPU: Mapping[str, Any] = MappingProxyType({"batch": 500, "log_every": 100})
"""What changes for the small tiers on a GPU; and the rates, as the square root of the batch does
(Malladi et al. 2022)."""

SNAPSHOTS = tuple(9_375 * 2**k for k in range(12))
"""Images seen at which the experts are kept, for quality against images seen."""


def settings(
    preset: str,
    guide: str = "resnet18",
    whole: bool = False,
    device: torch.device | str = "cpu",
    images: int | None = None,
    **overrides,
) -> Settings:
    """The preset's settings, with `overrides` (None: as the preset has it).

    A small tier's learning rate is that of `RATES`, by `guide` and by whether `whole` networks are
    trained or updates; on a GPU it is larger. The budget is `steps` or `minutes` where given, else
    `images` in all (default: the preset's).
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}: there are {', '.join(PRESETS)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    if images is not None and (given.keys() & {"steps", "minutes"} or images < 1):
        raise TrainingError("give one budget: at least one image, or steps, or minutes")
    values = {"snapshots": SNAPSHOTS, **PRESETS[preset]}
    if PRESETS[preset] is _SMALL:
        if (guide, whole) not in RATES:
            known = dict.fromkeys(guide for guide, _ in RATES)
            raise TrainingError(f"no rates for a guide {guide!r}: there are {', '.join(known)}")
        values["lr"] = RATES[guide, whole]
        if torch.device(device).type == "cuda":
            values.update(GPU, lr=values["lr"] * (GPU["batch"] / _SMALL["batch"]) ** 0.5)
    values.update(given)
    if "minutes" in given and "steps" not in given:
        values.pop("steps", None)
    elif images is not None or "steps" not in values:
        values["steps"] = -(-(images or IMAGES) // values["batch"])
    return Settings.of(values)


@dataclass(frozen=True)
class _Updates:
    config: Callable[..., lora.LoraConfig]
    rank: int
    scale: float  # alpha / rank, as in the paper


UPDATES: Mapping[str, _Updates] = MappingProxyType(
    {
        "resnet18": _Updates(lora.resnet_lora, rank=2, scale=8 / 16),
        "vit": _Updates(lora.vit_lora, rank=8, scale=8 / 32),
        "lite0": _Updates(lora.efficientnet_lora, rank=8, scale=8 / 16),
        "resnet50": _Updates(lora.resnet_lora, rank=16, scale=8 / 16),
        "deit_s": _Updates(lora.vit_lora, rank=32, scale=8 / 32),
    }
)
"""PPAP's updates by guide: the paper's for its own two; the small tiers' by a rank at which five of
them are a quarter of the backbone."""


def updates(
    backbone: nn.Module,
    guide: str,
    intervals: Intervals,
    rank: int | None = None,
    scaled: bool = True,
    seed: int = 0,
) -> Experts:
    """Fresh updates of `backbone`, one per interval, by the preset of `guide`; `seed` decides A.

    `rank` replaces the preset's. Without `scaled`, alpha is the rank: no LoRA scale, as in the
    linear layers of PPAP's released code; `TrainingError` where no layer is linear.
    """
    if guide not in UPDATES:
        raise TrainingError(f"no updates for a guide {guide!r}: there are {', '.join(UPDATES)}")
    preset = UPDATES[guide]
    rank = preset.rank if rank is None else rank
    config = preset.config(backbone, rank, rank * preset.scale if scaled else float(rank))
    layers = [backbone.get_submodule(name) for name in config.layers]
    if not scaled and not any(isinstance(layer, nn.Linear) for layer in layers):
        raise TrainingError(
            f"{guide}'s updates are of convolutions only, which the released code scales: "
            f"leave out --no-scale, or take a guide with linear layers"
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return low_rank(backbone, config, intervals)


def fit(
    experts: Experts,
    loss: NoisyLoss,
    pixels: Tensor,
    targets: Tensor,
    settings: Settings,
    folder: str | Path,
    *,
    sequential: bool = False,
    device: torch.device | str = "cpu",
    resume: bool = False,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: OnLog = lambda row: None,
) -> tuple[Experts, dict[str, Any]]:
    """Train on uint8 `pixels` [N, C, H, W] and `targets` [N, ...], as the loss reads them.

    Returns the averaged experts, in eval mode and frozen, and what a summary says of the run,
    `images_per_expert` (as expected of uniform timesteps) among it. The budget in `settings` is
    for all experts together.

    All experts are trained in one pass, each from where it stands and with optimiser state of its
    own. `sequential` instead does as PPAP's released code: one after another, each with its share
    of the budget, expert k starting from the weights and optimiser state of expert k-1; each has
    a folder of its own then, there are no snapshots, and it is `experts` that becomes the averages.
    """
    if loss.intervals != experts.intervals:
        raise TrainingError(
            f"the loss is for {loss.intervals}, the experts are for {experts.intervals}"
        )
    if settings.clip and len(experts) > 1:
        raise TrainingError(
            f"clip = {settings.clip} bounds the norm of all experts' gradients together, so that "
            f"one expert's would change another's: use clip=0"
        )
    about = _about(experts)
    if sequential:  # each starts from the one before: with more of a budget all would be others
        about["budget"] = f"{settings.steps} steps, {settings.minutes} minutes"
    folder, title = Path(folder), "1 model" if len(experts) == 1 else f"{len(experts)} experts"

    def run(
        loss: NoisyLoss, settings: Settings, folder: Path, on_log: OnLog, optimizer: Any = None
    ) -> tuple[Experts, dict[str, Any], dict[str, Any]]:
        trainer = Trainer(experts, loss, pixels, targets, settings, folder, device, about=about)
        if optimizer is not None:
            trainer.optimizer.load_state_dict(optimizer)
        averaged, figures = complete(trainer, title, resume, on_start, on_log)
        return averaged, figures, trainer.optimizer.state_dict()

    try:
        if sequential:
            return _one_after_another(experts, loss, settings, folder, run, on_log)
        averaged, figures, _ = run(loss, settings, folder, on_log)
        return averaged, {**figures, "images_per_expert": _shares(loss, figures["images_seen"])}
    finally:
        experts.eval()  # the backbone is the caller's


def snapshots(experts: Experts, folder: str | Path) -> Iterator[tuple[int, Experts]]:
    """(images seen, experts as they then were), in order, of the run that `fit` left in `folder`.

    `experts` is a set of the run's architecture and stays as it is; each snapshot is loaded into
    one copy of it, over the one before. A run that kept none yields nothing.
    """
    then = copy.deepcopy(experts).eval().requires_grad_(False)
    for images, path in checkpoints.snapshots(Path(folder)):
        weights.load(then, weights.read(path), str(path))
        yield images, then


def _about(experts: Experts) -> dict[str, str]:
    """What is trained, and what it starts from: a checkpoint's tensors do not tell."""
    bank = experts.bank
    if isinstance(bank, LoraBank):
        config, backbone = bank[0].config, bank.backbone
        trained = f"updates of rank {config.rank} and scale {config.scale:g}"
    else:
        trained, backbone = "whole networks", bank[0]
    return {"trained": trained, "trunk": f"crc32 {crc32(*backbone.state_dict().values()):08x}"}


def _shares(loss: NoisyLoss, images: int) -> list[int]:
    """How many of the images each expert sees, in expectation: timesteps are uniform."""
    return [round(images * len(interval) / loss.intervals.T) for interval in loss.intervals]


def _one_after_another(
    experts: Experts,
    loss: NoisyLoss,
    settings: Settings,
    folder: Path,
    run: Callable,
    on_log: OnLog,
) -> tuple[Experts, dict[str, Any]]:
    """`fit`'s sequential training; `run` trains what has gradients."""
    count, bank = len(experts), experts.bank
    steps = settings.steps
    if steps is not None and steps < count:
        raise TrainingError(f"{steps} steps are none for some of {count} experts: give each one")
    shares = [
        replace(
            settings,
            steps=steps and steps // count + (k < steps % count),
            minutes=settings.minutes and settings.minutes / count,
            snapshots=(),
        )
        for k in range(count)
    ]
    stages: list[dict[str, Any]] = []
    optimizer = None
    for k in range(count):
        if k:
            bank[k].load_state_dict(bank[k - 1].state_dict())
        for j, expert in enumerate(bank):
            expert.requires_grad_(j == k)
        averaged, figures, optimizer = run(
            replace(loss, only=k),
            shares[k],
            folder / f"expert-{k + 1}",
            _behind(stages, on_log),
            optimizer,
        )
        experts.load_state_dict(averaged.state_dict())
        stages.append(figures)
    total = {key: _sum(stages, key) for key in ("parameters", "steps", "images_seen", "seconds")}
    return experts.requires_grad_(False), {
        **stages[-1],
        **total,
        "objective": repr(loss),
        "settings": asdict(settings),
        "final_loss": _sum(stages, "final_loss") / count,
        "images_per_second": round(total["images_seen"] / max(total["seconds"], 1e-9), 2),
        "images_per_expert": [stage["images_seen"] for stage in stages],
    }


def _sum(stages: list[dict[str, Any]], key: str) -> Any:
    return sum(stage[key] for stage in stages)


def _behind(stages: list[dict[str, Any]], on_log: OnLog) -> OnLog:
    """`on_log`, told of rows as if the finished stages were part of the same run."""
    before = {
        "step": _sum(stages, "steps"),
        "images": _sum(stages, "images_seen"),
        "seconds": _sum(stages, "seconds"),
    }
    return lambda row: on_log({**row, **{key: row[key] + more for key, more in before.items()}})
