"""Cards: one JSON file per network, shipped under `assets/cards`."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path

from ppap_lib.errors import WeightsError
from ppap_lib.files.atomic import write_text
from ppap_lib.files.download import ASSETS
from ppap_lib.parameters import suggestion

KINDS = ("classifier", "denoiser", "upsampler", "noisy classifier", "experts")
DTYPES = ("float16", "int8")  # in which assets are stored: `weights.save` says how


@dataclass(frozen=True)
class Card:
    """What is known of one network.

    `network` says how to build it: {"tier", "part"} for this project's, {"flags"} for ADM's
    public ones, {"timm"} for timm's (with "tier", read at that tier's classes), {"trunk"} for a
    set of experts, which `load` puts on the network of that name.

    `file` says where the weights are: {"asset"} in this package (in float16; with "dtype", in
    that; with "ships" false, not there for want of space: `note` says how to make it),
    {"package", "project", "path"} in an installed one, {"url"} on the network (with "entry",
    under that key of the file). Without `sha256`, an asset is not trained yet, and a download
    cannot be verified.

    `size` and `channels` are what the network eats, after `(x - mean) / std` on pixels in
    [-1, 1]. `prediction` is what a denoiser's network predicts, of `denoise.ADAPTERS`.

    `metrics` are numbers by name: {"value", "tolerance"}, with which `verify` recomputes them;
    without a tolerance they are quoted from the publication and not recomputed.
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
    schedule: str | None = None
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
        """What it is, in a sentence: "a denoiser", "a set of experts"."""
        return "a set of experts" if self.kind == "experts" else f"a {self.kind}"


@cache  # a page of verdicts asks thousands of times
def from_json(text: str, origin: str = "card") -> Card:
    """A card from its JSON text; `WeightsError` names `origin` and the missing or unknown fields."""
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
    """The names of all cards, this project's tiers first."""
    folder = assets / "cards"
    found = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json")]
    return sorted(found, key=lambda name: ("/" not in name, name))


def guides(tier: str, assets: Path = ASSETS) -> list[str]:
    """The tier's classifiers that may guide, by their names there: all but its judge."""
    own = [name for name in names(assets) if name.startswith(f"{tier}/")]
    found = [name.split("/")[1] for name in own if card(name, assets).kind == "classifier"]
    return [name for name in found if name != "judge"]


def card(name: str, assets: Path = ASSETS) -> Card:
    """The card of the network `name`; an unknown name gets suggestions."""
    path = assets / "cards" / f"{name}.json"
    if not path.is_file():
        raise WeightsError(f"no network {name!r} in the zoo: {suggestion(name, names(assets), 3)}")
    return from_json(path.read_text("utf8"), f"the card {path.name}")


def write(card: Card, assets: Path = ASSETS) -> Path:
    """Write the card, atomically; fields at their default are left out."""
    defaults = {f.name: f.default for f in fields(Card) if f.default is not MISSING}
    entries = {
        key: value
        for key, value in asdict(card).items()
        if not (key in defaults and value == defaults[key]) and value != {}
    }
    path = assets / "cards" / f"{card.name}.json"
    write_text(path, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    return path
