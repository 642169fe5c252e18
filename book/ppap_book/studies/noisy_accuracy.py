"""Reading of noisy images: how sure models are, how right, and what they tell apart, against t."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from ppap_book.measures import distances
from ppap_book.measures import noisy_accuracy as readings
from ppap_book.studies import methods
from ppap_book.study import Seeded, Study
from ppap_lib import zoo
from ppap_lib.data.folders import imagenet_photographs
from ppap_lib.data.imageset import ImageSet
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import Parameters, param
from ppap_lib.zoo import datasets, tiers

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


Images = Literal["fashion", "tin10", "photographs"]


@dataclass(frozen=True)
class NoisyAccuracyRun(Seeded, Parameters):
    """One model, and the images and noise that it reads."""

    model: str
    images: Images = "fashion"
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
        """Name the digest of the model's weights as well."""
        return super().recorded() | {"sha256": zoo.card(self.model).sha256}


def installed(guide_name: str, tier_name: str = "fashion") -> dict[str, str]:
    """Return the guide's models that ship now, clean one first: method to name in the zoo."""
    here = methods.installed(guide_name, tier_name)
    return {m: methods.weights_of(m, guide_name, tier_name) for m in READERS if m in here}


def untrained(guide_name: str, tier_name: str = "fashion") -> list[str]:
    """Return the names in the zoo of the guide's models that are not trained yet."""
    here = installed(guide_name, tier_name)
    return [methods.weights_of(m, guide_name, tier_name) for m in READERS if m not in here]


def left_out(tier_name: str) -> list[str]:
    """Return, as sentences, the tier's models that are not trained yet."""
    names = [name for g in tiers.tier(tier_name).guides for name in untrained(g, tier_name)]
    return [f"{name} is left out: it is not trained yet" for name in names]


def photographs(first_seed: int = 0) -> NoisyAccuracyRun:
    """Return the run of the off-the-shelf classifier on real photographs."""
    return NoisyAccuracyRun(OFF_THE_SHELF, "photographs", PHOTOGRAPHS, first_seed)


def grid(
    tier: Images = "fashion",
    n: int = 1000,
    first_seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> list[NoisyAccuracyRun]:
    """Return a run for every model that ships now and reads these images.

    Parameters
    ----------
    tier : Images
        The images that are read: a tier's, by its models, or photographs, by an off-the-shelf one.
    n : int
        The number of images (of photographs 20).
    first_seed : int
        The first image's seed of noise.
    tell : Callable[[str], None]
        Hears which models are left out.
    """
    if tier == "photographs":
        return [photographs(first_seed)]
    for line in left_out(tier):
        tell(line)
    names = [name for g in tiers.tier(tier).guides for name in installed(g, tier).values()]
    return [NoisyAccuracyRun(name, tier, n, first_seed) for name in names]


def pictures(images: str, n: int) -> ImageSet:
    """Return the first `n` images that all models read, balanced over the classes."""
    if images == "photographs":
        return imagenet_photographs().subset(range(n))
    real = datasets.test_images(images)
    return real.subset(distances.balanced(real.labels, n))


def measure(params: NoisyAccuracyRun, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the results of one run: lists over `params.times`, and what is told apart.

    `information` is `noisy_accuracy.mutual_information`; `favourite` the commonest answer and
    `favourite_share` how common it is. On photographs `entropies` [T][N] are every image's. With a
    tier's images `by_class` [T][K] is the accuracy on every class, `apart` the area under the ROC
    curve of its `QUESTIONS`, and `until` [K][K] the timestep up to which two classes are told
    apart (-1: never).
    """
    imageset = pictures(params.images, params.n)
    if params.images == "photographs":
        schedule, batch = Schedule.linear(), PHOTOGRAPHS
    else:
        schedule, batch = tiers.tier(params.images).schedule(), 250
    model = zoo.load(params.model, device)
    log_p = readings.log_probabilities(
        model, imageset.images().to(device), schedule, params.times, params.seeds, batch
    )
    read = [
        readings.reading(part, imageset.labels, t)
        for part, t in zip(log_p, params.times, strict=True)
    ]
    results: dict[str, Any] = {
        name: [getattr(reading, name) for reading in read]
        for name in ("accuracy", "confidence", "entropy", "ece")
    }
    results["information"] = [readings.mutual_information(part) for part in log_p]
    answers = log_p.argmax(2)
    common = answers.mode(1).values
    results["favourite"] = [imageset.classes[k] for k in common]
    results["favourite_share"] = (answers == common[:, None]).double().mean(1).tolist()
    if params.images == "photographs":
        results["entropies"] = [readings.entropy(part).tolist() for part in log_p]
    else:
        results |= _by_class(params, imageset, log_p, answers)
    return results


def _by_class(
    params: NoisyAccuracyRun, imageset: ImageSet, log_p: torch.Tensor, answers: torch.Tensor
) -> dict[str, Any]:
    labels, classes = imageset.labels, imageset.classes
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
    """Return the timestep up to which two kinds of images are told apart, -1 if they never are."""
    times, areas = (torch.as_tensor(v, dtype=torch.float64) for v in (times, areas))
    return max(readings.last_time_above(times, areas, SEPARATED), -1.0)


STUDY = Study(
    "reading",
    "How sure and how right are models that read noisy images?",
    NoisyAccuracyRun,
    grid,
    measure,
)
