"""What any finished training of experts is worth as a guide, whether it ships or not.

A folder of `python -m ppap_lib distill` holds a set of experts, and so does the zoo; here one
guides the tier's denoiser on the guidance study's seeds. So the number of experts, their rank, the
labels, the images and all else that a training can vary are compared by what they are for.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ppap_book import ledger, study
from ppap_book.measures.features import ExtractorName
from ppap_book.statistics.comparisons import Pooled, pool
from ppap_book.studies import guidance, methods, quality
from ppap_book.studies.distillation import Distillation
from ppap_book.study import Labelled
from ppap_lib.experts import Experts
from ppap_lib.guidance import at_xt
from ppap_lib.guidance.tasks import Classification
from ppap_lib.parameters import param
from ppap_lib.zoo.tiers import tier as preset

STUDY = "ablation"
SAMPLER = "ddim25"


@dataclass(frozen=True)
class Ablation(Labelled, Distillation):
    """Which training guides, and the images that it guides: by `SAMPLER`."""

    scale: float = param(guidance.PUBLISHED_SCALE, low=0.0)
    n: int = param(100, low=2)
    first_seed: int = param(0, low=0)
    extractor: ExtractorName = "lite2"

    def recorded(self) -> dict[str, Any]:
        """With the sampler, its form of guidance, and the digests of the weights that ship now."""
        drawn_by = {"sampler": SAMPLER, "form": guidance.sampler(SAMPLER).form}
        return super().recorded() | drawn_by | methods.digests(self.tier, "denoiser", "judge")


def plan(
    training: Distillation,
    scales: Iterable[float] = (guidance.PUBLISHED_SCALE,),
    n: int = 100,
    blocks: int = 1,
) -> list[Ablation]:
    """The runs that guide by a finished training, block by block."""
    scales = tuple(scales)
    return [
        Ablation(**asdict(training), scale=scale, n=n, first_seed=block * n)
        for block in range(blocks)
        for scale in scales
    ]


def measure(
    trained: Experts, params: Ablation, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Draw and measure; the row's results, with the guidance study's columns."""
    trained, form = trained.to(device), guidance.sampler(SAMPLER).form
    towards = partial(at_xt, trained, Classification())
    steering = methods.steered(towards, params.scale, form, params.tier, device)
    images = guidance.drawn(steering, params, SAMPLER)
    on_clean = trained.at(preset(params.tier).schedule().at(0))
    results: dict[str, Any] = guidance.judged_by(on_clean, params, images, device)
    return results | quality.measured(images, params.tier, params.extractor, device)


def record(
    training: Distillation,
    trained: Experts,
    scales: Iterable[float] = (guidance.PUBLISHED_SCALE,),
    n: int = 100,
    blocks: int = 1,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Guide by the experts of a finished training, and file what the ledger does not hold yet."""
    runs = plan(training, scales, n, blocks)
    study.record(STUDY, runs, device, tell, measure=partial(measure, trained))


def outcomes(
    guide: str, tier: str = "fashion", scale: float = guidance.PUBLISHED_SCALE
) -> list[Pooled]:
    """What the trainings of a guide's experts were worth at a scale, pooled over blocks.

    By the denoiser and the judge that ship now.
    """
    asked = {"guide": guide, "tier": tier, "scale": scale}
    return pool(ledger.rows(STUDY), lambda p: asked.items() <= p.items() and methods.is_current(p))
