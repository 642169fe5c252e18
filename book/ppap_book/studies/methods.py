"""The guidance methods by name: a tier's denoiser, steered towards the class of every seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from ppap_book.errors import StudyError
from ppap_book.measures.features import ExtractorName
from ppap_book.studies import methods
from ppap_book.study import Labelled
from ppap_lib import zoo
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.errors import InputError, WeightsError
from ppap_lib.guidance import Guide, at_x0, at_xt, model_at
from ppap_lib.guidance.tasks import Classification
from ppap_lib.parameters import Parameters, param
from ppap_lib.zoo.tiers import GuideName, TierName
from ppap_lib.zoo.tiers import tier as preset


@dataclass(frozen=True)
class Method:
    """One way to guide. `set_name` is the set of experts that reads x_t, None for the clean guide.

    `through` says how a clean guide reads the predicted x0 (None: it reads x_t). `published` is
    the method's name in the published table, `supervision` what its training needed, and
    `experts` how many share that training's images.
    """

    title: str
    published: str
    set_name: str | None = None
    through: bool | None = None
    supervision: str = "none"
    experts: int = 1


METHODS: Mapping[str, Method | None] = MappingProxyType(
    {
        "none": None,
        "naive": Method("naive off-the-shelf", "naive_off_the_shelf"),
        "x0_fixed": Method("x0-hat, eps fixed", "gradients_on_x0_hat", through=False),
        "x0_through": Method("x0-hat, through the denoiser", "gradients_on_x0_hat", through=True),
        "single": Method("single noise-aware", "single_noise_aware", "single", None, "labels"),
        "multi5": Method("multi-experts-5", "multi_experts_5", "multi5", None, "labels", 5),
        "ppap5": Method("PPAP-5", "ppap_5", "ppap5", None, "data-free", 5),
        "ppap10": Method("PPAP-10", "ppap_10", "ppap10", None, "data-free", 10),
    }
)
"""All methods of the study, in the order of its tables; "none" is sampling without guidance."""


MethodName = Literal[*METHODS]


PUBLISHED_SCALE = 7.5
"""Of guidance, in the published study."""


UNGUIDED: Mapping[str, str | float] = MappingProxyType(
    {"guide": "none", "scale": 0.0, "form": "none"}
)
"""What is recorded of guidance where there is none: neither guide nor scale changes the result."""


def title(method: str) -> str:
    """The method's name in print."""
    found = _known(method)
    return "no guidance" if found is None else found.title


def weights_of(method: str, guide: str, tier: str = "fashion") -> str | None:
    """The name in the zoo of what the method reads images with; None without guidance."""
    found = _known(method)
    if found is None:
        return None
    return preset(tier).named(guide if found.set_name is None else f"{found.set_name}-{guide}")


def has_experts(method: str) -> bool:
    """Whether a set of experts reads the images."""
    return (found := _known(method)) is not None and found.set_name is not None


def installed(guide: str, tier: str = "fashion") -> list[str]:
    """The methods whose weights can be had, in order.

    Raises `StudyError` for a guide that the tier does not have.
    """
    if guide not in (guides := zoo.guides(preset(tier).name)):
        raise StudyError(f"{tier} has no guide {guide!r}: there are {', '.join(guides)}")
    needed = {method: weights_of(method, guide, tier) for method in METHODS}
    known = zoo.names()
    return [m for m, n in needed.items() if n is None or (n in known and zoo.obtainable(n))]


def reader(
    method: str, guide: str, tier: str = "fashion", device: torch.device | str = "cpu"
) -> nn.Module:
    """The model that the method asks about images: a clean network or a set of experts."""
    name = weights_of(method, guide, tier)
    if name is None:
        raise StudyError("without guidance no model reads the images")
    return zoo.load(name, device)


def clean_reader(
    method: str, guide: str, tier: str = "fashion", device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The method's reader as it reads clean images; experts by the one for the cleanest."""
    model = reader(method, guide, tier, device)
    return model_at(model, preset(tier).schedule().at(0))


def field(method: str, model: nn.Module, target: torch.Tensor) -> Guide:
    """The method's gradient field towards the classes `target` [B], by its `reader`."""
    found, task = _known(method), Classification()
    if found is None:
        raise StudyError("sampling without guidance has no gradient field")
    if found.through is None:
        return at_xt(model, task, target)
    return at_x0(model, task, target, found.through)


def steering(
    method: str,
    guide: str = "resnet18",
    scale: float = PUBLISHED_SCALE,
    form: str = "score",
    tier: str = "fashion",
    device: torch.device | str = "cpu",
    during: tuple[float, float] | None = None,
    model: nn.Module | None = None,
) -> Callable[[Sequence[int]], Diffusion]:
    """From a batch's seeds to its model, for `ppap_lib.samplers.draw.draw`.

    Seed s is steered towards class s modulo the number of classes, where `during` is given only
    at timesteps in [start, stop). `model` replaces the method's own reader.
    """
    if _known(method) is None:
        plain = zoo.load(preset(tier).named("denoiser"), device).clipped()
        return lambda part: plain
    model = reader(method, guide, tier, device) if model is None else model
    return steered(partial(field, method, model), scale, form, tier, device, during)


def steered(
    towards: Callable[[torch.Tensor], Guide],
    scale: float = PUBLISHED_SCALE,
    form: str = "score",
    tier: str = "fashion",
    device: torch.device | str = "cpu",
    during: tuple[float, float] | None = None,
) -> Callable[[Sequence[int]], Diffusion]:
    """`steering` by any gradient field, which `towards` makes from the classes [B]."""
    plain = zoo.load(preset(tier).named("denoiser"), device)
    classes = len(preset(tier).classes)

    def by_seed(part: Sequence[int]) -> Diffusion:
        guide = towards(seed_labels(part, classes).to(device))
        if during is not None:
            guide = guide.during(*during)
        return plain.guided(guide, scale, form)

    return by_seed


def digests(tier: str, *parts: str) -> dict[str, str]:
    """sha256 of the tier's "denoiser" or "judge" as rows hold it; empty for an untrained one."""
    return {f"{part}_sha256": zoo.card(preset(tier).named(part)).sha256 or "" for part in parts}


def provenance(method: str, guide: str, tier: str = "fashion") -> dict[str, str]:
    """sha256 of the weights a result depends on: the denoiser's, the judge's, the reader's."""
    reads = weights_of(method, guide, tier)
    read = zoo.card(reads).sha256 if reads else None
    return digests(tier, "denoiser", "judge") | {"guide_sha256": read or ""}


def is_current(params: Mapping[str, Any]) -> bool:
    """Whether a row of these parameters was made by the weights that ship now.

    A study records the digests that its results depend on; one without a method guides by none.
    What has no such weights any more, a method that was retired, is not current.
    """
    try:
        now = provenance(params.get("method", "none"), params.get("guide", ""), params["tier"])
    except (StudyError, InputError, WeightsError):
        return False
    return all(params[name] == digest for name, digest in now.items() if name in params)


def _known(method: str) -> Method | None:
    if method not in METHODS:
        raise StudyError(f"no guidance method {method!r}: there are {', '.join(METHODS)}")
    return METHODS[method]


@dataclass(frozen=True, kw_only=True)
class Guided(Labelled, Parameters):
    """A run that draws images by a method of guidance: by which guide, how strongly, of which tier.

    It is filed under the digests of the weights that ship now as well.
    """

    method: methods.MethodName
    guide: GuideName = "resnet18"
    scale: float = param(methods.PUBLISHED_SCALE, low=0.0)
    n: int = param(100, low=2)
    first_seed: int = param(0, low=0)
    tier: TierName = "fashion"
    extractor: ExtractorName = "lite2"

    @property
    def form(self) -> Literal["score", "mean"]:
        """Of guidance, by the run's sampler."""
        raise NotImplementedError

    def recorded(self) -> dict[str, Any]:
        """Without guidance neither guide nor scale changes the result.

        Raises `WeightsError` for a guide that the tier does not have.
        """
        weights = methods.provenance(self.method, self.guide, self.tier)
        found = super().recorded() | {"form": self.form} | weights
        return found | (methods.UNGUIDED if self.method == "none" else {})
