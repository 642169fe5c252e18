"""Every row of the book's ledger is where its parameters say, and its study still knows it."""

import json

import pytest
from places import ROOT

from ppap_book import ledger
from ppap_book.run import STUDIES

RESULTS = ROOT / "book" / "results"
DIGESTS = {"denoiser_sha256", "judge_sha256", "guide_sha256", "sha256", "weights"}
"""Recorded keys that change when other weights ship."""


def test_no_row_is_lost():
    files = list(RESULTS.rglob("*.json"))
    assert len(files) >= 1219 and ledger.studies(RESULTS) == sorted(STUDIES)
    assert len(files) == sum(len(ledger.rows(study, RESULTS)) for study in STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_a_row_is_found_under_the_digest_of_what_its_study_records(study):
    for row in ledger.rows(study, RESULTS):
        params = row["params"]
        assert ledger.find(study, params, RESULTS) == row
        recorded = json.loads(json.dumps(STUDIES[study].rebuilt(params).recorded()))
        differing = {name for name in params if recorded.get(name) != params[name]}
        assert recorded.keys() == params.keys() and differing <= DIGESTS, params
