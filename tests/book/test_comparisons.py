"""Comparisons: paired on shared seeds, signed by what is better, honest about small gains."""

import pytest
import torch

from ppap_book.errors import StudyError
from ppap_book.statistics import bootstrap
from ppap_book.statistics.comparisons import (
    COLUMNS,
    Comparison,
    Pooled,
    aligned,
    matching,
    pool,
    recovered_fraction,
)

N = 40


def waves(shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (shift + 0.01 * torch.randn(N, generator=generator)).tolist()


def row(first_seed=0, name="one", n=N, **results):
    return {
        "params": {"name": name, "n": n, "first_seed": first_seed},
        "results": results,
        "seconds": 1.0,
    }


def setting(*rows) -> Pooled:
    (one,) = pool(rows, lambda params: True)
    return one


def judged(right, first_seed=0, name="one"):
    """A row whose first `right` images the judge finds right."""
    return row(first_seed, name, judge_correct=[int(i < right) for i in range(N)])


def distant(kid, first_seed=0, name="one", seed=0):
    """A row of a KID, to which images contribute unevenly."""
    return row(first_seed, name, kid=kid, witness=waves(kid / 2, seed))


def test_a_difference_is_paired_on_the_blocks_that_both_have():
    a = setting(judged(30), judged(10, first_seed=N))
    b = setting(judged(20, name="other"), judged(40, first_seed=2 * N, name="other"))
    pair = Comparison(a, b, "judge")
    assert pair.blocks == [0] and pair.images == N and pair.recorded
    expected = bootstrap.difference(a.by_image("judge", [0]), b.by_image("judge", [0]))
    assert pair.difference() == pair.gain() == expected and expected.mean == 10 / N


def test_a_gain_is_better_where_lower_is_better_too():
    worse, better = setting(distant(0.3)), setting(distant(0.2, name="other", seed=1))
    pair = Comparison(better, worse, "kid")
    assert pair.difference().mean == pytest.approx(-0.1)
    gain, back = pair.gain(), Comparison(worse, better, "kid").difference()
    assert gain == back and gain.mean == pytest.approx(0.1) and gain.sign == 1


def test_the_interval_of_a_distance_lies_around_the_distances_themselves():
    """Images contribute to how a distance moves, and their mean is not its value."""
    a, b = setting(distant(0.3)), setting(distant(0.2, name="other", seed=1))
    moved = a.rows[0]["results"]["witness"]
    a.rows[0]["results"]["witness"] = [w + 5 for w in moved]
    found = Comparison(a, b, "kid").difference()
    assert found.low < 0.1 < found.high and found.mean == pytest.approx(0.1)


def test_gains_of_images_have_the_mean_of_the_gain():
    for column, a, b in (
        ("judge", setting(judged(30)), setting(judged(20, name="other"))),
        ("kid", setting(distant(0.2)), setting(distant(0.3, name="other", seed=1))),
    ):
        pair = Comparison(a, b, column)
        assert float(pair.gains().mean()) == pytest.approx(pair.gain().mean)


def test_many_comparisons_together_have_wider_intervals():
    pair = Comparison(setting(judged(30)), setting(judged(20, name="other")), "judge")
    one, ten = pair.difference(), pair.difference(10)
    assert ten.mean == one.mean and ten.high - ten.low > one.high - one.low


def test_a_column_of_real_images_widens_the_interval():
    def recalled(name, covered):
        seed = sum(covered)
        return setting(
            row(name=name, recall=sum(covered) / N, covered=covered, recalled=waves(0.5, seed))
        )

    assert COLUMNS["recall"].of_real
    halves = [int(i < N // 2) for i in range(N)], [int(i >= N // 2) for i in range(N)]
    same = Comparison(recalled("one", halves[0]), recalled("other", halves[0]), "recall")
    apart = Comparison(recalled("one", halves[0]), recalled("other", halves[1]), "recall")
    widths = [found.high - found.low for found in (same.difference(), apart.difference())]
    assert widths[1] > widths[0] + 0.1


def test_what_shares_no_block_is_no_comparison():
    a, b = setting(judged(30)), setting(judged(20, first_seed=N, name="other"))
    with pytest.raises(StudyError, match="share no block of seeds"):
        Comparison(a, b, "judge")
    with pytest.raises(StudyError, match="share no block of seeds"):
        Comparison(a, a, "judge", blocks=[])
    assert Comparison.of([a], [b], "judge") is None
    assert Comparison.of([a], [], "judge") is None


def test_a_column_that_rows_lack_is_not_recorded():
    pair = Comparison(setting(judged(30)), setting(judged(20, name="other")), "kid")
    assert not pair.recorded


def test_sides_are_paired_where_most_is_shared():
    """Three blocks count for no more than one that is longer: seeds are independent."""
    short = [judged(20, N * k, name) for name in ("one", "other") for k in range(3)]
    for longer, n in ((2, N), (8, 8 * N)):
        long = [
            row(0, name, longer * N, judge_correct=[1] * longer * N) for name in ("one", "other")
        ]
        found = pool(long + short, lambda params: True)
        sides = [matching(found, name=name) for name in ("one", "other")]
        pair = Comparison.of(*sides, "judge")
        assert pair.a.params["n"] == pair.b.params["n"] == n
        assert pair.images == max(3, longer) * N
    with pytest.raises(StudyError, match="differ in more than length"):
        aligned([setting(judged(1)), setting(judged(1, name="other"))])


def test_a_recovered_fraction_is_of_the_images_of_all_three():
    none, whole = (
        setting(judged(right, name=name), judged(0, N, name))
        for name, right in (("none", 4), ("whole", 36))
    )
    part = setting(judged(20, name="part"))
    found = recovered_fraction(part, whole, none)
    assert found.mean == pytest.approx(0.5) and found.low < 0.5 < found.high
    assert recovered_fraction(part, none, none) is None  # nothing to recover


def test_a_gain_of_a_few_standard_errors_has_no_fractions():
    none, part, whole = (
        setting(judged(right, name=name))
        for name, right in (("none", 4), ("part", 6), ("whole", 8))
    )
    assert (
        Comparison(whole, none, "judge").gain().sign == 1
        and recovered_fraction(part, whole, none) is None
    )


def test_blocks_that_overlap_are_not_independent():
    with pytest.raises(StudyError, match="overlap"):
        setting(judged(1), judged(1, first_seed=N // 2))
