"""What the runs of several studies have in common: their seeds, and what guides their images."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ppap_lib import seeds
from ppap_lib.extractors import ExtractorName
from ppap_lib.params import Parameters, param
from ppap_lib.studies import methods
from ppap_lib.tiers import GuideName, TierName
from ppap_lib.tiers import tier as preset


class Seeded:
    """A run on `n` images, each with a seed of its own from `first_seed` on."""

    n: int
    first_seed: int

    @property
    def seeds(self) -> range:
        """One per image."""
        return range(self.first_seed, self.first_seed + self.n)


class Labelled(Seeded):
    """A run whose images are of a tier, each of the class of its seed."""

    tier: TierName

    @property
    def target(self) -> Tensor:
        """Every image's class: int64 [n]."""
        return seeds.labels(self.seeds, len(preset(self.tier).classes))


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

        Raises `ZooError` for a guide that the tier does not have.
        """
        weights = methods.provenance(self.method, self.guide, self.tier)
        found = super().recorded() | {"form": self.form} | weights
        return found | (methods.UNGUIDED if self.method == "none" else {})
