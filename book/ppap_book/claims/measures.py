"""Measures of claims: numbers with an interval from the ledger's rows.

Where a table was published, the same number is read from there too: in the table's own units,
FID for our KID or judge accuracy, of which only signs compare with ours, and shares. All are signed
such that larger means more of what the metric's name says.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean
from types import MappingProxyType

from ppap_book import paper_tables
from ppap_book.claims.effects import TRAININGS, Effect, NoEffect, change_of, extreme_of, gain_of
from ppap_book.errors import StudyError
from ppap_book.statistics import bootstrap, comparisons
from ppap_book.statistics.bootstrap import Estimate
from ppap_book.studies import (
    attention,
    expert_training,
    expert_variants,
    guidance,
    guidance_outcomes,
    intervals,
    methods,
    noise,
    noisy_accuracy,
    published,
    sampler_standings,
    samplers,
    scales,
)


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
    setting = {"guide": guide, "sampler": sampler, "scale": scale}
    for name in names:
        guidance.Guidance(method=name, tier=tier, **setting).recorded()  # refuses what there is not
    outcomes = guidance_outcomes.outcomes(guidance.STUDY.rows(), swept is not None, tier)
    return [guidance_outcomes.candidates(outcomes, name, guide, sampler, scale) for name in names]


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
    unit = _gained(column)
    sides = _outcomes((method, over), guide, sampler, tier, swept)
    return gain_of(column, *sides, unit, TRAININGS)


def _gained(column: str) -> str:
    """Name of a gain in the column; refuses columns by which none is measured."""
    if column not in GAINED:
        raise StudyError(f"no gain is measured by {column!r}: by {' or '.join(GAINED)}")
    return GAINED[column]


def published_gain(
    method: str, over: str, guide: str = "resnet18", sampler: str = "ddim25"
) -> float:
    """How far a method's FID lies below another's."""
    rows = published.guidance(guide, sampler)
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
    unit = f"share of {_gained(column)}"
    sides = _outcomes((method, of, "none"), guide, sampler, tier, swept)
    if (settings := comparisons.aligned(*sides)) is None:
        return NoEffect()
    if (fraction := comparisons.recovered_fraction(*settings, column)) is None:
        return NoEffect(f"{methods.title(of)} gained too little for shares of it")
    blocks = len(settings[0].shared(*settings[1:]))
    asked = column == "judge" and all(one.get("second_judge") is not None for one in settings)
    second = comparisons.recovered_fraction(*settings, "second_judge") if asked else None
    images = settings[0].params["n"] * blocks
    return Effect(fraction, images, blocks, unit, TRAININGS, second)


def published_recovered(
    method: str, of: str = "multi5", guide: str = "resnet18", sampler: str = "ddim25"
) -> float:
    """Return that share in FID."""
    part, whole = (published_gain(name, "none", guide, sampler) for name in (method, of))
    return part / whole


def trained_gain(
    variant: str, over: str, guide: str = "resnet18", column: str = "judge"
) -> Effect | NoEffect:
    """Judge accuracy of one training's experts above another's as guides, or KID below it.

    Of `variants`, after as many images: the most after which both have guided on the same seeds.
    """
    gained = _gained(column)
    for name in (variant, over):
        expert_variants.training(name, guide)  # refuses what there is not
    guided = expert_training.outcomes(guide)
    both = expert_variants.pairs(guided, variant, over, attrgetter("params"))
    if not (both := [pair for pair in both if pair[0].shared(pair[1])]):
        return NoEffect()
    images = both[0][0].params["images_seen"]
    sides = zip(*(pair for pair in both if pair[0].params["images_seen"] == images), strict=True)
    unit = f"{gained} after {images:,} images of training"
    return gain_of(column, *sides, unit, TRAININGS)


def guide_minus_judge(
    method: str, guide: str = "resnet18", sampler: str = "ddim25", tier: str = "fashion"
) -> Effect | NoEffect:
    """By how much the guide believes in more of its own images than the judge does."""
    if methods.weights_of(method, guide, tier) is None:
        raise StudyError(f"{methods.title(method)} believes in nothing: no guide reads images")
    if (settings := comparisons.aligned(*_outcomes((method,), guide, sampler, tier))) is None:
        return NoEffect()
    own, judge = (settings[0].by_image(column) for column in ("guide", "judge"))
    return Effect(bootstrap.difference(own, judge), len(own), len(settings[0].rows))


def routing(
    method: str = "ppap5", guide: str = "resnet18", sampler: str = "ddim25", column: str = "judge"
) -> Effect | NoEffect:
    """Judge accuracy with intervals as the paper cuts them, above the released code's routing.

    Or KID below it.
    """
    unit = _gained(column)
    setting = {"method": method, "guide": guide, "sampler": sampler}
    guidance.Guidance(**setting, released_routing=True).recorded()  # refuses what there is not
    rows = guidance.STUDY.rows()
    by_routing = (guidance_outcomes.outcomes(rows, released_routing=r) for r in (False, True))
    sides = (guidance_outcomes.candidates(o, method, guide, sampler) for o in by_routing)
    return gain_of(column, *sides, unit)


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
    return Effect(extreme_of(after, before, len(pairs)), len(after))


def _entropies() -> dict[float, list[float]] | None:
    """The off-the-shelf classifier's entropy on every photograph, by timestep."""
    run = noisy_accuracy.photographs()
    row = noisy_accuracy.STUDY.find(run)
    return row and dict(zip(run.times, row["results"]["entropies"], strict=True))


def attention_trend(
    measure: str, method: str = "multi5", guide: str = "resnet18", t: float | None = None
) -> Effect | NoEffect:
    """Change of a measure of attention from one expert to the next noisier one, at the noise of t.

    Without t averaged over all of the study's noise levels, also those that no expert can read.
    """
    if measure not in attention.MEASURES:
        raise StudyError(f"no measure {measure!r} of attention: {', '.join(attention.MEASURES)}")
    methods.title(method)  # refuses what there is not
    run = attention.by_method(guide).get(method)
    if run is not None and t is not None and t not in run.times:
        raise StudyError(f"no attention at t = {t}: there is {', '.join(map(str, run.times))}")
    if run is None or (row := attention.STUDY.find(run)) is None:
        return NoEffect()
    trend = row["results"]["overall" if t is None else "trend"][measure]
    if t is not None:
        trend = trend[run.times.index(t)]
    of_expert = Estimate(*(trend[end] for end in Estimate._fields))
    unit = f"{_TRENDS[measure]} per expert"
    return Effect(of_expert, trend["images"], unit=unit, trainings=TRAININGS)


_TRENDS = {
    "inside": "energy inside over area",
    "entropy": "nats of map entropy",
    "frequency": "cycles per image",
}


def power_lead(of: str, interval: int, method: str = "ppap5") -> Effect | NoEffect:
    """Power of the change in layout or detail by one interval alone, above any other's alone.

    The other one is that of the largest mean, image by image, and the estimate allows for the
    choice among them.
    """
    alone = _alone(of, interval, method)
    if interval not in alone or len(alone) < 2:
        return NoEffect()
    own = getattr(alone.pop(interval), of)
    rival = max((getattr(effect, of) for effect in alone.values()), key=fmean)
    return _over_blocks(extreme_of(own, rival, len(alone)), len(own))


def composition_lead(
    of: str, interval: int, over: int | None = None, method: str = "ppap5"
) -> Effect | NoEffect:
    """Share of the change by one interval alone that is layout, or detail, above another's.

    A share is that of the powers' sum over images. Without `over` the other interval is that of the
    largest share, and the estimate allows for the choice among them.
    """
    if over == interval:
        raise StudyError(f"interval {interval} has no lead over itself")
    alone = [_alone(of, k, method) for k in (over or interval, interval)][-1]
    if not {interval, over or interval} <= alone.keys() or len(alone) < 2:
        return NoEffect()
    parts = {k: (getattr(effect, of), effect.power) for k, effect in alone.items()}
    own = parts.pop(interval)
    rivals = [parts[over]] if over else list(parts.values())
    rival = max(rivals, key=lambda part: fmean(part[0]) / fmean(part[1]))
    lead = bootstrap.ratio_difference(*own, *rival, **bootstrap.bonferroni(len(rivals)))
    return _over_blocks(lead, len(own[0]))


def _alone(of: str, interval: int, method: str) -> dict[int, intervals.SpanEffect]:
    """The effect of every interval alone, by its number; refuses what is not measured."""
    if of not in ("layout", "detail"):
        raise StudyError(f"guidance changes layout and detail, no {of!r}")
    runs = intervals.grid(method)
    if interval not in (known := {run.first for run in runs if run.span == (run.first, run.first)}):
        raise StudyError(f"no interval {interval}: there are {sorted(known)}")
    effects, _ = intervals.effects(runs)
    return {span[0]: e for span, e in effects.items() if span is not None and span[0] == span[1]}


def _over_blocks(estimate: Estimate, images: int) -> Effect:
    return Effect(estimate, images, images // intervals.IMAGES, trainings=TRAININGS)


def tweak(name: str, steps: int = 25) -> Effect | NoEffect:
    """KID of a tweaked sampler above that of the plain one, clipped as usual."""
    run = noise.NoiseTweakRun(tweak=name, steps=steps)
    settings = comparisons.pool(noise.STUDY.rows(), methods.current())
    alike = {key: getattr(run, key) for key in ("tier", "steps", "clip", "extractor")}
    sides = (comparisons.matching(settings, tweak=t, **alike) for t in (name, "one_z"))
    return change_of("kid", *sides)


def published_tweak(name: str) -> float:
    """Return that difference in FID, over the table's repeats."""
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
    """Change of precision, recall or the judge's accuracy from one guidance scale to another."""
    if column not in comparisons.COLUMNS:
        raise StudyError(f"no column {column!r}: there are {', '.join(comparisons.COLUMNS)}")
    outcomes = guidance_outcomes.outcomes(scales.STUDY.rows())
    runs = [guidance.Guidance(method=method, guide=guide, scale=s) for s in (end, start)]
    for run in runs:
        run.recorded()  # refuses what there is not
    sides = (
        guidance_outcomes.candidates(outcomes, method, guide, run.sampler, run.scale)
        for run in runs
    )
    return change_of(column, *sides, f"change of {column}")


def solver_lead(
    better: str,
    worse: str,
    budget: int,
    grid: str = "uniform",
    method: str = "none",
    guide: str = "resnet18",
    scale: float = samplers.PUBLISHED_SCALE,
    lower_final: bool = True,
    unclipped: bool = False,
) -> Effect | NoEffect:
    """KID of a solver below another's, at equal evaluations on a grid.

    Solvers that extrapolate end at low order, or not; the predicted x0 is clipped, or not.
    """
    setting = {
        "grid": grid,
        "method": method,
        "guide": guide,
        "scale": scale,
        "unclipped": unclipped,
    }
    for solver in (better, worse):
        samplers.Sampling(solver, budget, **setting).recorded()  # refuses what there is not
    rows = samplers.STUDY.rows()
    standings = sampler_standings.standings(rows, lower_final=lower_final, unclipped=unclipped)
    alike = sampler_standings.comparable(standings, budget, method, guide, float(scale), grid)
    return gain_of("kid", *(comparisons.matching(alike, solver=s) for s in (better, worse)))


def published_lead(
    better: str, worse: str, budget: int, dataset: str, schedule: str | None = None
) -> float:
    """Return that lead in FID: by eta from the DDIM table, by a `schedule` from the PNDM table."""
    if schedule is None:
        fid = published.ddim(dataset, budget)
    else:
        fid = published.pndm(dataset, schedule, budget=budget)
    return fid[worse] - fid[better]


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "gain": Measure(gain, "", "FID gained", published_gain),
        "recovered": Measure(
            recovered, "", "share of FID gained", published_recovered, same_units=True
        ),
        "trained_gain": Measure(trained_gain),
        "guide_minus_judge": Measure(guide_minus_judge, "the guide's accuracy minus the judge's"),
        "routing": Measure(routing),
        "entropy_change": Measure(entropy_change, "nats"),
        "least_entropy_change": Measure(least_entropy_change, "nats"),
        "attention_trend": Measure(attention_trend),
        "power_lead": Measure(power_lead, "power above the next, in squared pixel units"),
        "composition_lead": Measure(composition_lead, "share of the change above another's"),
        "tweak": Measure(tweak, "KID added", "FID added", published_tweak),
        "by_scale": Measure(by_scale),
        "solver_lead": Measure(solver_lead, "KID gained", "FID gained", published_lead),
    }
)
"""Metrics by name; `rows` of a claim are their arguments."""
