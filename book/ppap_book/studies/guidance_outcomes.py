"""What the guidance study's rows say: blocks pooled, methods compared image by image."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ppap_book import ledger, paper_tables
from ppap_book.ledger import Row
from ppap_book.statistics.comparisons import (
    Comparison,
    Pooled,
    aligned,
    matching,
    of_one_length,
    pool,
)
from ppap_book.studies import methods
from ppap_book.studies.guidance import PUBLISHED_SCALE, STUDY, SWEEP_SEED, Guidance, Part, plan

PUBLISHED_COLUMNS = {
    "kid": "fid",
    "fd": "fid",
    "inception_score": "is",
    "precision": "precision",
    "recall": "recall",
}
"""Our column -> the published one beside it; in both of a pair the better values are on the same
side. FD is what FID is, by other features, and asks for many images; KID stands for it at any n."""

Scales = float | Mapping[str, float]
"""Of guidance: one for all methods, or by method."""

PUBLISHED_GUIDES = {
    "resnet18": "resnet50",
    "vit": "deit_small",
    "resnet50": "resnet50",
    "deit_s": "deit_small",
}
"""Our guide -> the published one in its place."""


class Outcome(Pooled):
    """One method under one sampler, by one guide at one scale; without guidance "none" and 0."""

    @property
    def method(self) -> str:
        return self.params["method"]

    @property
    def guide(self) -> str:
        return self.params["guide"]

    @property
    def sampler(self) -> str:
        return self.params["sampler"]

    @property
    def scale(self) -> float:
        return self.params["scale"]


def outcomes(
    rows: Iterable[Row],
    sweep: bool = False,
    tier: str = "fashion",
    released_routing: bool = False,
    extractor: str = "lite2",
) -> list[Outcome]:
    """The study's rows by the weights that ship now, pooled over blocks, methods in order.

    `sweep` takes the blocks on which scales are chosen instead, `released_routing` the experts
    as the released code routes them. Blocks of several lengths stay apart, shorter ones first:
    distances at different n are not comparable.
    """

    def asked(p: Mapping[str, Any]) -> bool:
        return (
            p["tier"] == tier
            and p["extractor"] == extractor
            and p["released_routing"] == released_routing
            and (p["first_seed"] >= SWEEP_SEED) == sweep
            and methods.is_current(p)
        )

    order = list(methods.METHODS)
    return sorted(
        pool(rows, asked, Outcome),
        key=lambda o: (o.sampler, order.index(o.method), o.guide, o.scale, o.params["n"]),
    )


def candidates(
    found: Iterable[Outcome],
    method: str,
    guide: str = "resnet18",
    sampler: str = "ddim25",
    scale: Scales = PUBLISHED_SCALE,
) -> list[Outcome]:
    """One method's outcomes, by block length; without guidance, guide and scale do not matter."""
    if method == "none":
        guide, scale = "none", 0.0
    elif isinstance(scale, Mapping):
        scale = scale.get(method)
    return matching(found, method=method, guide=guide, sampler=sampler, scale=scale)


def pick(
    found: Iterable[Outcome],
    names: Iterable[str],
    guide: str = "resnet18",
    sampler: str = "ddim25",
    scale: Scales = PUBLISHED_SCALE,
) -> tuple[Outcome, ...] | None:
    """The outcomes of these methods on seeds that all share, as `aligned` chooses; else None."""
    found = list(found)
    return aligned(*(candidates(found, name, guide, sampler, scale) for name in names))


def missing(found: Iterable[Outcome], part: Part) -> dict[str, int]:
    """By method, how many blocks of a part of the full study are not there; none if all are.

    `found` are outcomes of the part's tier.
    """
    found, left = list(found), {}
    for method in part.methods:
        those = candidates(found, method, part.guide, part.sampler)
        done = sum(len(one.rows) for one in those if one.params["n"] == part.n)
        if done < part.blocks:
            left[method] = part.blocks - done
    return left


def best_scales(sweep: Sequence[Outcome], guide: str, sampler: str = "ddim25") -> dict[str, float]:
    """By method, the scale of highest judge accuracy in the sweep; of equals the smallest."""
    best: dict[str, tuple[float, float]] = {}
    for outcome in of_one_length(o for o in sweep if (o.guide, o.sampler) == (guide, sampler)):
        rank = (outcome.mean("judge"), -outcome.scale)
        if outcome.method not in best or rank > best[outcome.method]:
            best[outcome.method] = rank
    return {method: -scale for method, (_, scale) in best.items()}


def alike_scales(
    sweep: Sequence[Outcome], guide: str, sampler: str = "ddim25"
) -> dict[str, list[float]]:
    """By method, the scales whose judge accuracy in the sweep cannot be told from the best one's.

    At the 95 % level for all of a method's scales together.
    """
    best, alike = best_scales(sweep, guide, sampler), {}
    for method, scale in best.items():
        those = [o for o in sweep if (o.guide, o.sampler, o.method) == (guide, sampler, method)]
        (chosen,) = of_one_length(o for o in those if o.scale == scale)
        others = [o for o in those if o.scale != scale and o.shared(chosen)]
        alike[method] = [
            o.scale
            for o in others
            if not Comparison(chosen, o, "judge").difference(len(others)).sign
        ]
    return alike


def at_best(
    guide: str,
    sampler: str = "ddim25",
    n: int = 100,
    blocks: int = 3,
    tier: str = "fashion",
    extractor: str = "lite2",
) -> list[Guidance]:
    """The study's runs of every method that was swept, at its best scale, block by block."""
    sweep = outcomes(ledger.rows(STUDY), sweep=True, tier=tier, extractor=extractor)
    runs = [
        run
        for method, scale in best_scales(sweep, guide, sampler).items()
        for run in plan(
            [method], guide, sampler, [scale], n, blocks, tier=tier, extractor=extractor
        )
    ]
    return sorted(runs, key=lambda run: run.first_seed)


def ranks(
    found: Sequence[Outcome],
    guide: str,
    sampler: str = "ddim25",
    scale: Scales = PUBLISHED_SCALE,
) -> dict[str, paper_tables.Agreement]:
    """By our column, how our order of the methods agrees with the published order.

    Only the ordering is comparable: theirs is ImageNet at 256 pixels. Where the paper has one row
    for gradients on x0-hat, ours is the one through the denoiser. On the blocks of seeds that all
    methods share: empty where there is none, or with fewer than three methods; without a column
    that some of those blocks lack.
    """
    theirs = published_rows(guide, sampler)
    settings = (candidates(found, method, guide, sampler, scale) for method in theirs)
    ours = {
        one.method: one
        for one in of_one_length(one for setting in settings for one in setting)
        if one.method != "x0_fixed" and one.get("kid") is not None
    }
    if len(ours) < 3:
        return {}
    first, *others = ours.values()
    if not (blocks := first.shared(*others)):
        return {}
    return {
        mine: paper_tables.agreement(
            {method: one.mean(mine, blocks) for method, one in ours.items()},
            {method: row[column] for method, row in theirs.items()},
        )
        for mine, column in PUBLISHED_COLUMNS.items()
        if all(one.get(mine) is not None for one in ours.values())
    }


def published_rows(guide: str, sampler: str = "ddim25") -> dict[str, dict[str, paper_tables.Value]]:
    """The published table's rows by our methods, for the network that ours stands for.

    The paper has one row for gradients on x0-hat; it stands beside both of ours. Empty for a
    sampler that the paper did not use.
    """
    rows = {
        row["guidance"]: row
        for row in paper_tables.rows("ppap_table")
        if row["architecture"] == PUBLISHED_GUIDES[guide]
        and f"{row['sampler']}{row['steps']}" == sampler
    }
    return {
        method: rows["none" if about is None else about.published]
        for method, about in methods.METHODS.items()
        if rows
    }
