"""What the guidance study's rows say: blocks pooled, methods compared image by image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ppap_lib import bootstrap, published
from ppap_lib.ledger import Row
from ppap_lib.studies import methods
from ppap_lib.studies.guidance import SWEEP_SEED

PUBLISHED_COLUMNS = {
    "fid": "kid",
    "is": "inception_score",
    "precision": "precision",
    "recall": "recall",
}
"""Published column -> ours beside it; in both of a pair the better values are on the same side."""

PUBLISHED_GUIDES = {"resnet18": "resnet50", "vit": "deit_small"}
"""Our guide -> the published one in its place."""


class Key(NamedTuple):
    """What is compared: all else is equal, or pooled."""

    method: str
    guide: str
    sampler: str
    scale: float


@dataclass
class Outcome:
    """One method's blocks together. Verdicts are by seed, so that outcomes can be paired."""

    key: Key
    n: int
    blocks: int = 0
    judge: dict[int, int] = field(default_factory=dict)
    guide: dict[int, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def judge_accuracy(self) -> bootstrap.Estimate:
        """Share of images that the judge puts into the class asked for."""
        return bootstrap.mean(list(self.judge.values()))

    @property
    def guide_accuracy(self) -> float | None:
        """The same by the guide itself: above the judge's, the guide was deceived."""
        return sum(self.guide.values()) / len(self.guide) if self.guide else None

    def column(self, name: str) -> float | None:
        """The mean over blocks of a column that every block has, else None."""
        values = [row["results"].get(name) for row in self.rows]
        return None if None in values else sum(values) / len(values)

    @property
    def images_per_second(self) -> float:
        """Images drawn and measured per second."""
        return len(self.judge) / sum(row["seconds"] for row in self.rows)


def outcomes(
    rows: Iterable[Row],
    sweep: bool = False,
    tier: str = "fashion",
    released_routing: bool = False,
) -> list[Outcome]:
    """The study's rows by the weights that ship now, pooled over blocks, methods in order.

    `sweep` takes the blocks on which scales are chosen instead, `released_routing` the experts
    as the released code routes them. Rows of another n than the first of its kind are left out:
    distances at different n are not comparable.
    """
    found: dict[Key, Outcome] = {}
    for row in sorted(rows, key=lambda r: (-r["params"]["n"], r["params"]["first_seed"])):
        p = row["params"]
        if p["tier"] != tier or p["released_routing"] != released_routing:
            continue
        if (p["first_seed"] >= SWEEP_SEED) != sweep or not methods.is_current(p):
            continue
        key = Key(p["method"], p["guide"], p["sampler"], p["scale"])
        mine = found.setdefault(key, Outcome(key, p["n"]))
        if p["n"] != mine.n:
            continue
        mine.blocks += 1
        mine.rows.append(row)
        by_seed = range(p["first_seed"], p["first_seed"] + p["n"])
        mine.judge.update(zip(by_seed, row["results"]["judge_correct"], strict=True))
        mine.guide.update(zip(by_seed, row["results"].get("guide_correct", ()), strict=False))
    order = list(methods.METHODS)
    return sorted(found.values(), key=lambda o: (o.key.sampler, order.index(o.key.method), o.key))


def pick(
    found: Sequence[Outcome],
    method: str,
    guide: str = "resnet18",
    sampler: str = "ddim25",
    scale: float = 7.5,
) -> Outcome | None:
    """The outcome of one method; without guidance, guide and scale do not matter."""
    key = Key(method, guide, sampler, scale)
    if method == "none":
        key = Key("none", "none", sampler, 0.0)
    return next((outcome for outcome in found if outcome.key == key), None)


def paired(*found: Outcome) -> list[list[int]]:
    """The judge's verdicts on each outcome's images, over the seeds that all have, in order."""
    shared = sorted(set.intersection(*(set(one.judge) for one in found)))
    return [[one.judge[seed] for seed in shared] for one in found]


def compare(a: Outcome, b: Outcome) -> bootstrap.Estimate:
    """Judge accuracy of `a` minus that of `b`, over the seeds that both have."""
    return bootstrap.difference(*paired(a, b))


def best_scales(sweep: Sequence[Outcome], guide: str, sampler: str = "ddim25") -> dict[str, float]:
    """By method, the scale of highest judge accuracy in the sweep; of equals the smallest."""
    best: dict[str, tuple[float, float]] = {}
    for outcome in sweep:
        if (outcome.key.guide, outcome.key.sampler) != (guide, sampler):
            continue
        rank = (outcome.judge_accuracy.mean, -outcome.key.scale)
        if outcome.key.method not in best or rank > best[outcome.key.method]:
            best[outcome.key.method] = rank
    return {method: -scale for method, (_, scale) in best.items()}


class Ranks(NamedTuple):
    """Spearman's rank correlation with one published column, over `methods` in both tables."""

    correlation: float
    methods: tuple[str, ...]


def ranks(
    found: Sequence[Outcome],
    guide: str,
    sampler: str = "ddim25",
    scale: float = 7.5,
) -> dict[str, Ranks]:
    """By published column, how our order of the methods agrees with the published order.

    Only the ordering is comparable: theirs is ImageNet at 256 pixels. Where the paper has one row
    for gradients on x0-hat, ours is the one through the denoiser. Needs at least three methods.
    """
    from scipy.stats import spearmanr

    theirs = published_rows(guide, sampler)
    ours = {}
    for method in theirs:
        outcome = pick(found, method, guide, sampler, scale)
        if method != "x0_fixed" and outcome and outcome.column("kid") is not None:
            ours[method] = outcome
    if len(ours) < 3:
        return {}
    table = {}
    for column, mine in PUBLISHED_COLUMNS.items():
        a = [theirs[method][column] for method in ours]
        b = [outcome.column(mine) for outcome in ours.values()]
        table[column] = Ranks(float(spearmanr(a, b).statistic), tuple(ours))
    return table


def published_rows(guide: str, sampler: str = "ddim25") -> dict[str, dict[str, published.Value]]:
    """The published table's rows by our methods, for the network that ours stands for.

    The paper has one row for gradients on x0-hat; it stands beside both of ours.
    """
    rows = {
        row["guidance"]: row
        for row in published.rows("ppap_table")
        if row["architecture"] == PUBLISHED_GUIDES[guide]
        and f"{row['sampler']}{row['steps']}" == sampler
    }
    return {
        method: rows["none" if about is None else about.published]
        for method, about in methods.METHODS.items()
    }
