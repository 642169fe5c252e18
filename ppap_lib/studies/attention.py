"""What each expert looks at: every expert of a set on the same images at every noise level.

An expert of a noisy interval normally sees noisier images, and noise alone changes where any
network looks. The full matrix, expert by level, separates the two: read along a column, the
images are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppap_lib import bootstrap, localisation, zoo
from ppap_lib.experts import Experts
from ppap_lib.guidance import at_xt
from ppap_lib.params import Parameters, param
from ppap_lib.schedule import Schedule
from ppap_lib.seeds import Noise
from ppap_lib.studies import filed, reading
from ppap_lib.tasks import Classification

STUDY = "attention"
TIMES = (100.0, 300.0, 500.0, 700.0, 900.0)
"""The middles of five intervals."""

LAYERS: Mapping[str, str] = MappingProxyType(
    {"resnet18": "network.layer3", "vit": "network.blocks.5.norm1"}
)
"""By guide: the last layer whose map has 8x8 cells. On the ResNet's last map, 4x4, an outline
cannot be seen, and a third of the maps at high noise are empty."""

MEASURES = ("inside", "entropy", "frequency")
BATCH = 50
_ANY = Schedule.linear().at(0)  # a plain network reads every level alike


@dataclass(frozen=True)
class Looks(Parameters):
    """Which model is asked where it looks, on which images, at which layer and noise."""

    model: str
    layer: str
    images: Literal["fashion"] = "fashion"
    n: int = param(200, low=4)
    first_seed: int = param(0, low=0)
    times: tuple[float, ...] = param(TIMES, low=0.0, high=999.0)
    sha256: str = ""


def plan(guide: str, tier: str = "fashion", n: int = 200, first_seed: int = 0) -> dict[str, Looks]:
    """By method, a run for every model of the guide that ships now."""
    return {
        method: Looks(name, LAYERS[guide], tier, n, first_seed, sha256=zoo.card(name).sha256)
        for method, name in reading.installed(guide, tier).items()
    }


def members(model: nn.Module) -> list[Callable[[], nn.Module]]:
    """The networks of a set of experts, or the one classifier; each to be used before the next."""
    if not isinstance(model, Experts):
        return [lambda: model]
    return [lambda k=k: model.bank.merged(k) for k in range(len(model))]


@torch.no_grad()
def look(network: nn.Module, layer: str, x_t: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """How one network looks at noisy images for their own class: float64 [B, 5].

    Columns: energy of its Grad-CAM inside the masks [B, H, W] over their area, entropy of the
    map, frequency of the gradient of log p(label | x_t) in x_t (`MEASURES`), whether the map
    is empty, and whether the network is right.
    """
    maps = localisation.cam(network, x_t, labels, layer)
    gradient = at_xt(network, Classification(), labels)(x_t, _ANY, None)
    columns = (
        localisation.energy_ratio(maps, masks),
        localisation.map_entropy(maps),
        localisation.mean_frequency(gradient),
        (maps.amax((1, 2)) == 0).double(),
        (network(x_t).argmax(1) == labels).double(),
    )
    return torch.stack(columns, 1).cpu()


def matrix(params: Looks, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """`look` of every expert at every time, [experts, times, n, 5], and the objects' masks."""
    chosen = reading.pictures(params.images, params.n)
    x0, labels = chosen.images(), chosen.labels
    masks = localisation.silhouettes(x0)
    seeds = range(params.first_seed, params.first_seed + params.n)
    levels = [Schedule.linear().at(t) for t in params.times]
    rows = []
    for member in members(reading.load(params.model, device)):
        network, row = member(), []
        for start in range(0, len(x0), BATCH):
            part = slice(start, start + BATCH)
            eps = Noise(seeds[part], x0.shape[1:], x0.dtype)()
            for_all = (labels[part].to(device), masks[part].to(device))
            noised = (level.noised(x0[part], eps).to(device) for level in levels)
            row.append(torch.stack([look(network, params.layer, x_t, *for_all) for x_t in noised]))
        rows.append(torch.cat(row, 1))
    return torch.stack(rows), masks


def measure(params: Looks, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The results of one run: [experts][times] of every measure's mean and of its standard error.

    `trend` has, per measure and time, what one expert up changes at this fixed noise (the
    least-squares slope over the experts, per image) with its 95 % interval; none for a single
    network. `centre` and `random` are what maps score inside the object that ignore the image, and
    `area` is the object's share of it. Images whose gradient vanishes for some expert are left out
    of all means; `kept` counts the rest.
    """
    found, masks = matrix(params, device)
    found = found[:, :, found.isfinite().all(3).all(1).all(0)]
    kept, size = found.shape[2], masks.shape[1:]
    seeds = range(params.first_seed, params.first_seed + params.n)
    blind = {
        "centre": localisation.centre(len(masks), *size),
        "random": localisation.random(seeds, 8, size),
    }
    results: dict[str, Any] = {
        name: float(localisation.energy_ratio(maps, masks).mean()) for name, maps in blind.items()
    }
    results |= {"kept": kept, "area": float(masks.double().mean())}
    for i, name in enumerate((*MEASURES, "empty", "accuracy")):
        results[name] = found[..., i].mean(2).tolist()
        results[f"{name}_error"] = (found[..., i].std(2) / kept**0.5).tolist()
    results["trend"] = {
        name: _trends(found[..., i]) for i, name in enumerate(MEASURES) if len(found) > 1
    }
    return results


def _trends(values: Tensor) -> list[dict[str, float]]:
    """Per time, the mean slope over the experts of values [experts, times, n], and its interval."""
    place = torch.arange(len(values), dtype=torch.float64)
    place = (place - place.mean()).view(-1, 1, 1)
    slopes = (place * values).sum(0) / place.square().sum()
    return [bootstrap.mean(slope)._asdict() for slope in slopes]


def record(
    runs: Sequence[Looks], device: torch.device | str = "cpu", tell: Callable[[str], None] = print
) -> None:
    """Measure and file every run that the ledger does not hold yet."""
    filed.record(STUDY, runs, measure, device, tell)
