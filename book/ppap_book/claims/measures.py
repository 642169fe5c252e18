"""What claims are measured by: numbers with an interval from the ledger's rows.

Where a table was published, the same number is read from there too: in the table's own units,
FID for our KID or judge accuracy, of which only signs compare with ours, and shares. All are signed
such that larger means more of what the metric's name says.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from ppap_book import ledger, paper_tables
from ppap_book.errors import StudyError
from ppap_book.statistics import bootstrap, comparisons
from ppap_book.statistics.bootstrap import Estimate
from ppap_book.studies import (
    ablation,
    attention,
    guidance,
    guidance_outcomes,
    intervals,
    methods,
    noise,
    noisy_accuracy,
    sampler_standings,
    samplers,
    scales,
    variants,
)


class Effect(NamedTuple):
    """A number with its 95 % interval, what it is, and over how many images it was taken.

    `blocks` of seeds, None where no seeds are drawn in blocks. `unit` is empty where the metric's
    title says all.
    """

    estimate: Estimate
    images: int
    blocks: int | None = None
    unit: str = ""


class NoEffect(NamedTuple):
    """Why there is no effect to speak of, in words."""

    reason: str = "nothing to compare yet"


@dataclass(frozen=True)
class Measure:
    """A metric of the ledger's rows, and of a published table.

    `ours` raises an error of the parameters it looks up where a claim's `rows` misspell one.
    `same_units`: a value of `theirs` compares with one of `ours`, not its sign alone.
    """

    ours: Callable[..., Effect | NoEffect]
    title: str = ""
    their_title: str = ""
    theirs: Callable[..., float] | None = None
    same_units: bool = False


GAINED = {"judge": "judge accuracy gained", "kid": "KID gained"}
"""By column, what a gain is called; KID's is how far it fell."""


def _outcomes(
    names: tuple[str, ...], guide: str, sampler: str, tier: str, swept: float | None = None
) -> list[list[guidance_outcomes.Outcome]]:
    """Every method's outcomes, by the length of their blocks."""
    scale = guidance.PUBLISHED_SCALE if swept is None else float(swept)
    asked = {"guide": guide, "sampler": sampler, "scale": scale}
    for name in names:
        guidance.Guidance(method=name, tier=tier, **asked).recorded()  # refuses what there is not
    found = guidance_outcomes.outcomes(
        ledger.rows(guidance.STUDY), sweep=swept is not None, tier=tier
    )
    return [guidance_outcomes.candidates(found, name, **asked) for name in names]


def gain(
    method: str,
    over: str,
    guide: str = "resnet18",
    sampler: str = "ddim25",
    tier: str = "fashion",
    swept: float | None = None,
    column: str = "judge",
) -> Effect | NoEffect:
    """Judge accuracy of a method above another's, or KID below it, on the same seeds.

    At the published scale, or at one that was `swept`, on the seeds of the sweep.
    """
    sides = _outcomes((method, over), guide, sampler, tier, swept)
    return _difference(column, *(reversed(sides) if _lower(column) else sides), GAINED[column])


def _lower(column: str) -> bool:
    """Whether lower is better in a column by which gains are measured."""
    if column not in GAINED:
        raise StudyError(f"no gain is measured by {column!r}: by {' or '.join(GAINED)}")
    return comparisons.COLUMNS[column].lower_is_better


def published_gain(
    method: str, over: str, guide: str = "resnet18", sampler: str = "ddim25"
) -> float:
    """How far a method's FID lies below another's."""
    rows = guidance_outcomes.published_rows(guide, sampler)
    return rows[over]["fid"] - rows[method]["fid"]


def recovered(
    method: str,
    of: str = "multi5",
    guide: str = "resnet18",
    sampler: str = "ddim25",
    tier: str = "fashion",
    swept: float | None = None,
    column: str = "judge",
) -> Effect | NoEffect:
    """A method's gain over no guidance as a share of another's gain.

    At the published scale, or at one that was `swept`, on the seeds of the sweep.
    """
    _lower(column)
    sides = _outcomes((method, of, "none"), guide, sampler, tier, swept)
    if (found := comparisons.aligned(*sides)) is None:
        return NoEffect()
    blocks = found[0].shared(*found[1:])
    if (share := comparisons.recovered_fraction(*found, column)) is None:
        return NoEffect(f"{methods.title(of)} gained too little for shares of it")
    images, unit = len(blocks) * found[0].params["n"], f"share of {GAINED[column]}"
    return Effect(share, images, len(blocks), unit)


def published_recovered(
    method: str, of: str = "multi5", guide: str = "resnet18", sampler: str = "ddim25"
) -> float:
    """The same share in FID."""
    part, whole = (published_gain(name, "none", guide, sampler) for name in (method, of))
    return part / whole


def trained_gain(
    variant: str, over: str, guide: str = "resnet18", column: str = "judge"
) -> Effect | NoEffect:
    """Judge accuracy of one training's experts above another's as guides, or KID below it.

    Of `variants`, after as many images: the most after which both have guided on the same seeds.
    """
    lower = _lower(column)
    for name in (variant, over):
        variants.training(name, guide)  # refuses what there is not
    both = variants.pairs(ablation.outcomes(guide), variant, over, attrgetter("params"))
    if not (both := [pair for pair in both if pair[0].shared(pair[1])]):
        return NoEffect()
    images = both[0][0].params["images_seen"]
    sides = zip(*(pair for pair in both if pair[0].params["images_seen"] == images), strict=True)
    unit = f"{GAINED[column]} after {images:,} images of training"
    return _difference(column, *(reversed(list(sides)) if lower else sides), unit)


def guide_minus_judge(
    method: str, guide: str = "resnet18", sampler: str = "ddim25", tier: str = "fashion"
) -> Effect | NoEffect:
    """By how much the guide believes in more of its own images than the judge does."""
    if methods.weights_of(method, guide, tier) is None:
        raise StudyError(f"{methods.title(method)} believes in nothing: no guide reads images")
    if (found := comparisons.aligned(*_outcomes((method,), guide, sampler, tier))) is None:
        return NoEffect()
    own, judge = (found[0].by_image(column) for column in ("guide", "judge"))
    return Effect(bootstrap.difference(own, judge), len(own), len(found[0].rows))


def routing(
    method: str = "ppap5", guide: str = "resnet18", sampler: str = "ddim25", column: str = "judge"
) -> Effect | NoEffect:
    """Judge accuracy with intervals as the paper cuts them, above the released code's routing.

    Or KID below it.
    """
    lower = _lower(column)
    asked = {"method": method, "guide": guide, "sampler": sampler}
    guidance.Guidance(**asked, released_routing=True).recorded()  # refuses what there is not
    rows = ledger.rows(guidance.STUDY)
    both = (
        guidance_outcomes.outcomes(rows, released_routing=released) for released in (False, True)
    )
    sides = [guidance_outcomes.candidates(found, **asked) for found in both]
    return _difference(column, *(reversed(sides) if lower else sides), GAINED[column])


def entropy_change(start: float, end: float) -> Effect | NoEffect:
    """How the off-the-shelf classifier's entropy changes from one timestep to another, in nats."""
    if unread := {start, end}.difference(noisy_accuracy.photographs().times):
        raise StudyError(f"photographs are not read at t = {min(unread):g}")
    if (entropies := _entropies()) is None:
        return NoEffect()
    before, after = entropies[start], entropies[end]
    return Effect(bootstrap.difference(after, before), len(after))


def least_entropy_change() -> Effect | NoEffect:
    """The least change of that entropy from any timestep to any later one, in nats.

    Negative if it falls anywhere. The two timesteps are chosen by the mean over photographs, among
    all pairs, and the interval allows for that.
    """
    if (entropies := _entropies()) is None:
        return NoEffect()
    pairs = list(itertools.combinations(entropies.values(), 2))
    before, after = min(pairs, key=lambda pair: fmean(pair[1]) - fmean(pair[0]))
    return Effect(_of_many(after, before, len(pairs)), len(after))


def _entropies() -> dict[float, list[float]] | None:
    """The off-the-shelf classifier's entropy on every photograph, by timestep."""
    made = noisy_accuracy.photographs()
    row = ledger.find(noisy_accuracy.STUDY, made.recorded())
    return row and dict(zip(made.times, row["results"]["entropies"], strict=True))


def attention_trend(
    measure: str, method: str = "multi5", guide: str = "resnet18", t: float | None = None
) -> Effect | NoEffect:
    """What one expert up, to the next noisier interval, changes in a measure at the noise of t.

    Without t averaged over all of the study's noise levels, also those that no expert can read.
    """
    if measure not in attention.MEASURES:
        raise StudyError(f"no measure {measure!r} of attention: {', '.join(attention.MEASURES)}")
    methods.title(method)  # refuses what there is not
    made = attention.plan(guide).get(method)
    if made is not None and t is not None and t not in made.times:
        raise StudyError(f"no attention at t = {t}: there is {', '.join(map(str, made.times))}")
    if made is None or (row := ledger.find(attention.STUDY, made.recorded())) is None:
        return NoEffect()
    found = row["results"]
    trend = found["overall" if t is None else "trend"][measure]
    if t is not None:
        trend = trend[made.times.index(t)]
    of_expert = Estimate(*(trend[end] for end in Estimate._fields))
    return Effect(of_expert, trend["images"], unit=f"{_TRENDS[measure]} per expert")


_TRENDS = {
    "inside": "energy inside over area",
    "entropy": "nats of map entropy",
    "frequency": "cycles per image",
}


def power_lead(of: str, interval: int, method: str = "ppap5") -> Effect | NoEffect:
    """The power of the change in layout or detail by one interval alone, above any other's alone.

    Above that of the other interval with the largest mean, image by image; the interval allows for
    the choice among them.
    """
    if of not in ("layout", "detail"):
        raise StudyError(f"guidance changes layout and detail, no {of!r}")
    runs = intervals.plan(method)
    if interval not in (known := {run.first for run in runs if run.span == (run.first, run.first)}):
        raise StudyError(f"no interval {interval}: there are {sorted(known)}")
    found, _ = intervals.effects(runs)
    alone = {
        span[0]: getattr(effect, of)
        for span, effect in found.items()
        if span is not None and span[0] == span[1]
    }
    if interval not in alone or len(alone) < 2:
        return NoEffect()
    own = alone.pop(interval)
    rival = max(alone.values(), key=fmean)
    return Effect(_of_many(own, rival, len(alone)), len(own), len(own) // runs[0].n)


def tweak(name: str, steps: int = 25) -> Effect | NoEffect:
    """KID of a tweaked sampler above that of the plain one, clipped as usual."""
    made = noise.NoiseTweakRun(tweak=name, steps=steps)
    found = comparisons.pool(ledger.rows(noise.STUDY), methods.is_current)
    alike = {key: getattr(made, key) for key in ("tier", "steps", "clip", "extractor")}
    return _difference(
        "kid", *(comparisons.matching(found, tweak=t, **alike) for t in (name, "one_z"))
    )


def published_tweak(name: str) -> float:
    """The same in FID, over the table's repeats."""
    change = noise.TWEAKS[name]
    study = "extra_noise" if change.draws == 2 else "beta_range"
    fids: dict[tuple, list[float]] = {}
    for row in paper_tables.rows("noise_tweaks"):
        if row["study"] == study:
            key = row["variant"], row["beta_start"], row["beta_end"]
            fids.setdefault(key, []).append(row["fid"])
    variant = "two_z" if change.draws == 2 else "one_z"
    tweaked = fids[variant, change.beta_start, change.beta_end]
    plain = fids["one_z", noise.TWEAKS["one_z"].beta_start, noise.TWEAKS["one_z"].beta_end]
    return sum(tweaked) / len(tweaked) - sum(plain) / len(plain)


def by_scale(
    column: str, method: str, start: float, end: float, guide: str = "resnet18"
) -> Effect | NoEffect:
    """How precision, recall or the judge's accuracy changes from one guidance scale to another."""
    if column not in comparisons.COLUMNS:
        raise StudyError(f"no column {column!r}: there are {', '.join(comparisons.COLUMNS)}")
    found = guidance_outcomes.outcomes(ledger.rows(scales.STUDY))
    runs = [guidance.Guidance(method=method, guide=guide, scale=s) for s in (end, start)]
    for run in runs:
        run.recorded()  # refuses what there is not
    sides = (
        guidance_outcomes.candidates(found, method, guide, run.sampler, run.scale) for run in runs
    )
    return _difference(column, *sides, f"change of {column}")


def solver_lead(
    better: str,
    worse: str,
    budget: int,
    grid: str = "uniform",
    method: str = "none",
    guide: str = "resnet18",
    scale: float = samplers.PUBLISHED_SCALE,
) -> Effect | NoEffect:
    """KID of a solver below another's, at equal evaluations on a grid."""
    for solver in (better, worse):
        samplers.Sampling(
            solver, budget, grid=grid, method=method, guide=guide, scale=scale
        ).recorded()  # refuses what there is not
    found = sampler_standings.standings(ledger.rows(samplers.STUDY))
    alike = sampler_standings.comparable(found, budget, method, guide, float(scale), grid)
    return _difference("kid", *(comparisons.matching(alike, solver=s) for s in (worse, better)))


def published_lead(
    better: str, worse: str, budget: int, dataset: str, schedule: str | None = None
) -> float:
    """The same in FID: by eta from the DDIM table, and with a `schedule` from the PNDM table."""
    if schedule is None:
        fid = sampler_standings.published_etas(dataset, budget)
    else:
        fid = sampler_standings.published_pndm(dataset, schedule, budget=budget)
    return fid[worse] - fid[better]


def _difference(
    column: str, a: Iterable[comparisons.Pooled], b: Iterable[comparisons.Pooled], unit: str = ""
) -> Effect | NoEffect:
    """One of `a` minus one of `b`, image by image on the most seeds that both have."""
    if (pair := comparisons.aligned(a, b)) is None:
        return NoEffect()
    one, other = pair
    if one.get(column) is None or other.get(column) is None:
        return NoEffect(f"rows of {one.params['n']} images have no {column}")
    blocks = len(one.shared(other))
    return Effect(one.minus(other, column), one.params["n"] * blocks, blocks, unit)


def _of_many(a: Sequence[float], b: Sequence[float], pairs: int) -> Estimate:
    """The paired difference a - b, which was chosen as the extreme one of so many."""
    return bootstrap.difference(a, b, **bootstrap.bonferroni(pairs))


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "gain": Measure(gain, "", "FID gained", published_gain),
        "recovered": Measure(
            recovered, "", "share of FID gained", published_recovered, same_units=True
        ),
        "trained_gain": Measure(trained_gain),
        "deceived": Measure(guide_minus_judge, "the guide's accuracy minus the judge's"),
        "routing": Measure(routing),
        "entropy_change": Measure(entropy_change, "nats"),
        "least_entropy_change": Measure(least_entropy_change, "nats"),
        "attention_trend": Measure(attention_trend),
        "power_lead": Measure(power_lead, "power above the next, in squared pixel units"),
        "tweak": Measure(tweak, "KID added", "FID added", published_tweak),
        "by_scale": Measure(by_scale),
        "solver_lead": Measure(solver_lead, "KID gained", "FID gained", published_lead),
    }
)
"""Metrics by name: what `rows` of a claim are the arguments of."""
