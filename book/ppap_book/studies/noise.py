"""Two tweaks of ADM's sampler: a second draw of noise a step, and betas it was not trained with.

The network keeps its training index: at grid point t it is asked what it knows of training
timestep t, whatever noise the sampler's betas have put there. The control is a network that is
conditioned on the level that x_t really has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ppap_book.measures import protocol
from ppap_book.measures.features import ExtractorName
from ppap_book.measures.spectrum import noise_sigma_mad
from ppap_book.studies import methods
from ppap_book.study import Seeded, Study
from ppap_lib import zoo
from ppap_lib.diffusion.denoisers import Denoise, Prediction
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.parameters import Parameters, param
from ppap_lib.samplers import ddpm
from ppap_lib.samplers.draw import draw as draw_samples
from ppap_lib.zoo import tiers
from ppap_lib.zoo.tiers import TierName

STEPS: Mapping[int, int] = MappingProxyType({25: 66, 250: 66, 1000: 10})
"""Steps of the sampler, and images per repeat: as many as two CPU cores draw within an evening.

Of fewer than `protocol.DISTANCES_FROM` only the grain is measured.
"""


class Tweak(NamedTuple):
    """A change of the sampler: draws of noise a step, its betas, what conditions the network."""

    title: str
    draws: int = 1
    beta_start: float = 1e-4
    beta_end: float = 0.02
    conditioned_on: Literal["index", "level"] = "index"


TWEAKS: Mapping[str, Tweak] = MappingProxyType(
    {
        "one_z": Tweak("one z"),
        "two_z": Tweak("two z", draws=2),
        "start": Tweak("betas [2e-4, 0.02]", beta_start=2e-4),
        "end": Tweak("betas [1e-4, 0.04]", beta_end=0.04),
        "start_told": Tweak(
            "[2e-4, 0.02], told the level", beta_start=2e-4, conditioned_on="level"
        ),
        "end_told": Tweak("[1e-4, 0.04], told the level", beta_end=0.04, conditioned_on="level"),
    }
)

TweakName = Literal[*TWEAKS]


@dataclass(frozen=True)
class NoiseTweakRun(Seeded, Parameters):
    """One run: which tweak, in how many steps, with x0 clipped or not, from which seeds."""

    tweak: TweakName = "one_z"
    steps: int = param(25, low=2, high=1000)
    clip: bool = True
    n: int = param(66, low=2)
    first_seed: int = param(0, low=0)
    tier: TierName = "fashion"
    extractor: ExtractorName = "lite2"

    def recorded(self) -> dict[str, Any]:
        """Name the digest of the denoiser that ships now as well."""
        return super().recorded() | methods.digests(self.tier, "denoiser")


def conditioned_on_index(denoise: Denoise, trained: Schedule) -> Denoise:
    """Return `denoise` as it answers where the sampler's betas are not its own.

    Its eps is that of training timestep t; x0 then follows at the sampler's level, as it does
    for a network that predicts eps. At its own levels nothing changes.
    """

    def read(x_t: Tensor, level: Level) -> Prediction:
        prediction = denoise(x_t, trained.at(level.t))
        return prediction.with_eps(prediction.eps, x_t, level)

    return read


def conditioned_on_level(denoise: Denoise, trained: Schedule) -> Denoise:
    """Return `denoise` asked at the training timestep with the level's noise, or the nearest."""
    highest, lowest = trained.log_snr[0], trained.log_snr[-1]

    def read(x_t: Tensor, level: Level) -> Prediction:
        own = trained.at_log_snr(level.log_snr.clamp(lowest, highest))
        prediction = denoise(x_t, own)
        return prediction.with_x0(prediction.x0, x_t, level)

    return read


def sampler_schedule(tweak: Tweak, T: int = 1000) -> Schedule:
    """Return the schedule that the sampler uses; ranges are for T = 1000 and scale as 1/T."""
    return Schedule.linear(T, tweak.beta_start * 1000 / T, tweak.beta_end * 1000 / T)


def draw(
    params: NoiseTweakRun, device: torch.device | str = "cpu", denoise: Denoise | None = None
) -> Tensor:
    """Return the run's images: float32 [n, C, H, W] in [-1, 1], on the CPU.

    Without `denoise` the tier's denoiser is loaded.
    """
    tier, tweak = tiers.tier(params.tier), TWEAKS[params.tweak]
    denoise = denoise or zoo.load(tier.named("denoiser"), device).denoise
    trained = tier.schedule()
    wrapper = {"index": conditioned_on_index, "level": conditioned_on_level}[tweak.conditioned_on]
    betas, pixels = sampler_schedule(tweak, trained.T), (-1.0, 1.0)
    model = Diffusion(wrapper(denoise, trained), betas, tier.shape, pixels, device=device)
    return draw_samples(
        model.clipped() if params.clip else model,
        params.seeds,
        ddpm(draws=tweak.draws),
        grid=model.grid(params.steps),
    )


def grid(
    steps: tuple[int, ...] = (25,),
    tweaks: tuple[TweakName, ...] = tuple(TWEAKS),
    clipped: bool = False,
    n: int | None = None,
    repeats: int = 3,
    tier: TierName = "fashion",
) -> list[NoiseTweakRun]:
    """Return the runs of the study, repeat by repeat, so that an interrupted one compares equals.

    The controls are clipped only: they ask whether hearing the level mends the samples.

    Parameters
    ----------
    steps : tuple[int, ...]
        The numbers of the sampler's steps.
    tweaks : tuple[TweakName, ...]
        What is changed of the sampler.
    clipped : bool
        The runs whose x0 is not clipped are left out.
    n : int
        The number of images in a repeat (66 in 25 and 250 steps, 10 in 1,000, if not given).
    repeats : int
        The number of repeats, each on seeds of its own.
    tier : TierName
        The tier whose denoiser draws.
    """
    return [
        NoiseTweakRun(
            tweak=tweak, steps=count, clip=clip, n=images, first_seed=repeat * images, tier=tier
        )
        for count in steps
        for images in (n or STEPS.get(count, NoiseTweakRun.n),)
        for repeat in range(repeats)
        for clip in ((True,) if clipped else (True, False))
        for tweak in tweaks
        if clip or TWEAKS[tweak].conditioned_on == "index"
    ]


def measure(params: NoiseTweakRun, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return every image's grain, the protocol's columns, and what images contribute to them."""
    images = draw(params, device)
    results = protocol.measured(images, params.tier, params.extractor, device)
    return results | {"noise_left": [float(f"{sigma:.4g}") for sigma in noise_sigma_mad(images)]}


STUDY = Study(
    "noise",
    "What do a second draw of noise a step and other betas change?",
    NoiseTweakRun,
    grid,
    measure,
)
