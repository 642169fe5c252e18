"""Verdicts on claims: by the published table, and by the ledger."""

from collections.abc import Iterable

from ppap_lib.bootstrap import Estimate
from ppap_lib.claims.measures import MEASURES
from ppap_lib.claims.register import Claim, Verdict


def published(claim: Claim) -> Verdict | None:
    """What the published table says of the claim by its own rule; None where there is none."""
    if claim.published is None:
        return None
    measure = MEASURES[claim.metric]
    value = measure.theirs(**claim.looked_up)
    words = f"{measure.their_title} {value:+.2f}"
    return Verdict(claim.of(Estimate(value, value, value)), words)


def judge(claim: Claim) -> Verdict:
    """What the ledger's rows say of the claim, by the weights that ship now."""
    measure = MEASURES[claim.metric]
    found = measure.ours(**claim.rows)
    if found is None:
        return Verdict("undecided", "nothing to compare yet")
    words = f"{measure.title} {_interval(found.estimate)}, n = {found.images}"
    if found.images < claim.at_least:
        return Verdict("undecided", f"{words}: fewer than {claim.at_least} images")
    return Verdict(claim.of(found.estimate), words)


def _interval(estimate: Estimate) -> str:
    """The mean and its interval, with as many decimals as the interval's width bears."""
    width = estimate.high - estimate.low
    digits = 2 if width == 0 or width >= 0.1 else 3 if width >= 0.01 else 4
    mean, low, high = (f"{value:+.{digits}f}" for value in estimate)
    return f"{mean} [{low}, {high}]"


def markdown(claims: Iterable[Claim]) -> str:
    """The claims as a MyST table, with links to their pages and sources."""
    lines = ["| claim | source | published | here | details |", "| --- | --- | --- | --- | --- |"]
    for claim in claims:
        theirs, (answer, words) = published(claim), judge(claim)
        unsigned = "this book" if claim.published is None else "an unsigned table"
        source = f"{{cite:t}}`{claim.source}`" if claim.source else unsigned
        said = "" if theirs is None else f"{theirs.answer}: {theirs.words}"
        lines.append(
            f"| {claim.claim} | {source} | {said} | **{answer}**: {words} | {{doc}}`{claim.page}` |"
        )
    return "\n".join(lines)
