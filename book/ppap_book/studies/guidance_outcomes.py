"""Outcomes of the guidance study: blocks pooled, methods compared image by image."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ppap_book import paper_tables
from ppap_book.ledger import Row
from ppap_book.statistics.comparisons import (
    Comparison,
    Pooled,
    aligned,
    matching,
    of_one_length,
    pool,
)
from ppap_book.studies import methods, published
from ppap_book.studies.guidance import PUBLISHED_SCALE, SWEEP_SEED

Scales = float | Mapping[str, float]
"""Scales of guidance: one for all methods, or by method."""


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
    tier_name: str = "fashion",
    released_routing: bool = False,
    extractor: str = "lite2",
) -> list[Outcome]:
    """Return the study's rows by the weights that ship now, pooled over blocks, methods in order.

    `sweep` takes the blocks on which scales are chosen instead, `released_routing` the experts
    as the released code routes them. Blocks of several lengths stay apart, shorter ones first:
    distances at different n are not comparable.
    """

    current = methods.current()

    def wanted(params: Mapping[str, Any]) -> bool:
        return (
            params["tier"] == tier_name
            and params["extractor"] == extractor
            and params["released_routing"] == released_routing
            and (params["first_seed"] >= SWEEP_SEED) == sweep
            and current(params)
        )

    order = list(methods.METHODS)
    return sorted(
        pool(rows, wanted, Outcome),
        key=lambda o: (o.sampler, order.index(o.method), o.guide, o.scale, o.params["n"]),
    )


def candidates(
    pooled: Iterable[Outcome],
    method: str,
    guide_name: str = "resnet18",
    sampler_name: str = "ddim25",
    scale: Scales = PUBLISHED_SCALE,
) -> list[Outcome]:
    """Return one method's outcomes, by block length; without guidance of any guide and scale."""
    if isinstance(scale, Mapping):
        scale = scale.get(method)
    setting = methods.settings(method, guide_name, scale)
    return matching(pooled, sampler=sampler_name, **setting)


def pick(
    pooled: Iterable[Outcome],
    names: Iterable[str],
    guide_name: str = "resnet18",
    sampler_name: str = "ddim25",
    scale: Scales = PUBLISHED_SCALE,
) -> tuple[Outcome, ...] | None:
    """Return these methods' outcomes on seeds that all share, as `aligned` chooses; else None."""
    pooled = list(pooled)
    return aligned(*(candidates(pooled, name, guide_name, sampler_name, scale) for name in names))


def best_scales(
    sweep: Sequence[Outcome], guide_name: str, sampler_name: str = "ddim25"
) -> dict[str, float]:
    """Return, by method, the scale of highest judge accuracy in the sweep; of equals the least."""
    best: dict[str, tuple[float, float]] = {}
    swept = (o for o in sweep if (o.guide, o.sampler) == (guide_name, sampler_name))
    for outcome in of_one_length(swept):
        rank = (outcome.mean("judge"), -outcome.scale)
        if outcome.method not in best or rank > best[outcome.method]:
            best[outcome.method] = rank
    return {method: -scale for method, (_, scale) in best.items()}


def halfway_scale(
    sweep: Sequence[Outcome],
    guide_name: str,
    ceiling: float,
    sampler_name: str = "ddim25",
    method: str = "multi5",
) -> float | None:
    """Return the scale at which a method is half of the way from no guidance to the ceiling.

    There methods differ, where a larger scale takes all of them to the `ceiling`, the judge's
    accuracy on real images. In judge accuracy, on the seeds of the sweep; between the scales that
    were swept on a line in their logarithm, and below them on one from no guidance at scale 0. To
    two digits; None where the sweep does not reach it.
    """
    alike = of_one_length(o for o in sweep if o.sampler == sampler_name)
    plain = [o for o in alike if o.method == "none"]
    swept = [o for o in alike if (o.method, o.guide) == (method, guide_name)]
    if not plain:
        return None
    unguided = plain[0].mean("judge")
    half = (unguided + ceiling) / 2
    points = sorted([(0.0, unguided), *((o.scale, o.mean("judge")) for o in swept)])
    for (below, low), (above, high) in pairwise(points):
        if low <= half < high:
            share = (half - low) / (high - low)
            scale = below * (above / below) ** share if below else above * share
            return float(f"{scale:.2g}")
    return None


def alike_scales(
    sweep: Sequence[Outcome], guide_name: str, sampler_name: str = "ddim25"
) -> dict[str, list[float]]:
    """Return, by method, the scales whose judge accuracy in the sweep is like the best one's.

    That is, cannot be told from it at the 95 % level for all of a method's scales together.
    """
    alike = {}
    for method, scale in best_scales(sweep, guide_name, sampler_name).items():
        setting = (guide_name, sampler_name, method)
        swept = [o for o in sweep if (o.guide, o.sampler, o.method) == setting]
        (best,) = of_one_length(o for o in swept if o.scale == scale)
        others = [o for o in swept if o.scale != scale and o.shared(best)]
        alike[method] = [
            o.scale for o in others if not Comparison(best, o, "judge").difference(len(others)).sign
        ]
    return alike


def ranks(
    pooled: Sequence[Outcome],
    guide_name: str,
    sampler_name: str = "ddim25",
    scale: Scales = PUBLISHED_SCALE,
) -> dict[str, paper_tables.Agreement]:
    """Return, by our column, how our order of the methods agrees with the published order.

    Only the ordering is comparable: theirs is ImageNet at 256 pixels. Where the paper has one row
    for gradients on x0-hat, ours is the one through the denoiser. On the blocks of seeds that all
    methods share: empty where there is none, or with fewer than three methods; without a column
    that some of those blocks lack.
    """
    theirs = published.guidance(guide_name, sampler_name)
    settings = (candidates(pooled, method, guide_name, sampler_name, scale) for method in theirs)
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
        for mine, column in published.COLUMNS.items()
        if all(one.get(mine) is not None for one in ours.values())
    }
