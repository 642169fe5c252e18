"""Claims: verdicts follow the ledger's rows, and every claim leads to its source and page."""

import re
from pathlib import Path

import pytest

from ppap_lib import claims, ledger
from ppap_lib.bootstrap import Estimate
from ppap_lib.claims import CLAIMS, UNKNOWN
from ppap_lib.studies import guidance, noise, reading

BOOK = Path(__file__).parents[1] / "book"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))


def guided(method, judge, guide=()):
    made = guidance.Guidance.with_weights(method=method, n=len(judge))
    results = {"judge_correct": list(judge), "guide_correct": list(guide or judge)}
    ledger.record(guidance.STUDY, made.recorded(), results, seconds=1.0)


def tweaked(tweak, seed, kid, **more):
    made = noise.Noise.with_weights(tweak=tweak, first_seed=seed, **more)
    ledger.record(noise.STUDY, made.recorded(), {"kid": kid}, seconds=1.0)


def test_without_rows_nothing_is_claimed(empty):
    assert {claim.judge() for claim in CLAIMS} == {UNKNOWN}


def test_a_difference_holds_only_where_its_interval_excludes_zero():
    assert claims.of_difference(Estimate(0.2, 0.1, 0.3), "x").answer == "holds"
    assert claims.of_difference(Estimate(-0.2, -0.3, -0.1), "x").answer == "does not hold"
    unsure = claims.of_difference(Estimate(0.2, -0.1, 0.5), "accuracy")
    assert unsure == ("cannot be told", "accuracy +0.20 [-0.10, +0.50]")


def test_methods_are_judged_on_the_same_seeds(empty):
    guided("naive", [0] * 30)
    assert claims.guides_better("x0_through", "naive") == UNKNOWN
    guided("x0_through", [1] * 25 + [0] * 5)
    assert claims.guides_better("x0_through", "naive").answer == "holds"
    assert claims.guides_better("naive", "x0_through").answer == "does not hold"
    guided("none", [0, 1] * 15)
    assert claims.guides_better("none", "none").answer == "cannot be told"


def test_a_guide_that_believes_more_than_the_judge_is_deceived(empty):
    guided("x0_fixed", [0] * 20, guide=[1] * 20)
    assert claims.is_deceived("x0_fixed").answer == "holds"
    guided("naive", [0, 1] * 10)
    assert claims.is_deceived("naive").answer == "cannot be told"


def test_a_tweak_harms_if_it_does_in_every_repeat(empty):
    for seed, kid in ((0, 0.1), (66, 0.12)):
        tweaked("one_z", seed, kid)
        tweaked("two_z", seed, kid + 0.01)
        tweaked("start", seed, kid - 0.01)
    tweaked("end", 0, 0.5)
    tweaked("end", 66, 0.05)
    tweaked("end", 0, 0.0, steps=250)  # another number of steps is another question
    tweaked("one_z", 132, 0.1)
    tweaked("two_z", 132, 0.0, n=70)  # another n is never compared
    assert claims.tweak_harms("two_z").answer == "holds"
    assert claims.tweak_harms("start").answer == "does not hold"
    assert claims.tweak_harms("end").answer == "cannot be told"
    assert claims.tweak_harms("end", 250) == UNKNOWN  # nothing to compare it with
    tweaked("one_z", 0, 0.2, steps=250)
    assert claims.tweak_harms("end", 250).answer == "cannot be told"  # one repeat has no spread


@pytest.mark.parametrize(
    ("entropy", "answer"), [([0.1, 2.0, 3.0], "holds"), ([0.1, 5.0, 4.9], "does not hold")]
)
def test_entropy_rises_if_its_end_is_its_top(empty, entropy, answer):
    made = reading.photographs()
    ledger.record(reading.STUDY, made.recorded(), {"entropy": entropy}, seconds=1.0)
    assert claims.entropy_rises().answer == answer


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.sentence[:40])
def test_every_claim_leads_somewhere(claim):
    keys = re.findall(r"@\w+\{(\w+),", (BOOK / "references.bib").read_text("utf8"))
    assert not claim.source or claim.source in keys
    assert f"file: {claim.page}" in (BOOK / "_toc.yml").read_text("utf8")
    assert claim.sentence.endswith(".")


def test_the_table_has_a_line_per_claim_and_no_broken_cell():
    lines = claims.markdown().splitlines()
    assert len(lines) == 2 + len(CLAIMS) and {line.count("|") for line in lines} == {5}
