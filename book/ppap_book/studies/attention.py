"""Attention of experts: every expert of a set on the same images at every noise level.

An expert of a noisy interval normally sees noisier images, and noise alone changes where any
network looks. The full matrix, expert by level, separates the two: read along a column, the
images are the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppap_book.measures import attention_maps
from ppap_book.statistics import bootstrap
from ppap_book.studies import noisy_accuracy
from ppap_book.study import Seeded, Study
from ppap_lib import zoo
from ppap_lib.data.imageset import ImageSet
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.experts import Experts
from ppap_lib.guidance import at_xt
from ppap_lib.guidance.tasks import Classification
from ppap_lib.parameters import Parameters, param
from ppap_lib.zoo import datasets, tiers

Tier = Literal["fashion", "tin10"]

TIMES = (100.0, 300.0, 500.0, 700.0, 900.0)
"""The middles of five intervals."""

LAYERS: Mapping[str, str] = MappingProxyType(
    {"resnet18": "network.layer3", "vit": "network.blocks.5.norm1"}
)
"""By guide: the last layer whose map has 8x8 cells. On the ResNet's last map, 4x4, an outline
cannot be seen, and a third of the maps at high noise are empty."""

WIDEST = 0.5
"""Share of an image: a box that covers as much says too little about where its object is."""

MEASURES = ("inside", "entropy", "frequency")
BATCH = 50
_ANY = Schedule.linear().at(0)  # a plain network reads every level alike


@dataclass(frozen=True)
class AttentionRun(Seeded, Parameters):
    """One model, the layer at which its attention is read, and the images and noise."""

    model: str
    layer: str
    images: Tier = "fashion"
    n: int = param(200, low=4)
    first_seed: int = param(0, low=0)
    times: tuple[float, ...] = param(TIMES, low=0.0, high=999.0)

    def recorded(self) -> dict[str, Any]:
        """Name the digest of the model's weights as well."""
        return super().recorded() | {"sha256": zoo.card(self.model).sha256}


def by_method(
    guide_name: str, tier_name: str = "fashion", n: int = 200, first_seed: int = 0
) -> dict[str, AttentionRun]:
    """Return, by method, a run for every model of the guide that ships now."""
    return {
        method: AttentionRun(name, LAYERS[guide_name], tier_name, n, first_seed)
        for method, name in noisy_accuracy.installed(guide_name, tier_name).items()
    }


def grid(
    tier: Tier = "fashion",
    n: int = 200,
    first_seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> list[AttentionRun]:
    """Return a run for every model of the tier that ships now.

    Parameters
    ----------
    tier : Tier
        The tier whose models look at its images.
    n : int
        The number of images.
    first_seed : int
        The first image's seed of noise.
    tell : Callable[[str], None]
        Hears which models are left out.
    """
    for line in noisy_accuracy.left_out(tier):
        tell(line)
    guides = tiers.tier(tier).guides
    return [run for g in guides for run in by_method(g, tier, n, first_seed).values()]


def objects(images: str, n: int) -> tuple[ImageSet, Tensor]:
    """Return `n` test images, and where their objects are: bool [n, H, W].

    Silhouettes, of images balanced over the classes; or, where boxes are known, of the first
    images whose box covers less than `WIDEST`.
    """
    real = datasets.test_images(images)
    if real.boxes is None:
        real = noisy_accuracy.pictures(images, n)
        return real, attention_maps.silhouettes(real.images())
    left, top, right, bottom = real.boxes.unbind(1)
    height, width = real.shape[1:]
    share = (right - left) * (bottom - top) / (height * width)
    real = real.subset((share < WIDEST).nonzero()).first(n)
    return real, attention_maps.box_masks(real.boxes, (height, width))


def networks(model: nn.Module) -> list[Callable[[], nn.Module]]:
    """Return makers of each expert's network, or of the one classifier; use one before the next."""
    if not isinstance(model, Experts):
        return [lambda: model]
    return [lambda k=k: model.bank.merged(k) for k in range(len(model))]


@torch.no_grad()
def attention_of(
    network: nn.Module, layer: str, x_t: Tensor, labels: Tensor, masks: Tensor
) -> Tensor:
    """Return how one network looks at noisy images for their own class: float64 [B, 5].

    Columns: energy of its Grad-CAM inside the masks [B, H, W] over their area, entropy of the
    map, frequency of the gradient of log p(label | x_t) in x_t (`MEASURES`), whether the map
    is empty, and whether the network is right. An empty map has no energy and no entropy, a
    gradient of zero no frequency: these are nan.
    """
    maps = attention_maps.cam(network, x_t, labels, layer)
    gradient = at_xt(network, Classification(), labels)(x_t, _ANY, None)
    columns = (
        attention_maps.energy_ratio(maps, masks),
        attention_maps.map_entropy(maps),
        attention_maps.mean_frequency(gradient),
        (maps.amax((1, 2)) == 0).double(),
        (network(x_t).argmax(1) == labels).double(),
    )
    return torch.stack(columns, 1).cpu()


def matrix(params: AttentionRun, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return `attention_of` all experts at all times, [experts, times, n, 5], and the masks."""
    imageset, masks = objects(params.images, params.n)
    x0, labels = imageset.images(), imageset.labels
    schedule = tiers.tier(params.images).schedule()
    levels = [schedule.at(t) for t in params.times]
    rows = []
    for make in networks(zoo.load(params.model, device)):
        network, row = make(), []
        for start in range(0, len(x0), BATCH):
            part = slice(start, start + BATCH)
            eps = Noise(params.seeds[part], x0.shape[1:], x0.dtype)()
            for_all = (labels[part].to(device), masks[part].to(device))
            noised = (level.noised(x0[part], eps).to(device) for level in levels)
            row.append(
                torch.stack([attention_of(network, params.layer, x_t, *for_all) for x_t in noised])
            )
        rows.append(torch.cat(row, 1))
    return torch.stack(rows), masks


def measure(params: AttentionRun, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the results of one run: every measure's mean over images, [experts][times].

    At each time these are the images for which every expert has the measure (`attention_of`), so
    that experts are compared on the same ones; `kept` [times] counts them, by measure. `empty` and
    `accuracy` are shares of all images.

    `trend` has, per measure and time, what one expert up changes at this fixed noise (the
    least-squares slope over the experts, per image) with its 95 % interval and the number of
    images; `overall` has the mean of these over all times. There is neither for a single network.
    `centre` and `random` are what maps score inside the object that ignore the image, and `area` is
    the object's share of it.
    """
    by_expert, masks = matrix(params, device)
    size = masks.shape[1:]
    blind = {
        "centre": attention_maps.centre(len(masks), *size),
        "random": attention_maps.random(params.seeds, 8, size),
    }
    results: dict[str, Any] = {
        name: float(attention_maps.energy_ratio(maps, masks).mean()) for name, maps in blind.items()
    }
    results |= {"area": float(masks.double().mean()), "kept": {}, "trend": {}, "overall": {}}
    for name, values in zip((*MEASURES, "empty", "accuracy"), by_expert.unbind(3), strict=True):
        values = values.where(values.isfinite().all(0), torch.nan)
        results[name] = values.nanmean(2).tolist()
        if name in MEASURES:
            results["kept"][name] = values[0].isfinite().sum(1).tolist()
            if len(values) > 1:
                slopes = _slopes(values)
                results["trend"][name] = [_estimate(at_one) for at_one in slopes]
                results["overall"][name] = _estimate(_over_times(slopes))
    return results


def _slopes(values: Tensor) -> Tensor:
    """The least-squares slopes over the experts of values [experts, times, n]: [times, n]."""
    place = torch.arange(len(values), dtype=torch.float64)
    place = (place - place.mean()).view(-1, 1, 1)
    return (place * values).sum(0) / place.square().sum()


def _over_times(slopes: Tensor) -> Tensor:
    """Values [n] whose mean over images is the mean over times of the mean slopes [times, n].

    Linearised, as in `bootstrap.ratio`: an image that does not count at a time says nothing of that
    time's mean, rather than drop out of all. One that never counts is nan.
    """
    counts = slopes.isfinite()
    means = slopes.nanmean(1, keepdim=True)
    weights = counts.any(0).sum() / counts.sum(1, keepdim=True)
    by_image = means + ((slopes - means) * weights).where(counts, 0)
    return by_image.mean(0).where(counts.any(0), torch.nan)


def _estimate(slopes: Tensor) -> dict[str, float]:
    """The mean of slopes [n] with its interval, nan left out; all nan for less than two images."""
    slopes = slopes[slopes.isfinite()]
    known = len(slopes) > 1
    trend = bootstrap.mean(slopes) if known else bootstrap.Estimate(*3 * (torch.nan,))
    return trend._asdict() | {"images": len(slopes)}


STUDY = Study(
    "attention",
    "Where does every expert look, at every noise level?",
    AttentionRun,
    grid,
    measure,
)
