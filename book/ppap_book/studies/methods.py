"""The guidance methods by name: a tier's denoiser, steered towards the class of every seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from ppap_book.errors import StudyError
from ppap_book.measures.features import ExtractorName
from ppap_book.study import Labelled
from ppap_lib import zoo
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.errors import InputError, WeightsError
from ppap_lib.guidance import Guide, at_x0, at_xt, model_at
from ppap_lib.guidance.tasks import Classification
from ppap_lib.parameters import Parameters, param
from ppap_lib.zoo.tiers import GuideName, TierName, tier


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
"""Scale of guidance in the published study."""

UNGUIDED: Mapping[str, str | float] = MappingProxyType(
    {"guide": "none", "scale": 0.0, "form": "none"}
)
"""Recorded of guidance where there is none: neither guide nor scale changes the result."""


def title(method: str) -> str:
    """Return the method's name in print."""
    about = _known(method)
    return "no guidance" if about is None else about.title


def weights_of(method: str, guide_name: str, tier_name: str = "fashion") -> str | None:
    """Return the name in the zoo of what the method reads images with; None without guidance."""
    about = _known(method)
    if about is None:
        return None
    part = guide_name if about.set_name is None else f"{about.set_name}-{guide_name}"
    return tier(tier_name).named(part)


def has_experts(method: str) -> bool:
    """Return whether a set of experts reads the images."""
    return (about := _known(method)) is not None and about.set_name is not None


def require_guide(guide_name: str, tier_name: str) -> None:
    """Raise `StudyError` for a guide that the tier does not have."""
    if guide_name not in (guides := zoo.guides(tier(tier_name).name)):
        raise StudyError(f"{tier_name} has no guide {guide_name!r}: there are {', '.join(guides)}")


def installed(guide_name: str, tier_name: str = "fashion") -> list[str]:
    """Return the methods whose weights can be had, in order.

    Raises `StudyError` for a guide that the tier does not have.
    """
    require_guide(guide_name, tier_name)
    needed = {method: weights_of(method, guide_name, tier_name) for method in METHODS}
    known = zoo.names()
    return [m for m, n in needed.items() if n is None or (n in known and zoo.obtainable(n))]


def left_out(guide_name: str, tier_name: str = "fashion") -> list[str]:
    """Return, as sentences, the methods whose weights cannot be had."""
    here = installed(guide_name, tier_name)
    return [f"{title(m)} is left out: its weights are not here" for m in METHODS if m not in here]


def unguided(tier_name: str, device: torch.device | str = "cpu") -> Diffusion:
    """Return the tier's clipped model without guidance."""
    return zoo.load(tier(tier_name).named("denoiser"), device).clipped()


def reader(
    method: str, guide_name: str, tier_name: str = "fashion", device: torch.device | str = "cpu"
) -> nn.Module:
    """Return the model that the method asks about images: a clean network or a set of experts."""
    name = weights_of(method, guide_name, tier_name)
    if name is None:
        raise StudyError("without guidance no model reads the images")
    return zoo.load(name, device)


def clean_reader(
    method: str, guide_name: str, tier_name: str = "fashion", device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the method's reader as it reads clean images; experts by the one for the cleanest."""
    model = reader(method, guide_name, tier_name, device)
    return model_at(model, tier(tier_name).schedule().at(0))


def field(method: str, model: nn.Module, target: torch.Tensor) -> Guide:
    """Return the method's gradient field towards the classes `target` [B], by its `reader`."""
    about, task = _known(method), Classification()
    if about is None:
        raise StudyError("sampling without guidance has no gradient field")
    if about.through is None:
        return at_xt(model, task, target)
    return at_x0(model, task, target, about.through)


def steering(
    method: str,
    guide_name: str = "resnet18",
    scale: float = PUBLISHED_SCALE,
    form: str = "score",
    tier_name: str = "fashion",
    device: torch.device | str = "cpu",
    during: tuple[float, float] | None = None,
    model: nn.Module | None = None,
) -> Callable[[Sequence[int]], Diffusion]:
    """Return a function from a batch's seeds to its model, for `ppap_lib.samplers.draw.draw`.

    Parameters
    ----------
    method, guide_name, scale, form, tier_name
        How seed s is steered towards class s modulo the tier's classes.
    device : torch.device or str
        Where the networks are put.
    during : (float, float), optional
        The timesteps [start, stop) in which guidance acts; all of them by default.
    model : nn.Module, optional
        Reads the images in place of the method's own reader.
    """
    if _known(method) is None:
        plain = unguided(tier_name, device)
        return lambda part: plain
    model = reader(method, guide_name, tier_name, device) if model is None else model
    return steered(partial(field, method, model), scale, form, tier_name, device, during)


def steered(
    towards: Callable[[torch.Tensor], Guide],
    scale: float = PUBLISHED_SCALE,
    form: str = "score",
    tier_name: str = "fashion",
    device: torch.device | str = "cpu",
    during: tuple[float, float] | None = None,
) -> Callable[[Sequence[int]], Diffusion]:
    """Return `steering` by any gradient field, which `towards` makes of the classes [B]."""
    plain = unguided(tier_name, device)
    classes = len(tier(tier_name).classes)

    def by_seed(part: Sequence[int]) -> Diffusion:
        guide = towards(seed_labels(part, classes).to(device))
        if during is not None:
            guide = guide.during(*during)
        return plain.guided(guide, scale, form)

    return by_seed


def settings(method: str, guide_name: str, scale: float | None) -> dict[str, Any]:
    """Return the recorded keys by which rows of a method are told apart, whatever else they vary.

    Without guidance, guide and scale do not matter.
    """
    if method == "none":
        return {"method": method, "guide": UNGUIDED["guide"], "scale": UNGUIDED["scale"]}
    return {"method": method, "guide": guide_name, "scale": scale}


def digests(tier_name: str, *parts: str) -> dict[str, str]:
    """Return the sha256 of the tier's "denoiser" or "judge" as rows hold it; "" if untrained."""
    named = {part: tier(tier_name).named(part) for part in parts}
    return {f"{part}_sha256": zoo.card(name).sha256 or "" for part, name in named.items()}


def provenance(method: str, guide_name: str, tier_name: str = "fashion") -> dict[str, str]:
    """Return the sha256 of a result's weights: the denoiser's, the judge's, the reader's."""
    name = weights_of(method, guide_name, tier_name)
    digest = zoo.card(name).sha256 if name else None
    return digests(tier_name, "denoiser", "judge") | {"guide_sha256": digest or ""}


def is_current(params: Mapping[str, Any]) -> bool:
    """Return whether a row of these parameters was made by the weights that ship now.

    A study records the digests that its results depend on; one without a method guides by none.
    What has no such weights any more, a method that was retired, is not current.
    """
    return current()(params)


def current() -> Callable[[Mapping[str, Any]], bool]:
    """Return `is_current` for many rows: it reads each card once."""

    @cache
    def now(method: str, guide_name: str, tier_name: str) -> dict[str, str] | None:
        try:
            return provenance(method, guide_name, tier_name)
        except (StudyError, InputError, WeightsError):
            return None

    def is_current(params: Mapping[str, Any]) -> bool:
        digests = now(params.get("method", "none"), params.get("guide", ""), params["tier"])
        return digests is not None and all(
            params[name] == digest for name, digest in digests.items() if name in params
        )

    return is_current


def _known(method: str) -> Method | None:
    if method not in METHODS:
        raise StudyError(f"no guidance method {method!r}: there are {', '.join(METHODS)}")
    return METHODS[method]


@dataclass(frozen=True, kw_only=True)
class Guided(Labelled, Parameters):
    """A run that draws images by a method of guidance: by which guide, how strongly, of which tier.

    Fields are named as rows record them: `guide` and `tier` hold names. A run is filed under the
    digests of the weights that ship now as well.
    """

    method: MethodName
    guide: GuideName = "resnet18"
    scale: float = param(PUBLISHED_SCALE, low=0.0)
    n: int = param(100, low=2)
    first_seed: int = param(0, low=0)
    tier: TierName = "fashion"
    extractor: ExtractorName = "lite2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != "none":
            require_guide(self.guide, self.tier)

    @property
    def form(self) -> Literal["score", "mean"]:
        """The form of guidance, by the run's sampler."""
        raise NotImplementedError

    def recorded(self) -> dict[str, Any]:
        """Name form and weights as well; no guide and scale without guidance.

        Raises `WeightsError` for a guide that the tier does not have.
        """
        weights = provenance(self.method, self.guide, self.tier)
        params = super().recorded() | {"form": self.form} | weights
        return params | (UNGUIDED if self.method == "none" else {})
