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
"""The same of images, where no seeds are drawn in blocks."""


def published(claim: Claim) -> Verdict | None:
    """What the published table says of the claim by its own rule; None where there is none.

    Of a number in other units than ours the sign decides: any bound is zero. Raises `StudyError`
    where the table has no such number.
    """
    if claim.published is None:
        return None
    measure = MEASURES[claim.metric]
    try:
        value = measure.theirs(**claim.looked_up)
    except KeyError as error:
        raise StudyError(f"{claim.id}: the published table has no {error}") from error
    except PpapError as error:
        raise StudyError(f"{claim.id}: {error}") from error
    words = f"{measure.their_title} {value:+.2f}"
    if not measure.same_units:
        signs = {end: 0.0 for end in ("above", "below") if getattr(claim, end) is not None}
        claim = replace(claim, **signs)
    return claim.of(Estimate(value, value, value))._replace(words=words)


def judge(claim: Claim, reading: str = "") -> Verdict:
    """What the ledger's rows say of the claim, by the weights that ship now.

    `reading` is a label of `claim.also`. Raises `StudyError` where the claim names a method, a
    solver or anything else that there is not.
    """
    measure = MEASURES[claim.metric]
    try:
        found = measure.ours(**claim.readings[reading])
    except PpapError as error:
        raise StudyError(f"{claim.id}: {error}") from error
    if isinstance(found, NoEffect):
        return Verdict("undecided", found.reason)
    number = f"{measure.title or found.unit} {_interval(found.estimate)}"
    words = f"{number}, n = {_counted(found)}"
    if found.images < claim.at_least:
        return Verdict("undecided", f"{words}: fewer than {claim.at_least} images")
    verdict = claim.of(found.estimate)
    few = provisional(found.images, found.blocks) and verdict.answer != "undecided"
    return verdict._replace(words=words, provisional=few)


def provisional(images: int, blocks: int | None = None) -> bool:
    """Whether so many images, in so many blocks of seeds if in any, decide provisionally only."""
    return images < ENOUGH_IMAGES if blocks is None else blocks < ENOUGH_BLOCKS


def _counted(found: Effect) -> str:
    """How many images, in blocks of seeds where there are such."""
    if found.blocks is None:
        return str(found.images)
    return f"{found.blocks} x {found.images // found.blocks}"


def _interval(estimate: Estimate) -> str:
    """The mean and its interval, with as many decimals as the interval's width bears."""
    width = estimate.high - estimate.low
    digits = 2 if width == 0 or width >= 0.1 else 3 if width >= 0.01 else 4
    return f"{estimate:+.{digits}f}"


def markdown(claims: Iterable[Claim]) -> str:
    """The claims as a MyST table; a claim links to its page, and has its rule below it."""
    lines = ["| claim | published | here |", "| --- | --- | --- |"]
    for claim in claims:
        here = "<br>".join(_line(label, judge(claim, label)) for label in claim.readings)
        said = f"{{doc}}`{claim.claim} <{claim.page}>`<br>rule: {claim.rule}"
        lines.append(f"| {said} | {_published(claim)} | {here} |")
    return "\n".join(lines)


def _published(claim: Claim) -> str:
    """Who says so, and what the rule makes of their table."""
    unsigned = "this book" if claim.published is None else "an unsigned table"
    source = f"{{cite:t}}`{claim.source}`" if claim.source else unsigned
    found = published(claim)
    return source if found is None else f"{source}: {found.told}, {found.words}"


def _line(label: str, verdict: Verdict) -> str:
    answer = f"**{verdict.told}**" + " provisionally" * verdict.provisional
    return f"{f'*{label}*: ' if label else ''}{answer}: {verdict.words}"
