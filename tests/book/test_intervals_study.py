"""Guidance within some intervals: which runs there are, what they change, how rows are pooled."""

import math

import pytest
import torch

from ppap_book import ledger
from ppap_book.studies import guidance, intervals
from ppap_book.studies.intervals import IntervalRun
from ppap_lib.errors import InputError


@pytest.fixture
def quick(two_steps, monkeypatch, tmp_path):
    """Two steps, at t = 999 and 0, and a ledger of its own."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    intervals._without_guidance.cache_clear()
    yield
    intervals._without_guidance.cache_clear()


def test_the_spans_are_each_alone_and_both_ways_of_adding_up():
    found = intervals.spans(5)
    assert len(found) == len(set(found)) == 5 + 4 + 3  # the full one ends both ways
    assert {(k, k) for k in range(1, 6)} | {(2, 5), (1, 3), (1, 5)} <= set(found)
    assert intervals.spans(1) == [(1, 1)]


@pytest.mark.parametrize("n", [1, 5, 7])
def test_intervals_alone_cover_all_timesteps_once(n):
    ranges = [
        IntervalRun(method="naive", n_intervals=n, first=k, last=k).during for k in range(1, n + 1)
    ]
    assert ranges[0][0] == 0 and ranges[-1][1] == 1000
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    assert IntervalRun(method="naive", n_intervals=n, first=1, last=n).during == (0, 1000)


@pytest.mark.parametrize(("first", "last"), [(3, 2), (1, 6), (6, 6)])
def test_intervals_that_do_not_exist_are_refused(first, last):
    with pytest.raises(InputError, match=f"not first {first}, last {last} of 5"):
        IntervalRun(method="naive", first=first, last=last)


def test_guidance_acts_where_it_was_told_to(quick):
    def drawn(**values):
        return intervals.draw(IntervalRun(method="naive", n=2, scale=20.0, **values))

    plain = intervals.draw(IntervalRun(method="none", n=2))
    whole = guidance.draw(guidance.Guidance(method="naive", n=2, scale=20.0))
    assert torch.equal(drawn(first=2, last=4), plain)  # no step of the grid lies there
    assert torch.equal(drawn(), whole)
    noisy, clean = drawn(first=5), drawn(last=1)
    assert not any(torch.equal(a, b) for a in (noisy, clean) for b in (whole, plain))


@pytest.mark.parametrize("method", ["naive", "x0_through"])
def test_an_image_does_not_depend_on_which_ranges_are_drawn(quick, method):
    params = IntervalRun(method=method, n=2, scale=20.0)
    ranges = [(0, 1000), (0, 200), (800, 1000), (200, 800)]
    found = intervals.draw_ranges(params, ranges)
    for images, during in zip(found, ranges, strict=True):
        assert torch.equal(images, intervals.draw_ranges(params, [during])[0])
    assert not torch.equal(found[0], found[1])


def test_ranges_are_drawn_as_the_study_draws(quick):
    params = IntervalRun(method="naive", n=2, scale=20.0)
    (found,) = intervals.draw_ranges(params, [(0, 200)])
    expected = guidance.draw(params, during=(0, 200))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_change_is_layout_below_the_cutoff_and_detail_above():
    x = torch.arange(32) / 32
    waves = [torch.cos(2 * math.pi * k * x).expand(1, 1, 32, 32) for k in (3, 8)]
    plain = torch.rand(1, 1, 32, 32) - 0.5
    found = intervals.changes(plain + 0.2 * waves[0] + 0.1 * waves[1], plain)
    assert found["layout"] == pytest.approx([0.2**2 / 2], rel=1e-4)
    assert found["detail"] == pytest.approx([0.1**2 / 2], rel=1e-4)
    assert intervals.changes(plain, plain) == {"layout": [0.0], "detail": [0.0]}


def test_rows_are_pooled_over_whole_blocks(quick):
    runs = intervals.grid("naive", n=2, blocks=2, n_intervals=2)
    assert len(runs) == 2 * 4 and len({run.first_seed for run in runs}) == 2
    intervals.STUDY.record(runs[:6], tell=lambda line: None)
    found, missing = intervals.effects(runs)
    assert missing == 2 and set(found) == {None, (1, 1), (2, 2), (1, 2)}
    assert all(len(effect.judge) == 2 for effect in found.values())  # the torn block is left out
    assert found[None].layout == [0.0, 0.0] and found[None].guide == []
    whole = found[1, 2]
    assert len(whole.guide) == 2 and min(whole.layout + whole.detail) > 0

    told = []
    intervals.STUDY.record(runs, tell=told.append)
    assert len(told) == 2 and "intervals 2 to 2" in told[0]
    assert intervals.effects(runs)[1] == 0
    assert len(intervals.effects(runs)[0][1, 2].judge) == 4


def test_without_guidance_there_is_one_row_for_all_methods_and_intervals():
    rows = [
        ledger.digest(IntervalRun(method=method, scale=scale, last=last).recorded())
        for method, scale, last in (("none", 1.0, 5), ("none", 7.5, 2), ("naive", 7.5, 2))
    ]
    assert rows[0] == rows[1] != rows[2]
