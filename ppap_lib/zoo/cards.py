"""Cards: one JSON file per network, shipped under `assets/cards`."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from ppap_lib.errors import WeightsError
from ppap_lib.files.atomic import write_text
from ppap_lib.files.download import ASSETS
from ppap_lib.parameters import suggestion

KINDS = ("classifier", "denoiser", "upsampler", "noisy classifier", "experts")
DTYPES = ("float16", "int8")  # in which assets are stored: `weights.save` says how


@dataclass(frozen=True)
class Card:
    """Facts of one network: how it is built, where its weights are, and how good it is.

    Parameters
    ----------
    name : str
        The name in the zoo, such as "fashion/resnet18".
    kind : str
        One of `KINDS`.
    summary : str
        What it is, in a line.
    network : mapping
        How to build it: {"tier", "part"} for this project's, {"flags"} for ADM's public ones,
        {"timm"} for timm's (with "tier", read at that tier's classes), {"trunk"} for a set of
        experts, which is loaded on the network of that name. With "keys", the convention by which
        the file names its tensors.
    file : mapping
        Where the weights are: {"asset"} in this package (in float16; with "dtype", in that; with
        "ships" false, not there for want of space: `note` says how to make it), {"package",
        "project", "path"} in an installed one, {"url"} on the network (with "entry", under that
        key of the file).
    license, data : str
        The weights' licence, and what they were trained on.
    channels, size : int
        What the network reads, after `(x - mean) / std` on pixels in [-1, 1].
    parameters, tensors : int
        How many there are in the file.
    mean, std : tuple of float
        One value, or one for each channel.
    prediction : {"eps", "x0", "v"}, optional
        What a denoiser's network predicts.
    learned_variance : bool
        Whether a denoiser's network returns ADM's variance fraction beside it.
    schedule : str or mapping, optional
        The noise that it was trained with: "linear" or "cosine"; {"name": "linear", "T": 500, ...}
        with arguments of that schedule; or {"betas": [...]}.
    images_seen : int, optional
        On how many images it was trained.
    metrics : mapping
        Numbers by name: {"value", "tolerance"}, within which they can be recomputed; without a
        tolerance they are quoted from the publication.
    sha256 : str, optional
        The file's. Without it, an asset is not trained yet, and a download cannot be verified.
    bytes : int, optional
        The file's size.
    note : str
        What else there is to say.

    Raises
    ------
    WeightsError
        If a field contradicts itself.
    """

    name: str
    kind: str
    summary: str
    network: Mapping
    file: Mapping
    license: str
    data: str
    channels: int
    size: int
    parameters: int
    tensors: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    prediction: str | None = None
    learned_variance: bool = True
    schedule: str | Mapping[str, Any] | None = None
    images_seen: int | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sha256: str | None = None
    bytes: int | None = None
    note: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise WeightsError(f"card {self.name}: kind is one of {KINDS}, not {self.kind!r}")
        if (dtype := self.file.get("dtype", "float16")) not in DTYPES:
            raise WeightsError(
                f"card {self.name}: an asset's dtype is one of {DTYPES}, not {dtype!r}"
            )
        for values in (self.mean, self.std):
            if len(values) not in (1, self.channels):
                raise WeightsError(
                    f"card {self.name}: mean and std have 1 or {self.channels} values"
                )

    @property
    def trained(self) -> bool:
        """Whether there are weights at all."""
        return self.sha256 is not None or "asset" not in self.file

    @property
    def ships(self) -> bool:
        """Whether an asset that is trained is in this package."""
        return self.file.get("ships", True)

    @property
    def called(self) -> str:
        """Words for what it is: "a denoiser", "a set of experts"."""
        return "a set of experts" if self.kind == "experts" else f"a {self.kind}"


@cache  # a page of verdicts asks thousands of times
def from_json(text: str, origin: str = "card") -> Card:
    """Return a card from its JSON text.

    Raises `WeightsError`, which names `origin` and the missing or unknown fields.
    """
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise WeightsError(f"{origin} is not JSON: {error}") from None
    known = {f.name for f in fields(Card)}
    needed = {f.name for f in fields(Card) if f.default is MISSING and f.default_factory is MISSING}
    if unknown := entries.keys() - known:
        raise WeightsError(f"{origin} has unknown fields: {', '.join(sorted(unknown))}")
    if missing := needed - entries.keys():
        raise WeightsError(f"{origin} lacks: {', '.join(sorted(missing))}")
    lists = {key: tuple(entries[key]) for key in ("mean", "std") if key in entries}
    return Card(**(entries | lists))


def names(assets: Path = ASSETS) -> list[str]:
    """Return the names of all cards, this project's tiers first.

    Parameters
    ----------
    assets : Path
        Folder of cards and weights, if not this package's.
    """
    folder = assets / "cards"
    every = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json")]
    return sorted(every, key=lambda name: ("/" not in name, name))


def guides(tier: str, assets: Path = ASSETS) -> list[str]:
    """Return the tier's classifiers that may guide, by their names there: all but its judge.

    Parameters
    ----------
    tier : str
        A tier's name.
    assets : Path
        Folder of cards and weights, if not this package's.
    """
    own = [name for name in names(assets) if name.startswith(f"{tier}/")]
    classifiers = [name.split("/")[1] for name in own if card(name, assets).kind == "classifier"]
    return [name for name in classifiers if name != "judge"]


def card(name: str, assets: Path = ASSETS) -> Card:
    """Return the card of a network.

    Parameters
    ----------
    name : str
        The network's name in the zoo.
    assets : Path
        Folder of cards and weights, if not this package's.

    Raises
    ------
    WeightsError
        If the name is unknown; it suggests others.

    Examples
    --------
    >>> card("fashion/denoiser").prediction
    'v'
    """
    path = assets / "cards" / f"{name}.json"
    if not path.is_file():
        raise WeightsError(f"no network {name!r} in the zoo: {suggestion(name, names(assets), 3)}")
    return from_json(path.read_text("utf8"), f"the card {path.name}")


def write(card: Card, assets: Path = ASSETS) -> Path:
    """Write the card, atomically and without fields at their default, and return its path."""
    defaults = {f.name: f.default for f in fields(Card) if f.default is not MISSING}
    entries = {
        key: value
        for key, value in asdict(card).items()
        if not (key in defaults and value == defaults[key]) and value != {}
    }
    path = assets / "cards" / f"{card.name}.json"
    write_text(path, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    return path
