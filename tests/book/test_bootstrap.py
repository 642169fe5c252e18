"""Bootstrap intervals: coverage, pairing, and what they refuse."""

import math

import pytest
import torch

from ppap_book.errors import StudyError
from ppap_book.statistics import bootstrap


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(300):
        values = torch.rand(60, generator=generator, dtype=torch.float64)
        found = bootstrap.mean(values, level=0.9, resamples=400, seed=seed)
        covered += found.low <= 0.5 <= found.high
    assert 255 <= covered <= 285  # 270 expected; binomial standard deviation 5.2


@pytest.mark.parametrize("n", [10, 20])
def test_intervals_of_few_normal_values_are_students(n):
    """Plain percentiles are a tenth narrower than that at n = 20, a fifth at 10."""
    generator = torch.Generator().manual_seed(4)
    student = {10: 2.262, 20: 2.093}[n]
    ratios = []
    for seed in range(40):
        values = torch.randn(n, generator=generator, dtype=torch.float64)
        found = bootstrap.mean(values, seed=seed)
        ratios.append((found.high - found.low) / (2 * student * float(values.std()) / n**0.5))
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.03)


def test_the_width_is_that_of_the_central_limit():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = bootstrap.mean(values)
    expected = 2 * 1.96 * float(values.std()) / math.sqrt(len(values))
    assert found.high - found.low == pytest.approx(expected, rel=0.06)
    assert found.mean == pytest.approx(float(values.mean()), abs=1e-15)


def test_pairing_removes_what_both_share():
    shared = 100 * torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = bootstrap.difference(shared + 1, shared)
    assert found.low == pytest.approx(1) == found.high and found.sign == 1
    assert bootstrap.difference(shared, shared + 1).sign == -1
    assert bootstrap.mean(shared - shared.mean()).sign == 0


def test_a_share_is_the_ratio_of_means_and_exact_where_images_agree():
    whole = [1.0, 2.0, 6.0]
    half = bootstrap.ratio([0.5, 1.0, 3.0], whole)
    assert half == pytest.approx((0.5, 0.5, 0.5))
    other = bootstrap.ratio([3.0, 0.0, 0.0], whole)
    assert other.mean == pytest.approx(1 / 3) and other.low < 1 / 3 < other.high
    with pytest.raises(StudyError, match="the whole has mean 0, .* no share"):
        bootstrap.ratio([1.0, 2.0], [1.0, -1.0])
    with pytest.raises(StudyError, match="in some resamples none or one of the other sign"):
        bootstrap.ratio([1.0, 2.0, 2.0], [2.0, -1.0, 0.0])


@pytest.mark.parametrize("errors", [6, 30])
def test_a_share_of_an_unsure_whole_has_fieller_s_interval(errors):
    """Independent normal parts and wholes, the whole's mean so many standard errors from zero."""
    generator = torch.Generator().manual_seed(4)
    part, whole = (torch.randn(2000, generator=generator, dtype=torch.float64) for _ in range(2))
    whole += errors * float(whole.std()) / 2000**0.5 - float(whole.mean())
    part += 2 * float(whole.mean()) - float(part.mean())
    found = bootstrap.ratio(part, whole)
    a, b = float(part.mean()), float(whole.mean())
    caa, cbb, cab = (
        float(c) / 2000 for c in (part.var(), whole.var(), torch.stack((part, whole)).cov()[0, 1])
    )
    z = 1.96
    root = ((a * b - z**2 * cab) ** 2 - (a**2 - z**2 * caa) * (b**2 - z**2 * cbb)) ** 0.5
    low, high = ((a * b - z**2 * cab + sign * root) / (b**2 - z**2 * cbb) for sign in (-1, 1))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_the_seed_decides():
    values = torch.rand(9, generator=torch.Generator().manual_seed(3))
    assert bootstrap.mean(values, seed=1) == bootstrap.mean(values, seed=1)
    assert bootstrap.mean(values, seed=1) != bootstrap.mean(values, seed=2)


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]]])
def test_values_without_an_interval_are_refused(values):
    with pytest.raises(StudyError, match="at least two values"):
        bootstrap.mean(values)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_values_that_are_no_numbers_are_refused(broken):
    with pytest.raises(StudyError, match="1 of 3 values are NaN or infinite"):
        bootstrap.mean([1.0, broken, 2.0])


def test_bad_levels_and_unpaired_images_are_refused():
    with pytest.raises(StudyError, match="between 0 and 1, not 95"):
        bootstrap.mean([0.0, 1.0], level=95)
    for compare in (bootstrap.difference, bootstrap.ratio):
        for other in ([0.0, 1.0, 2.0], [1.0]):  # the second would broadcast
            with pytest.raises(StudyError, match="the same images"):
                compare([0.0, 1.0], other)


def test_a_format_is_that_of_every_number():
    found = bootstrap.Estimate(0.123, -0.04, 0.9)
    assert f"{found:+.2f}" == "+0.12 [-0.04, +0.90]" and f"{found:.0%}" == "12% [-4%, 90%]"
    assert f"{found}" == str(found)


def test_intervals_of_many_are_as_wide_as_bonferroni_says():
    """Normal quantiles at 1 - 0.025 / 20 and 1 - 0.025: 3.023 and 1.960."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    one, many = (bootstrap.mean(values, **bootstrap.bonferroni(n)) for n in (1, 20))
    ratio = (many.high - many.low) / (one.high - one.low)
    assert ratio == pytest.approx(3.023 / 1.960, rel=0.07)


def test_a_difference_of_ratios_is_that_of_the_means_and_covers_what_it_estimates():
    """Of two pairs whose ratios are alike it covers zero as often as it says."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        wholes = 1 + torch.rand(2, 60, generator=generator).double()
        parts = wholes * (0.4 + 0.2 * torch.rand(2, 60, generator=generator).double())
        found = bootstrap.ratio_difference(parts[0], wholes[0], parts[1], wholes[1], resamples=500)
        a, b = (float(p.mean() / w.mean()) for p, w in zip(parts, wholes, strict=True))
        assert found.mean == pytest.approx(a - b)
        covered += found.sign == 0
    assert 181 <= covered <= 199  # of 190 expected, three standard errors
    same = bootstrap.ratio_difference(parts[0], wholes[0], parts[0], wholes[0])
    assert same == (0, 0, 0)


def test_shares_of_what_may_be_nothing_are_refused():
    one = [1.0, 2.0]
    with pytest.raises(StudyError, match="some image's whole is not"):
        bootstrap.ratio_difference(one, one, one, [1.0, 0.0])
    with pytest.raises(StudyError, match="the same images on both sides: 2 and 3"):
        bootstrap.ratio_difference(one, one, [1.0] * 3, [1.0] * 3)
