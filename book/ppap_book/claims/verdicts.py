"""Verdicts on claims: by the published table, and by the ledger."""

from collections.abc import Iterable
from dataclasses import replace

from ppap_book.claims.effects import Effect, NoEffect
from ppap_book.claims.measures import MEASURES
from ppap_book.claims.register import Claim, Verdict
from ppap_book.errors import StudyError
from ppap_book.statistics.bootstrap import Estimate
from ppap_lib.errors import PpapError

ENOUGH_IMAGES = 100
"""Images from which on a verdict is more than provisional."""

ENOUGH_TRAININGS = 3
"""Trainings of each network from which on a comparison of networks is more than provisional."""


def published(claim: Claim, reading: str | None = None) -> Verdict | None:
    """Return the published table's verdict on the claim by its own rule; None without a number.

    `reading` is a label of `claim.readings`, the counted one if not given. Of a number in other
    units than ours the sign decides: any bound is zero. Raises `StudyError` where the table has no
    such number.
    """
    reading = claim.counted if reading is None else reading
    if reading not in claim.published:
        return None
    measure = MEASURES[claim.metric]
    try:
        value = measure.theirs(**claim.looked_up(reading))
    except KeyError as error:
        raise StudyError(f"{claim.id}: the published table has no {error}") from error
    except PpapError as error:
        raise StudyError(f"{claim.id}: {error}") from error
    words = f"{measure.their_title} {value:+.2f}"
    if not measure.same_units:
        signs = {end: 0.0 for end in ("above", "below") if getattr(claim, end) is not None}
        claim = replace(claim, **signs)
    return claim.decide(Estimate(value, value, value))._replace(words=words)


def judge(claim: Claim, reading: str | None = None) -> Verdict:
    """Return the ledger's verdict on the claim, by the weights that ship now.

    `reading` is a label of `claim.readings`, the counted one if not given. Raises `StudyError`
    where the claim names a method, a solver or anything else that there is not.
    """
    measure = MEASURES[claim.metric]
    try:
        effect = measure.ours(**claim.arguments(claim.counted if reading is None else reading))
    except PpapError as error:
        raise StudyError(f"{claim.id}: {error}") from error
    if isinstance(effect, NoEffect):
        return Verdict("undecided", effect.reason)
    number = f"{measure.title or effect.unit} {_interval(effect.estimate)}"
    words = f"{number}, n = {_counted(effect)}"
    if effect.images < claim.at_least:
        return Verdict("undecided", f"{words}: fewer than {claim.at_least} images")
    verdict = claim.decide(effect.estimate)
    if effect.second is not None:
        words += f"; by the second judge {_interval(effect.second)}"
        if claim.decide(effect.second).answer != verdict.answer:
            return Verdict("undecided", f"{words}: the judges disagree")
    few = provisional(effect.images, effect.trainings) and verdict.answer != "undecided"
    return verdict._replace(words=words, provisional=few)


def provisional(images: int, trainings: int | None = None) -> bool:
    """Whether so many images decide provisionally only.

    They do, too, where networks are compared of which each had so few `trainings`: another
    training would give other numbers, and the interval over images does not say by how much.
    """
    return images < ENOUGH_IMAGES or (trainings is not None and trainings < ENOUGH_TRAININGS)


def _counted(effect: Effect) -> str:
    """How many images, in blocks of seeds where there are such."""
    if effect.blocks is None:
        return str(effect.images)
    return f"{effect.blocks} x {effect.images // effect.blocks}"


def _interval(estimate: Estimate) -> str:
    """The mean and its interval, with as many decimals as the interval's width bears."""
    width = estimate.high - estimate.low
    digits = 2 if width == 0 or width >= 0.1 else 3 if width >= 0.01 else 4
    return f"{estimate:+.{digits}f}"


def markdown(claims: Iterable[Claim]) -> str:
    """Return the claims as a MyST table; a claim links to its page, and has its rule below it."""
    lines = ["| claim | published | here |", "| --- | --- | --- |"]
    for claim in claims:
        here = "<br>".join(_line(label, judge(claim, label)) for label in claim.readings)
        linked = f"{{doc}}`{claim.claim} <{claim.page}>`<br>rule: {claim.rule}"
        lines.append(f"| {linked} | {_published(claim)} | {here} |")
    return "\n".join(lines)


def _published(claim: Claim) -> str:
    """Who says so and where, and what the rule makes of each number in their table."""
    if not claim.where:
        return "this book"
    source = f"{{cite:t}}`{claim.source}`, {claim.where}" if claim.source else claim.where
    said = (_line(label, published(claim, label)) for label in claim.published)
    return "<br>".join((source, *said))


def _line(label: str, verdict: Verdict) -> str:
    answer = f"**{verdict.summary}**" + " provisionally" * verdict.provisional
    return f"{f'*{label}*: ' if label else ''}{answer}: {verdict.words}"
