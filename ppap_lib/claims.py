"""Claims of the published work, each with a verdict that ledger rows decide.

A claim is a sentence, where it was made, the page that has the details, and a function that
reads the ledger. Nothing here holds a number: a new row may turn a verdict.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from ppap_lib import bootstrap, ledger, zoo
from ppap_lib.bootstrap import Estimate
from ppap_lib.studies import guidance, noise, outcome, reading, standings
from ppap_lib.studies.samplers import STUDY as SAMPLERS

Answer = Literal["holds", "does not hold", "cannot be told", "not measured yet"]


class Verdict(NamedTuple):
    """What the ledger says of a claim, and the numbers it says it by."""

    answer: Answer
    words: str = ""


UNKNOWN = Verdict("not measured yet")


@dataclass(frozen=True)
class Claim:
    """A sentence that was published, or is widely believed, and how it is judged here.

    `source` is a key of the bibliography, empty for what its page tells of; `page` is a file of
    the book without its ending.
    """

    sentence: str
    source: str
    page: str
    judge: Callable[[], Verdict]


def _answer(sign: int) -> Answer:
    """The answer by the sign that is sure: 1, -1, or 0 for neither."""
    return {1: "holds", -1: "does not hold", 0: "cannot be told"}[sign]


def of_difference(found: Estimate, what: str) -> Verdict:
    """The verdict on 'larger than zero' by an interval over images."""
    words = f"{what} {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return Verdict(_answer(found.sign), words)


def guides_better(
    better: str, worse: str, guide: str = "resnet18", sampler: str = "ddim25"
) -> Verdict:
    """Whether one method reaches a higher judge accuracy than another, on the same seeds.

    At the published scale.
    """
    found = outcome.outcomes(ledger.rows(guidance.STUDY))
    pair = [outcome.pick(found, method, guide, sampler) for method in (better, worse)]
    if None in pair:
        return UNKNOWN
    return of_difference(outcome.compare(*pair), "judge accuracy")


def is_deceived(method: str, guide: str = "resnet18", sampler: str = "ddim25") -> Verdict:
    """Whether the guide believes in more of its own images than the judge does."""
    found = outcome.pick(outcome.outcomes(ledger.rows(guidance.STUDY)), method, guide, sampler)
    if found is None:
        return UNKNOWN
    pair = [list(verdicts.values()) for verdicts in (found.guide, found.judge)]
    return of_difference(bootstrap.difference(*pair), "the guide's accuracy minus the judge's")


def entropy_rises() -> Verdict:
    """Whether the off-the-shelf classifier's entropy never falls as noise grows."""
    row = ledger.find(reading.STUDY, reading.photographs().recorded())
    if row is None:
        return UNKNOWN
    entropy = row["results"]["entropy"]
    rises = all(a <= b for a, b in pairwise(entropy))
    words = f"highest {max(entropy):.2f} nats, on nearly pure noise {entropy[-1]:.2f}"
    return Verdict(_answer(1 if rises else -1), words)


def tweak_harms(tweak: str, steps: int = 25) -> Verdict:
    """Whether a tweak of the sampler worsens KID in every repeat, clipped as usual."""
    kid: dict[str, dict[tuple[int, int], float]] = {}
    for row in ledger.rows(noise.STUDY):
        p = row["params"]
        if p["clip"] and p["steps"] == steps and p["denoiser_sha256"] == _denoiser(p["tier"]):
            kid.setdefault(p["tweak"], {})[p["first_seed"], p["n"]] = row["results"]["kid"]
    plain, tweaked = kid.get("one_z", {}), kid.get(tweak, {})
    changes = [tweaked[block] - plain[block] for block in sorted(plain.keys() & tweaked.keys())]
    if not changes:
        return UNKNOWN
    words = f"KID {', '.join(f'{c:+.3f}' for c in changes)} in {len(changes)} repeat(s)"
    signs = {(c > 0) - (c < 0) for c in changes}
    # One repeat says nothing of how much repeats differ.
    sure = len(changes) > 1 and len(signs) == 1
    return Verdict(_answer(signs.pop() if sure else 0), words)


def solver_leads(better: str, worse: str, budget: int, grid: str = "uniform") -> Verdict:
    """Whether a solver has the lower KID at equal evaluations on a grid, without guidance."""
    found = standings.standings(ledger.rows(SAMPLERS))
    at = standings.chosen(found, method="none", budget=budget, grid=grid)
    if better not in at or worse not in at:
        return UNKNOWN
    gain = at[worse].minus(at[better], "kid")
    words = f"KID {-gain.mean:+.4f} [{-gain.high:+.4f}, {-gain.low:+.4f}]"
    return Verdict(_answer(gain.sign), words)


def _denoiser(tier: str) -> str | None:
    return zoo.card(f"{tier}/denoiser").sha256


_PPAP = "go2023ppap"
_GUIDANCE, _SOLVERS = "notebooks/06_guidance_ablation", "notebooks/09_accelerated_sampling"
_NOISE = "notebooks/08_noise_and_beta"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "A classifier off the shelf guides worse than experts on noisy images.",
        _PPAP,
        _GUIDANCE,
        partial(guides_better, "multi5", "naive"),
    ),
    Claim(
        "Reading the predicted clean image does not make up for that.",
        _PPAP,
        _GUIDANCE,
        partial(guides_better, "multi5", "x0_through"),
    ),
    Claim(
        "With the denoiser's prediction held fixed, a clean guide is deceived by its own images.",
        _PPAP,
        _GUIDANCE,
        partial(is_deceived, "x0_fixed"),
    ),
    Claim(
        "Five experts guide better than one noise-aware model.",
        _PPAP,
        _GUIDANCE,
        partial(guides_better, "multi5", "single"),
    ),
    Claim(
        "PPAP-5, trained without labels, guides better than the classifier off the shelf.",
        _PPAP,
        _GUIDANCE,
        partial(guides_better, "ppap5", "naive"),
    ),
    Claim(
        "PPAP-5 guides better than one noise-aware model.",
        _PPAP,
        _GUIDANCE,
        partial(guides_better, "ppap5", "single"),
    ),
    Claim(
        "Ten PPAP experts guide better than five.",
        _PPAP,
        _GUIDANCE,
        partial(guides_better, "ppap10", "ppap5"),
    ),
    Claim(
        "A classifier grows less sure, the more noise it sees.",
        "",
        "notebooks/03_entropy",
        entropy_rises,
    ),
    Claim(
        "A second draw of noise in every step worsens the images.",
        "",
        _NOISE,
        partial(tweak_harms, "two_z"),
    ),
    Claim(
        "Doubling the last beta in the sampler alone ruins the images.",
        "",
        _NOISE,
        partial(tweak_harms, "end"),
    ),
    Claim(
        "DPM-Solver++(2M) is better than DDIM at 10 evaluations, even in log-SNR.",
        "lu2022dpmsolverpp",
        _SOLVERS,
        partial(solver_leads, "dpmpp_2m", "ddim", 10, "log_snr"),
    ),
    Claim(
        "The same on a grid even in time.",
        "",
        _SOLVERS,
        partial(solver_leads, "dpmpp_2m", "ddim", 10),
    ),
    Claim(
        "DDIM without noise is better than with DDPM's noise at 10 evaluations.",
        "song2021ddim",
        _SOLVERS,
        partial(solver_leads, "ddim", "ddim_1", 10),
    ),
)


def markdown(claims: Iterable[Claim] = CLAIMS) -> str:
    """The claims as a MyST table, with links to their pages and sources."""
    lines = ["| claim | verdict | by | details |", "| --- | --- | --- | --- |"]
    for claim in claims:
        answer, words = claim.judge()
        source = f" {{cite:p}}`{claim.source}`" if claim.source else ""
        lines.append(
            f"| {claim.sentence}{source} | **{answer}** | {words} | {{doc}}`{claim.page}` |"
        )
    return "\n".join(lines)
