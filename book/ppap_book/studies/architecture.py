"""ADM's architecture ablation at a tier's size: what each switch costs, and what it buys.

Every variant differs from the tier's denoiser in one respect and is trained for the same
processor time, so that a larger network sees fewer images: the budget that a reader has.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from ppap_book.measures import cost
from ppap_book.study import Study
from ppap_lib.data import ImageSet
from ppap_lib.diffusion.noise import SEEDS
from ppap_lib.errors import InputError
from ppap_lib.networks.adm import UNet
from ppap_lib.parameters import Parameters, param
from ppap_lib.training.settings import Settings
from ppap_lib.training.trainer import Trainer
from ppap_lib.zoo import datasets, tiers

Tier = Literal["fashion", "tin10"]

WARMUP = 20  # steps: these runs are short
LEVEL = 0.95  # of what is said about one run beside the base's


@dataclass(frozen=True)
class Variant:
    """One network of the ablation: the switch it turns, and its changes to the preset."""

    switch: str
    label: str
    changes: Mapping[str, Any]


def _heads(count: int) -> dict[str, int]:
    return {"num_heads": count, "num_head_channels": -1}


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "base": Variant("preset", "the tier's denoiser", {}),
        "deeper": Variant("depth", "2 residual blocks a level", {"num_res_blocks": 2}),
        "wider": Variant(
            "width", "widths 64, 64, 128", {"model_channels": 64, "channel_mult": (1, 1, 2)}
        ),
        "heads_1": Variant("heads", "1 head of 128 channels", _heads(1)),
        "heads_2": Variant("heads", "2 heads of 64 channels", _heads(2)),
        "heads_8": Variant("heads", "8 heads of 16 channels", _heads(8)),
        "attention_middle": Variant(
            "attention", "attention in the middle block only", {"attention_resolutions": ()}
        ),
        "attention_16": Variant(
            "attention", "attention at 8 and 16", {"attention_resolutions": (2, 4)}
        ),
        "attention_32": Variant(
            "attention", "attention at 8, 16 and 32", {"attention_resolutions": (1, 2, 4)}
        ),
        "updown": Variant("resampling", "BigGAN's residual up and down", {"resblock_updown": True}),
        "rescaled": Variant("residuals", "rescaled residuals", {"rescale_residuals": True}),
        "added": Variant("timestep", "timestep added, no AdaGN", {"use_scale_shift_norm": False}),
    }
)
"""The base has attention at 8x8 in 4 heads of 32 channels, so those rows of ADM's are its own.

Widths are multiples of 32 (group normalisation has 32 groups). Attention sits at one width, 128,
where a number of heads and a number of channels per head are the same switch.
"""


@dataclass(frozen=True)
class ArchitectureRun(Parameters):
    """One training of a variant, for so many seconds of processor time, and how it is tested."""

    tier: Tier = "fashion"
    variant: str = "base"
    seconds: float = param(40.0, low=0.0)
    batch: int = param(8, low=1)
    lr: float = param(1e-3, low=0.0)
    seed: int = param(0, low=0, high=SEEDS - 1)
    held_out: int = param(120, low=10)

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise InputError(f"no variant {self.variant!r}: there are {', '.join(VARIANTS)}")
        if not self.seconds:
            raise InputError("seconds must be positive")


def network(params: ArchitectureRun) -> UNet:
    """Return the variant, untrained; initialised by the seed alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(params.seed)
        preset = tiers.tier(params.tier).architecture
        return UNet(replace(preset, **VARIANTS[params.variant].changes))


def forward_rate(
    trial: nn.Module, shape: Sequence[int], seconds: float = 0.2, batch: int = 8
) -> float:
    """Return how many images a second of processor time pass through, without gradients."""
    x, t = torch.zeros(batch, *shape), torch.zeros(batch)
    with torch.inference_mode():
        trial(x, t)  # the first one warms up
        began, passes = time.process_time(), 0
        while passes < 2 or time.process_time() - began < seconds:
            trial(x, t)
            passes += 1
    return passes * batch / (time.process_time() - began)


def held_out_loss(trial: nn.Module, params: ArchitectureRun, images: ImageSet) -> float:
    """Return the mean squared error of v on the first `held_out` images.

    At even timesteps, with fixed noise.
    """
    loss = tiers.training_objective(tiers.tier(params.tier), "denoiser")
    x0 = images.images(range(params.held_out))
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(x0.shape, generator=generator)
    t = torch.linspace(0, loss.schedule.T - 1, len(x0)).long()
    parts = zip(x0.split(params.batch), t.split(params.batch), eps.split(params.batch), strict=True)
    with torch.no_grad():
        return torch.cat([loss.terms(trial, x, at, e)[0] for x, at, e in parts]).mean().item()


def measure(
    params: ArchitectureRun,
    device: torch.device | str = "cpu",
    stand_in: bool = False,
) -> dict[str, float]:
    """Return size, speed and held-out loss of one variant after its training.

    On the CPU alone, where processor time can be told from that of others. Loss and images seen
    depend on how fast this machine is: they are not functions of the seed. Real images only, but
    with `stand_in` any that stand in for them: for a sketch that is not filed.
    """
    if torch.device(device).type != "cpu":
        raise InputError(f"this study counts processor time: run it on the CPU, not {device}")
    tier = tiers.tier(params.tier)
    load = datasets.load if stand_in else datasets.require
    train, test = load(params.tier, "train"), load(params.tier, "test")
    trial = network(params)
    size = cost.size(trial, trial, tier.shape)
    rate = forward_rate(trial.eval(), tier.shape)
    settings = Settings(
        batch=params.batch,
        lr=params.lr,
        warmup=WARMUP,
        minutes=params.seconds / 60,
        seed=params.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            trial,
            tiers.training_objective(tier, "denoiser"),
            train.pixels,
            train.labels,
            settings,
            Path(folder),
            clock=time.process_time,  # what else the machine does shall not count
        )
        ema = trainer.run()
    return {
        "parameters": size.parameters,
        "gmac": size.gmac,
        "forward_images_per_second": rate,
        "training_images_per_second": trainer.images_seen / trainer.progress.seconds,
        "images_seen": trainer.images_seen,
        "loss": held_out_loss(ema, params, test),
    }


def grid(
    tier: Tier = "fashion", seconds: float = 40.0, seeds: tuple[int, ...] = (0, 1, 2)
) -> list[ArchitectureRun]:
    """Return every variant at the first seed, and the base at all of them, for its `scatter`.

    Parameters
    ----------
    tier : TierName
        The tier whose denoiser is varied.
    seconds : float
        The processor time of each training.
    seeds : tuple[int, ...]
        The seeds of the trainings.
    """
    wanted = [(variant, seeds[0]) for variant in VARIANTS] + [("base", s) for s in seeds[1:]]
    return [ArchitectureRun(tier=tier, variant=v, seconds=seconds, seed=seed) for v, seed in wanted]


def scatter(losses: Sequence[float], level: float = LEVEL) -> float:
    """Return how far from the mean of k runs one more of the same law lies, at this level.

    Half the prediction interval: t(k - 1) s sqrt(1 + 1/k), for normal losses and k >= 2.
    """
    from scipy.stats import t

    if len(losses) < 2:
        raise InputError(f"the scatter of runs needs two of them or more, not {len(losses)}")
    quantile = float(t.ppf((1 + level) / 2, len(losses) - 1))
    return quantile * statistics.stdev(losses) * math.sqrt(1 + 1 / len(losses))


def sketched(params: ArchitectureRun, seconds: float) -> ArchitectureRun:
    """Return the run shortened to what a page can wait for: it hardly trains the network."""
    return replace(params, seconds=seconds, batch=4, held_out=10)


STUDY = Study(
    "architecture",
    "What does each switch of ADM's architecture cost, and what does it buy?",
    ArchitectureRun,
    grid,
    measure,
    on_cpu=True,
)
