"""Plan of the guidance study: its parts, the scale sweep, each method at its best scale."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from ppap_book.errors import StudyError
from ppap_book.measures.features import ExtractorName
from ppap_book.studies.guidance import PUBLISHED_SCALE, STUDY, SWEEP, SWEEP_SEED, Guidance, grid
from ppap_book.studies.guidance_outcomes import (
    Outcome,
    best_scales,
    candidates,
    halfway_scale,
    outcomes,
)
from ppap_book.studies.methods import METHODS, MethodName, installed, left_out, title
from ppap_lib import zoo
from ppap_lib.zoo.tiers import GuideName, TierName
from ppap_lib.zoo.tiers import tier as preset

_WITHOUT_LABELS = ("none", "naive", "x0_fixed", "x0_through", "ppap5")
"""Methods by a guide off the shelf: no experts that need labels."""


class Part(NamedTuple):
    """A part of the full study: methods by a guide and sampler, blocks of `n` images of a tier."""

    guide: str
    sampler: str
    n: int
    blocks: int = 3
    tier: str = "fashion"
    methods: tuple[str, ...] = tuple(METHODS)


FULL = (
    Part("resnet18", "ddim25", 2000),
    Part("vit", "ddim25", 2000),
    Part("resnet18", "ddpm250", 60),
    Part("vit", "ddpm250", 60),
    Part("resnet18", "ddim25", 2000, tier="tin10"),
    Part("vit", "ddim25", 2000, tier="tin10"),
    Part("lite0", "ddim25", 2000, tier="tin10", methods=_WITHOUT_LABELS),
)
"""Parts of the small tiers' study, at the published scale; 250 steps as far as a CPU can."""

ON_A_GPU = tuple(
    Part(guide, "ddpm250", 2000, tier=tier)
    for tier in ("fashion", "tin10")
    for guide in ("resnet18", "vit")
)
"""Parts that it has besides where there is a GPU: a CPU would take days."""

AT_BEST = 400
"""Images in a block of each method at its best scale."""


def missing(pooled: Iterable[Outcome], part: Part) -> dict[str, int]:
    """Return, by method, how many blocks of a part of the full study are not there yet.

    `pooled` are outcomes of the part's tier.
    """
    pooled, left = list(pooled), {}
    for method in part.methods:
        outcomes = candidates(pooled, method, part.guide, part.sampler)
        done = sum(len(one.rows) for one in outcomes if one.params["n"] == part.n)
        if done < part.blocks:
            left[method] = part.blocks - done
    return left


def best_runs(
    guide_name: str,
    sampler_name: str = "ddim25",
    n: int = 100,
    blocks: int = 3,
    tier_name: str = "fashion",
    extractor: str = "lite2",
) -> list[Guidance]:
    """Return the runs of every method that was swept, at its best scale, block by block."""
    sweep = outcomes(STUDY.rows(), sweep=True, tier_name=tier_name, extractor=extractor)
    runs = [
        run
        for method, scale in best_scales(sweep, guide_name, sampler_name).items()
        for run in grid(
            [method], guide_name, sampler_name, [scale], n, blocks, 0, tier_name, extractor
        )
    ]
    return sorted(runs, key=lambda run: run.first_seed)


def headline_scale(
    guide_name: str,
    tier_name: str = "fashion",
    sampler_name: str = "ddim25",
    extractor: str = "lite2",
) -> float:
    """Return the scale of the headline, `guidance_outcomes.halfway_scale` by the tier's judge.

    Raises `StudyError` where the sweep does not say.
    """
    sweep = outcomes(STUDY.rows(), sweep=True, tier_name=tier_name, extractor=extractor)
    ceiling = zoo.card(preset(tier_name).named("judge")).metrics["test accuracy"]["value"]
    if (scale := halfway_scale(sweep, guide_name, ceiling, sampler_name)) is None:
        raise StudyError(
            f"the sweep of {tier_name} by {guide_name} does not show at which scale five experts "
            f"are halfway to the judge's ceiling: run guidance --sweep first"
        )
    return scale


def whole(
    tier_name: str, extractor: str = "lite2", device: torch.device | str = "cpu"
) -> Iterator[Guidance]:
    """Yield a tier's whole study: its parts, the sweep, and by its rows each at its best scale.

    Raises `StudyError` for a tier without a plan.
    """
    on_a_gpu = ON_A_GPU if torch.device(device).type == "cuda" else ()
    parts = [part for part in (*FULL, *on_a_gpu) if part.tier == tier_name]
    if not parts:
        raise StudyError(
            f"no study of {tier_name} is planned: say which runs, by --guide, --n and so on"
        )
    tier = {"tier": tier_name, "extractor": extractor}
    here = {part.guide: installed(part.guide, tier_name) for part in parts}
    for part in parts:
        names = [method for method in part.methods if method in here[part.guide]]
        yield from grid(names, part.guide, part.sampler, n=part.n, blocks=part.blocks, **tier)
    for guide, names in here.items():
        yield from grid(names, guide, scales=SWEEP, blocks=1, first_seed=SWEEP_SEED, **tier)
        yield from best_runs(guide, n=AT_BEST, tier_name=tier_name, extractor=extractor)


def runs(
    tier: TierName = "fashion",
    guide: GuideName | None = None,
    sampler: str | None = None,
    methods: tuple[MethodName, ...] | None = None,
    scales: tuple[float, ...] | None = None,
    sweep: bool = False,
    at_best: bool = False,
    halfway: bool = False,
    n: int | None = None,
    blocks: int | None = None,
    released_routing: bool = False,
    extractor: ExtractorName = "lite2",
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Guidance]:
    """Yield the runs that are asked for; where nothing narrows them, the tier's whole study.

    Parameters
    ----------
    tier : TierName
        The tier whose images are drawn.
    guide : GuideName
        The network that guides, of the tier's (resnet18 if not given).
    sampler : str
        The sampler and its steps, such as ddpm250 (ddim25 if not given).
    methods : tuple[MethodName, ...]
        The methods that are compared (all whose weights are here, if not given).
    scales : tuple[float, ...]
        The scales of guidance (the published 7.5 if not given).
    sweep : bool
        Every method is run at the sweep's scales, on seeds of its own.
    at_best : bool
        Every method is run at its best scale of the sweep.
    halfway : bool
        Every method is run at the scale at which five experts are halfway to the judge's ceiling.
    n : int
        The number of images in a block of seeds (100 if not given).
    blocks : int
        The number of blocks of seeds (3 if not given, 1 in the sweep).
    released_routing : bool
        Timesteps on an interval's edge go to the expert below, as in the released code.
    extractor : ExtractorName
        The network whose features distances are taken in.
    device : torch.device or str
        A GPU is asked for more than a CPU.
    tell : Callable[[str], None]
        Hears what is left out.
    """
    at = (scales, sweep, at_best, halfway)
    narrowing = (guide, sampler, methods, n, blocks, released_routing, *at)
    if all(value is None or value is False for value in narrowing):
        yield from whole(tier, extractor, device)
        return
    if (scales is not None) + sweep + at_best + halfway > 1:
        raise StudyError(
            "give one of --scales, --sweep, --at-best and --halfway: each says at which scales"
        )
    guide, sampler, n = guide or "resnet18", sampler or "ddim25", 100 if n is None else n
    blocks = (1 if sweep else 3) if blocks is None else blocks
    if not methods:
        methods = installed(guide, tier)
        for line in left_out(guide, tier):
            tell(line)
    if at_best:
        best = best_runs(guide, sampler, n, blocks, tier, extractor)
        swept = {"none", *(run.method for run in best)}
        for method in (m for m in methods if m not in swept):
            tell(f"{title(method)} is left out: no scale sweep is in the ledger")
        selected = [run for run in best if run.method in methods]
    else:
        if halfway:
            scales = (headline_scale(guide, tier, sampler, extractor),)
        scales, first_seed = (SWEEP, SWEEP_SEED) if sweep else (scales or (PUBLISHED_SCALE,), 0)
        selected = grid(methods, guide, sampler, scales, n, blocks, first_seed, tier, extractor)
    for run in selected:
        yield replace(run, released_routing=released_routing)
