"""How models read noisy images: how sure, how right, and what they still tell apart, against t."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch

from ppap_book import study
from ppap_book.measures import distances
from ppap_book.measures import noisy_accuracy as readings
from ppap_book.studies import methods
from ppap_book.study import Seeded
from ppap_lib import zoo
from ppap_lib.data.folders import imagenet_photographs
from ppap_lib.data.imageset import ImageSet
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import Parameters, param
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier as preset

STUDY = "reading"
TIMES = (*map(float, range(0, 1000, 100)), 999.0)
OFF_THE_SHELF = "efficientnet_lite0"
PHOTOGRAPHS = 20
READERS = ("naive", "single", "multi5", "ppap5", "ppap10")
"""Methods of guidance whose models read noisy images; naive guidance does so with the clean one."""

SEPARATED = 0.75
"""Two kinds of images count as told apart while the area under the ROC curve is at least this:
half-way from chance to certainty."""

_FOOTWEAR = ("sandal", "sneaker", "ankle boot")
_TOPS = ("T-shirt", "pullover", "coat", "shirt")
QUESTIONS: Mapping[str, Mapping[str, tuple[Sequence[str], Sequence[str]]]] = MappingProxyType(
    {
        "fashion": {
            "footwear from tops": (_FOOTWEAR, _TOPS),
            "shirts from coats": (("shirt",), ("coat",)),
        }
    }
)
"""By set of images: groups of classes to be told apart, coarse ones first."""


@dataclass(frozen=True)
class NoisyAccuracyRun(Seeded, Parameters):
    """Which model reads which images under which noise."""

    model: str
    images: Literal["fashion", "tin10", "photographs"] = "fashion"
    n: int = param(1000, low=10)
    first_seed: int = param(0, low=0)
    times: tuple[float, ...] = param(TIMES, low=0.0, high=999.0)

    def __post_init__(self):
        super().__post_init__()
        if self.images == "photographs" and self.n > PHOTOGRAPHS:
            raise InputError(f"there are {PHOTOGRAPHS} photographs, so n cannot be {self.n}")
        if any(a >= b for a, b in zip(self.times, self.times[1:], strict=False)):
            raise InputError(f"times must rise, not {self.times}")

    def recorded(self) -> dict[str, Any]:
        """With the digest of the model's weights."""
        return super().recorded() | {"sha256": zoo.card(self.model).sha256}


def installed(guide: str, tier: str = "fashion") -> dict[str, str]:
    """The models of a guide that ship now, clean one first: method to name in the zoo."""
    there = methods.installed(guide, tier)
    return {m: methods.weights_of(m, guide, tier) for m in READERS if m in there}


def missing(guide: str, tier: str = "fashion") -> list[str]:
    """The names in the zoo of the guide's models that are not trained yet."""
    here = installed(guide, tier)
    return [methods.weights_of(m, guide, tier) for m in READERS if m not in here]


def plan(tier: str = "fashion", n: int = 1000, first_seed: int = 0) -> list[NoisyAccuracyRun]:
    """A run for every model of the tier that ships now."""
    names = [name for guide in preset(tier).guides for name in installed(guide, tier).values()]
    return [NoisyAccuracyRun(name, tier, n, first_seed) for name in names]


def photographs(first_seed: int = 0) -> NoisyAccuracyRun:
    """The run of the off-the-shelf classifier on real photographs."""
    return NoisyAccuracyRun(OFF_THE_SHELF, "photographs", PHOTOGRAPHS, first_seed)


def pictures(images: str, n: int) -> ImageSet:
    """The first `n` images that all models read, balanced over the classes."""
    if images == "photographs":
        return imagenet_photographs().subset(range(n))
    found = datasets.test_images(images)
    return found.subset(distances.balanced(found.labels, n))


def measure(params: NoisyAccuracyRun, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The results of one run: lists over `params.times`, and what is told apart.

    `information` is `uncertainty.information`; `favourite` the commonest answer and
    `favourite_share` how common it is. On photographs `entropies` [T][N] are every image's. With a
    tier's images `by_class` [T][K] is the accuracy on every class, `apart` the area under the ROC
    curve of its `QUESTIONS`, and `until` [K][K] the timestep up to which two classes are told
    apart (-1: never).
    """
    chosen = pictures(params.images, params.n)
    schedule = (
        Schedule.linear() if params.images == "photographs" else preset(params.images).schedule()
    )
    model = zoo.load(params.model, device)
    batch = PHOTOGRAPHS if params.images == "photographs" else 250
    log_p = readings.log_probabilities(
        model, chosen.images().to(device), schedule, params.times, params.seeds, batch
    )
    read = [
        readings.reading(part, chosen.labels, t)
        for part, t in zip(log_p, params.times, strict=True)
    ]
    results: dict[str, Any] = {
        name: [getattr(reading, name) for reading in read]
        for name in ("accuracy", "confidence", "entropy", "ece")
    }
    results["information"] = [readings.mutual_information(part) for part in log_p]
    answers = log_p.argmax(2)
    common = answers.mode(1).values
    results["favourite"] = [chosen.classes[k] for k in common]
    results["favourite_share"] = (answers == common[:, None]).double().mean(1).tolist()
    if params.images == "photographs":
        results["entropies"] = [readings.entropy(part).tolist() for part in log_p]
    else:
        results |= _by_class(params, chosen, log_p, answers)
    return results


def _by_class(
    params: NoisyAccuracyRun, chosen: ImageSet, log_p: torch.Tensor, answers: torch.Tensor
) -> dict[str, Any]:
    labels, classes = chosen.labels, chosen.classes
    right = (answers == labels).double()
    apart = {
        question: [
            readings.auroc(part, labels, *([classes.index(c) for c in g] for g in groups))
            for part in log_p
        ]
        for question, groups in QUESTIONS.get(params.images, {}).items()
    }
    pairs = torch.stack([readings.pairwise_auroc(part, labels) for part in log_p])
    by_class = torch.stack([right[:, labels == k].mean(1) for k in range(len(classes))], 1)
    return {
        "by_class": by_class.tolist(),
        "apart": apart,
        "until": [
            [until(params.times, column) for column in row] for row in pairs.permute(1, 2, 0)
        ],
    }


def until(times: Sequence[float], areas: Sequence[float] | torch.Tensor) -> float:
    """The timestep up to which two kinds of images are told apart: -1 if they never are."""
    times, areas = (torch.as_tensor(v, dtype=torch.float64) for v in (times, areas))
    return max(readings.last_time_above(times, areas, SEPARATED), -1.0)


record = partial(study.record, STUDY, measure=measure)
"""Run what the ledger does not hold yet, one row after the other."""
