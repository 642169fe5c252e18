"""Gradients of guidance: every method's on the same noisy images, timestep by timestep.

The images are those that sampling without guidance passes through, so that all methods are asked
about the same x_t. How strongly does each pull, and how far in the direction of the five
supervised experts?
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_book.studies import methods
from ppap_book.study import Labelled, Study
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import respace
from ppap_lib.parameters import Parameters, param
from ppap_lib.samplers import ddim, trajectory
from ppap_lib.zoo import tiers
from ppap_lib.zoo.tiers import GuideName, TierName

YARDSTICK = "multi5"
"""The method whose direction the others are compared with: the published study's best."""


@dataclass(frozen=True)
class Gradients(Labelled, Parameters):
    """One run: the methods whose gradients are compared, and on how many images."""

    methods: tuple[str, ...]
    guide: GuideName = "resnet18"
    n: int = param(40, low=2)
    first_seed: int = param(0, low=0)
    spacing: str = "ddim25"
    tier: TierName = "fashion"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods:
            raise StudyError("name at least one method: there are no gradients of none")
        for method in self.methods:
            if methods.weights_of(method, self.guide, self.tier) is None:
                raise StudyError(f"{methods.title(method)} has no gradient: leave it out")
        respace(tiers.tier(self.tier).schedule().T, self.spacing)

    @property
    def weights(self) -> tuple[str, ...]:
        """Digests of what the methods read images with, in order; of the weights that ship now."""
        each = (methods.provenance(m, self.guide, self.tier) for m in self.methods)
        return tuple(digests["guide_sha256"] for digests in each)

    def recorded(self) -> dict[str, Any]:
        """Name the digests of the denoiser and of `weights` as well."""
        digests = methods.digests(self.tier, "denoiser")
        return super().recorded() | digests | {"weights": self.weights}


def grid(guide: GuideName = "resnet18", n: int = 40, tier: TierName = "fashion") -> list[Gradients]:
    """Return the one run of all methods of a guide that are installed.

    Raises `StudyError` where the guide is not trained yet.

    Parameters
    ----------
    guide : GuideName
        The network that guides, of the tier's.
    n : int
        The number of noisy images that all methods are asked about.
    tier : TierName
        The tier whose images are drawn.
    """
    names = tuple(m for m in methods.installed(guide, tier) if m != "none")
    if not names:
        raise StudyError(
            f"no guide {guide} of {tier} is trained yet, so there are no gradients: "
            f"train it by ppap train first"
        )
    return [Gradients(names, guide, n, tier=tier)]


def measure(params: Gradients, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return, by timestep, each method's |sigma grad| / |eps| and its cosine to the yardstick.

    sigma grad is what score-form guidance subtracts from eps at scale 1. Means over images; the
    cosine is left out where the yardstick is not among the methods.
    """
    tier = tiers.tier(params.tier)
    denoise = methods.unguided(params.tier, device).denoise
    target = params.target.to(device)
    fields = {
        method: methods.field(
            method, methods.reader(method, params.guide, params.tier, device), target
        )
        for method in params.methods
    }
    noise = Noise(params.seeds, tier.shape, device=device)
    x_t, levels = noise(), tier.schedule().grid(params.spacing)
    times: list[float] = []
    share: dict[str, list[float]] = {method: [] for method in fields}
    cosine: dict[str, list[float]] = {method: [] for method in fields}
    walk = trajectory(denoise, x_t, levels, ddim(), noise)
    for level, state in zip(levels[:-1], walk, strict=True):
        x = x_t.detach().requires_grad_()
        with torch.enable_grad():
            prediction = denoise(x, level)
        grads = {method: field(x, level, prediction) for method, field in fields.items()}
        eps = prediction.eps.detach()
        times.append(float(level.t))
        for method, grad in grads.items():
            pull = float(level.sigma) * _norm(grad) / _norm(eps)
            share[method].append(float(pull.mean()))
            if YARDSTICK in grads:
                cosine[method].append(float(_cosine(grad, grads[YARDSTICK]).mean()))
        x_t = state.x
    results: dict[str, Any] = {"t": times, "share_of_eps": share}
    return results | ({"cosine": cosine} if YARDSTICK in fields else {})


def _norm(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """[B], 0 where a gradient vanishes; in double precision, for they are as small as 1e-9."""
    a, b = (images.flatten(1).double() for images in (a, b))
    return torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-300)


STUDY = Study(
    "gradients",
    "How strongly does every method pull, and in which direction?",
    Gradients,
    grid,
    measure,
)
