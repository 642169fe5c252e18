"""Every row of the book's ledger is where its parameters say, and its study still knows it."""

import json
from dataclasses import fields

import pytest
from places import ROOT

from ppap_book import ledger
from ppap_book.run import STUDIES
from ppap_book.studies.samplers import Sampling

RESULTS = ROOT / "book" / "results"
DIGESTS = {"denoiser_sha256", "judge_sha256", "guide_sha256", "sha256", "weights"}
"""Recorded keys that change when other weights ship."""

UNGUIDED = {"guide", "scale", "n_intervals", "first", "last"}
"""Recorded as nothing where nothing guides, whatever a run says of them."""


def rebuilt(kind, params):
    """What a run made from a row's parameters is recorded as."""
    names = {field.name for field in fields(kind)} - (
        UNGUIDED if params.get("method") == "none" else set()
    )
    values = {name: params[name] for name in names & params.keys()}
    if kind is Sampling:  # recorded only where it is on
        values["lower_final"] = params.get("lower_final", False)
    return json.loads(json.dumps(kind.of(values).recorded()))


def test_no_row_is_lost():
    files = list(RESULTS.rglob("*.json"))
    assert len(files) >= 1219 and ledger.studies(RESULTS) == sorted(STUDIES)
    assert len(files) == sum(len(ledger.rows(study, RESULTS)) for study in STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_a_row_is_found_under_the_digest_of_what_its_study_records(study):
    for row in ledger.rows(study, RESULTS):
        params = row["params"]
        assert ledger.find(study, params, RESULTS) == row
        recorded = rebuilt(STUDIES[study].parameters, params)
        differing = {name for name in params if recorded.get(name) != params[name]}
        assert recorded.keys() == params.keys() and differing <= DIGESTS, params
