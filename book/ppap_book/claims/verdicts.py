"""Verdicts on claims: by the published table, and by the ledger."""

from collections.abc import Iterable
from dataclasses import replace

from ppap_book.claims.measures import MEASURES, Effect, NoEffect
from ppap_book.claims.register import Claim, Verdict
from ppap_book.errors import StudyError
from ppap_book.statistics.bootstrap import Estimate
from ppap_book.statistics.comparisons import ENOUGH_BLOCKS
from ppap_lib.errors import PpapError

ENOUGH_IMAGES = 100
"""Images from which on a verdict is more than provisional, where no seeds are drawn in blocks."""


def published(claim: Claim) -> Verdict | None:
    """Return the published table's verdict on the claim by its own rule; None without a table.

    Of a number in other units than ours the sign decides: any bound is zero. Raises `StudyError`
    where the table has no such number.
    """
    if claim.published is None:
        return None
    measure = MEASURES[claim.metric]
    try:
        value = measure.theirs(**claim.lookup)
    except KeyError as error:
        raise StudyError(f"{claim.id}: the published table has no {error}") from error
    except PpapError as error:
        raise StudyError(f"{claim.id}: {error}") from error
    words = f"{measure.their_title} {value:+.2f}"
    if not measure.same_units:
        signs = {end: 0.0 for end in ("above", "below") if getattr(claim, end) is not None}
        claim = replace(claim, **signs)
    return claim.decide(Estimate(value, value, value))._replace(words=words)


def judge(claim: Claim, reading: str = "") -> Verdict:
    """Return the ledger's verdict on the claim, by the weights that ship now.

    `reading` is a label of `claim.also`. Raises `StudyError` where the claim names a method, a
    solver or anything else that there is not.
    """
    measure = MEASURES[claim.metric]
    try:
        effect = measure.ours(**claim.readings[reading])
    except PpapError as error:
        raise StudyError(f"{claim.id}: {error}") from error
    if isinstance(effect, NoEffect):
        return Verdict("undecided", effect.reason)
    number = f"{measure.title or effect.unit} {_interval(effect.estimate)}"
    words = f"{number}, n = {_counted(effect)}"
    if effect.images < claim.at_least:
        return Verdict("undecided", f"{words}: fewer than {claim.at_least} images")
    verdict = claim.decide(effect.estimate)
    few = provisional(effect.images, effect.blocks) and verdict.answer != "undecided"
    return verdict._replace(words=words, provisional=few)


def provisional(images: int, blocks: int | None = None) -> bool:
    """Whether so many images, in so many blocks of seeds if in any, decide provisionally only."""
    return images < ENOUGH_IMAGES if blocks is None else blocks < ENOUGH_BLOCKS


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
    """Who says so, and what the rule makes of their table."""
    unsigned = "this book" if claim.published is None else "an unsigned table"
    source = f"{{cite:t}}`{claim.source}`" if claim.source else unsigned
    verdict = published(claim)
    return source if verdict is None else f"{source}: {verdict.summary}, {verdict.words}"


def _line(label: str, verdict: Verdict) -> str:
    answer = f"**{verdict.summary}**" + " provisionally" * verdict.provisional
    return f"{f'*{label}*: ' if label else ''}{answer}: {verdict.words}"
