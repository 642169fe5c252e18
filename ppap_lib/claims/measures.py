"""What claims are measured by: numbers with an interval from the ledger's rows.

Where a table was published, the same number is read from there too: in the table's own units,
FID for our KID or judge accuracy, so that bounds compare signs and shares, never values. All are
signed such that larger means more of what the metric's name says.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from ppap_lib import bootstrap, ledger, published
from ppap_lib.bootstrap import Estimate
from ppap_lib.studies import (
    attention,
    guidance,
    intervals,
    methods,
    noise,
    outcome,
    pooled,
    reading,
    samplers,
    scales,
    standings,
)


class Effect(NamedTuple):
    """A number with its 95 % interval, and over how many images it was taken."""

    estimate: Estimate
    images: int


@dataclass(frozen=True)
class Measure:
    """A metric of the ledger's rows, None without them, and of a published table."""

    title: str
    ours: Callable[..., Effect | None]
    their_title: str = ""
    theirs: Callable[..., float] | None = None


def _outcomes(
    names: tuple[str, ...], guide: str, sampler: str, swept: float | None = None
) -> list[list[outcome.Outcome]]:
    """Every method's outcomes, by the length of their blocks."""
    found = outcome.outcomes(ledger.rows(guidance.STUDY), sweep=swept is not None)
    scale = guidance.PUBLISHED_SCALE if swept is None else float(swept)
    return [outcome.candidates(found, name, guide, sampler, scale) for name in names]


def gain(
    method: str,
    over: str,
    guide: str = "resnet18",
    sampler: str = "ddim25",
    swept: float | None = None,
) -> Effect | None:
    """Judge accuracy of a method above another's, on the same seeds.

    At the published scale, or at one that was `swept`, on the seeds of the sweep.
    """
    sides = _outcomes((method, over), guide, sampler, swept)
    return _difference("judge", *sides)


def published_gain(
    method: str, over: str, guide: str = "resnet18", sampler: str = "ddim25"
) -> float:
    """How far a method's FID lies below another's."""
    rows = outcome.published_rows(guide, sampler)
    return rows[over]["fid"] - rows[method]["fid"]


def recovered(
    method: str,
    of: str = "multi5",
    guide: str = "resnet18",
    sampler: str = "ddim25",
    swept: float | None = None,
) -> Effect | None:
    """A method's gain over no guidance as a share of another's gain, in judge accuracy.

    At the published scale, or at one that was `swept`, on the seeds of the sweep.
    """
    sides = _outcomes(("none", method, of), guide, sampler, swept)
    if (found := pooled.aligned(*sides)) is None:
        return None
    blocks = found[0].shared(*found[1:])
    none, part, whole = (one.by_image("judge", blocks) for one in found)
    if whole.sum() <= none.sum():  # nothing was gained of which there could be a share
        return None
    return Effect(bootstrap.ratio(part - none, whole - none), len(none))


def published_recovered(
    method: str, of: str = "multi5", guide: str = "resnet18", sampler: str = "ddim25"
) -> float:
    """The same share in FID."""
    part, whole = (published_gain(name, "none", guide, sampler) for name in (method, of))
    return part / whole


def deceived(method: str, guide: str = "resnet18", sampler: str = "ddim25") -> Effect | None:
    """By how much the guide believes in more of its own images than the judge does."""
    if (found := pooled.aligned(*_outcomes((method,), guide, sampler))) is None:
        return None
    own, judge = (found[0].by_image(column) for column in ("guide", "judge"))
    return Effect(bootstrap.difference(own, judge), len(own))


def routing(
    method: str = "ppap5", guide: str = "resnet18", sampler: str = "ddim25"
) -> Effect | None:
    """Judge accuracy with intervals as the paper cuts them, above the released code's routing."""
    rows = ledger.rows(guidance.STUDY)
    both = (outcome.outcomes(rows, released_routing=released) for released in (False, True))
    sides = (outcome.candidates(found, method, guide, sampler) for found in both)
    return _difference("judge", *sides)


def entropy_change(start: float, end: float) -> Effect | None:
    """How the off-the-shelf classifier's entropy changes from one timestep to another, in nats."""
    if (entropies := _entropies()) is None:
        return None
    before, after = entropies[start], entropies[end]
    return Effect(bootstrap.difference(after, before), len(after))


def least_entropy_change() -> Effect | None:
    """The least change of that entropy from any timestep to any later one, in nats.

    Negative if it falls anywhere. The two timesteps are chosen by the mean over photographs.
    """
    if (entropies := _entropies()) is None:
        return None
    pairs = itertools.combinations(entropies.values(), 2)
    before, after = min(pairs, key=lambda pair: fmean(pair[1]) - fmean(pair[0]))
    return Effect(bootstrap.difference(after, before), len(after))


def _entropies() -> dict[float, list[float]] | None:
    """The off-the-shelf classifier's entropy on every photograph, by timestep."""
    made = reading.photographs()
    row = ledger.find(reading.STUDY, made.recorded())
    return row and dict(zip(made.times, row["results"]["entropies"], strict=True))


def attention_trend(measure: str, method: str = "multi5", guide: str = "resnet18") -> Effect | None:
    """What one expert up, to the next noisier interval, changes in a measure at fixed noise.

    Averaged over all of the study's noise levels.
    """
    made = attention.plan(guide).get(method)
    if made is None or (row := ledger.find(attention.STUDY, made.recorded())) is None:
        return None
    trend = row["results"]["overall"][measure]
    return Effect(Estimate(*(trend[end] for end in Estimate._fields)), trend["images"])


def power_lead(of: str, interval: int, method: str = "ppap5") -> Effect | None:
    """The power of the change in layout or detail by one interval alone, above any other's alone.

    Above that of the other interval with the largest mean, image by image.
    """
    found, _ = intervals.effects(intervals.plan(method))
    alone = {
        span[0]: getattr(effect, of)
        for span, effect in found.items()
        if span is not None and span[0] == span[1]
    }
    if interval not in alone or len(alone) < 2:
        return None
    own = alone.pop(interval)
    return Effect(bootstrap.difference(own, max(alone.values(), key=fmean)), len(own))


def tweak(name: str, steps: int = 25) -> Effect | None:
    """KID of a tweaked sampler above that of the plain one, clipped as usual."""
    found = pooled.pool(ledger.rows(noise.STUDY), methods.is_current)
    alike = {"tier": "fashion", "steps": steps, "clip": True}
    return _difference("kid", *(pooled.matching(found, tweak=t, **alike) for t in (name, "one_z")))


def published_tweak(name: str) -> float:
    """The same in FID, over the table's repeats."""
    change = noise.TWEAKS[name]
    study = "extra_noise" if change.draws == 2 else "beta_range"
    fids: dict[tuple, list[float]] = {}
    for row in published.rows("noise_tweaks"):
        if row["study"] == study:
            key = row["variant"], row["beta_start"], row["beta_end"]
            fids.setdefault(key, []).append(row["fid"])
    variant = "two_z" if change.draws == 2 else "one_z"
    tweaked = fids[variant, change.beta_start, change.beta_end]
    plain = fids["one_z", noise.TWEAKS["one_z"].beta_start, noise.TWEAKS["one_z"].beta_end]
    return sum(tweaked) / len(tweaked) - sum(plain) / len(plain)


def by_scale(
    column: str, method: str, start: float, end: float, guide: str = "resnet18"
) -> Effect | None:
    """How precision, recall or the judge's accuracy changes from one guidance scale to another."""
    found = pooled.pool(ledger.rows(scales.STUDY), methods.is_current)
    alike = {"tier": "fashion", "method": method, "guide": guide}
    return _difference(
        column, *(pooled.matching(found, scale=float(s), **alike) for s in (end, start))
    )


def solver_lead(
    better: str,
    worse: str,
    budget: int,
    grid: str = "uniform",
    method: str = "none",
    guide: str = "resnet18",
    scale: float = samplers.PUBLISHED_SCALE,
) -> Effect | None:
    """KID of a solver below another's, at equal evaluations on a grid."""
    found = standings.standings(ledger.rows(samplers.STUDY))
    alike = standings.comparable(found, budget, method, guide, float(scale), grid)
    return _difference("kid", *(pooled.matching(alike, solver=s) for s in (worse, better)))


def published_lead(
    better: str, worse: str, budget: int, dataset: str, schedule: str | None = None
) -> float:
    """The same in FID: by eta from the DDIM table, and with a `schedule` from the PNDM table."""
    if schedule is None:
        fid = standings.published_etas(dataset, budget)
    else:
        fid = standings.published_pndm(dataset, schedule, budget=budget)
    return fid[worse] - fid[better]


def _difference(
    column: str, a: Iterable[pooled.Pooled], b: Iterable[pooled.Pooled]
) -> Effect | None:
    """One of `a` minus one of `b`, image by image on the most seeds; None if none are shared."""
    if (pair := pooled.aligned(a, b)) is None:
        return None
    one, other = pair
    return Effect(one.minus(other, column), one.params["n"] * len(one.shared(other)))


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "gain": Measure("judge accuracy", gain, "FID gained", published_gain),
        "recovered": Measure(
            "share of the gain in judge accuracy",
            recovered,
            "share of the gain in FID",
            published_recovered,
        ),
        "deceived": Measure("the guide's accuracy minus the judge's", deceived),
        "routing": Measure("judge accuracy", routing),
        "entropy_change": Measure("nats", entropy_change),
        "least_entropy_change": Measure("nats", least_entropy_change),
        "attention_trend": Measure("per expert", attention_trend),
        "power_lead": Measure("power", power_lead),
        "tweak": Measure("KID", tweak, "FID", published_tweak),
        "by_scale": Measure("change", by_scale),
        "solver_lead": Measure("KID gained", solver_lead, "FID gained", published_lead),
    }
)
"""Metrics by name: what `rows` of a claim are the arguments of."""
