"""Entropy, information, calibration and separation of predictions: identities and refusals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppap_book.errors import StudyError
from ppap_book.measures.noisy_accuracy import (
    auroc,
    calibration_error,
    entropy,
    last_time_above,
    mutual_information,
    pairwise_auroc,
)
from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError


def predictions(n=200, classes=4, seed=0, sharp=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits.log_softmax(1), torch.arange(n) % classes


def sure(answers, classes):
    """Certain predictions of these classes."""
    log_p = torch.full((len(answers), classes), -math.inf, dtype=torch.float64)
    log_p[range(len(answers)), answers] = 0.0
    return log_p


class TestEntropy:
    def test_uniform_is_log_k_and_certainty_is_zero(self):
        uniform = torch.full((3, 7), -math.log(7))
        torch.testing.assert_close(entropy(uniform), torch.full((3,), math.log(7)).double())
        assert entropy(sure([0, 2], 3)).tolist() == [0, 0]

    def test_the_same_answer_to_all_images_tells_nothing(self):
        log_p, _ = predictions(1)
        assert mutual_information(log_p.expand(50, -1)) == pytest.approx(0, abs=1e-12)

    def test_a_certain_answer_of_its_own_for_every_image_tells_all(self):
        assert mutual_information(sure(range(8), 8)) == pytest.approx(math.log(8))

    @given(st.integers(0, 1000), st.floats(0.1, 10))
    def test_information_lies_between_zero_and_the_marginal_entropy(self, seed, sharp):
        log_p, _ = predictions(20, seed=seed, sharp=sharp)
        marginal = entropy(log_p.exp().mean(0, keepdim=True).log()).item()
        assert 0 <= mutual_information(log_p) <= marginal + 1e-9 <= math.log(4) + 1e-8


class TestCalibration:
    def test_equals_the_sum_over_bins(self):
        log_p, labels = predictions(333)
        confidence, answer = log_p.exp().max(1)
        total = 0.0
        for k in range(15):
            inside = (confidence >= k / 15) & (confidence < (k + 1) / 15)
            if inside.any():
                right = (answer == labels)[inside].double().mean()
                total += inside.double().mean() * (confidence[inside].mean() - right).abs()
        assert calibration_error(log_p, labels) == pytest.approx(float(total))

    def test_sure_and_right_is_zero_sure_and_wrong_is_one(self):
        log_p, labels = sure([0, 1, 2], 3), torch.tensor([0, 1, 2])
        assert calibration_error(log_p, labels) == 0
        assert calibration_error(log_p, labels.roll(1)) == 1

    def test_one_bin_is_confidence_against_accuracy(self):
        log_p, labels = predictions()
        confidence, answer = log_p.exp().max(1)
        gap = confidence.mean() - (answer == labels).double().mean()
        assert calibration_error(log_p, labels, bins=1) == pytest.approx(abs(gap.item()))

    @pytest.mark.parametrize("t", [50, 300, 700])
    def test_the_exact_posterior_is_calibrated(self, t):
        mixture = Mixture(torch.tensor([[-1.0], [0.0], [1.5]]), torch.tensor([0.3, 0.3, 0.3]))
        generator = torch.Generator().manual_seed(t)
        x0, labels = mixture.sample(40_000, generator)
        level = Schedule.linear().at(t)
        x_t = level.noised(x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64))
        log_p = mixture.log_posterior(x_t, level)
        # Each bin's standard error is at most 0.5 / sqrt(count); in sum under 0.5 sqrt(15 / n).
        assert calibration_error(log_p, labels) < 0.5 * math.sqrt(15 / 40_000)
        assert calibration_error((5 * log_p).log_softmax(1), labels) > 0.03  # too sure


class TestToldApart:
    def test_is_the_chance_of_a_pair_in_the_right_order(self):
        log_p, labels = predictions(60, 3)
        odds = log_p[:, 0] - log_p[:, 2]
        pairs = odds[labels == 0][:, None] > odds[labels == 2][None, :]
        assert auroc(log_p, labels, (0,), (2,)) == pytest.approx(pairs.double().mean().item())

    def test_extremes_and_ties(self):
        labels = torch.tensor([0, 0, 1, 1])
        right = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]).log()
        assert auroc(right, labels, (0,), (1,)) == 1  # though all are called class 0
        assert auroc(right.flip(0), labels, (0,), (1,)) == 0
        assert auroc(torch.full((4, 2), 0.5).log(), labels, (0,), (1,)) == 0.5

    def test_a_bias_towards_one_side_changes_nothing(self):
        log_p, labels = predictions()
        biased = (log_p + torch.tensor([3.0, 0, 0, 0])).log_softmax(1)
        found = [auroc(p, labels, (0,), (2,)) for p in (log_p, biased)]
        assert found[0] == pytest.approx(found[1])

    def test_groups_are_summed_and_sides_mirror(self):
        log_p, labels = predictions()
        merged = torch.stack([log_p[:, :2].logsumexp(1), log_p[:, 2:].logsumexp(1)], 1)
        found = auroc(log_p, labels, (0, 1), (2, 3))
        assert found == pytest.approx(auroc(merged, labels // 2, (0,), (1,)))
        assert found == pytest.approx(1 - auroc(log_p, 3 - labels, (0, 1), (2, 3)))

    def test_the_table_holds_every_pair(self):
        log_p, labels = predictions()
        table = pairwise_auroc(log_p, labels)
        assert torch.equal(table, table.T) and bool((table.diagonal() == 1).all())
        assert table[1, 3].item() == auroc(log_p, labels, (3,), (1,))

    @pytest.mark.parametrize(
        ("a", "b", "message"),
        [
            ((), (1,), "without overlap"),
            ((0, 1), (1, 2), "without overlap"),
            ((0,), (4,), "4 classes"),
        ],
    )
    def test_groups_that_cannot_be_told_apart_are_refused(self, a, b, message):
        with pytest.raises(StudyError, match=message):
            auroc(*predictions(), a, b)
        with pytest.raises(StudyError, match="no image"):
            auroc(predictions()[0], torch.zeros(200, dtype=torch.int64), (0,), (1,))


def test_the_last_time_above_a_level_is_read_between_the_times():
    times = torch.tensor([0.0, 100.0, 200.0, 300.0])
    values = torch.tensor([1.0, 0.9, 0.7, 0.8])
    assert last_time_above(times, values, 0.75) == pytest.approx(175)  # later ones do not count
    assert last_time_above(times, values, 0.5) == 300
    assert last_time_above(times, values.flip(0), 0.85) == -math.inf
    with pytest.raises(StudyError, match="one value per time"):
        last_time_above(times, values[:2], 0.5)
    with pytest.raises(StudyError, match=r"values at \[100.0\] are not finite"):
        last_time_above(times, values.where(times != 100, math.nan), 0.5)
    with pytest.raises(StudyError, match="times rise"):
        last_time_above(times.flip(0), values, 0.5)
    with pytest.raises(InputError, match="level must be a number, not nan"):
        last_time_above(times, values, math.nan)


@pytest.mark.parametrize(
    ("log_p", "labels", "message"),
    [
        (torch.zeros(5, 3), torch.zeros(5), "apply log_softmax"),
        (torch.zeros(5), torch.zeros(5), r"log p \[N, K\]"),
        (torch.zeros(0, 3), torch.zeros(0), "N > 0"),
        (sure([0, 1], 2), torch.zeros(3), "labels for 2 predictions"),
        (sure([0, 1], 2), torch.tensor([0, 2]), "2 classes, from 0: not 2"),
        (sure([0, 1], 2), torch.tensor([-1, 1]), "2 classes, from 0: not -1"),
        (sure([0, 1], 2), torch.tensor([0.0, 0.5]), "whole numbers, not torch.float32"),
        (sure([0, 1], 2), torch.tensor([False, True]), "whole numbers, not torch.bool"),
    ],
)
def test_what_is_no_prediction_is_refused(log_p, labels, message):
    with pytest.raises(StudyError, match=message):
        calibration_error(log_p, labels)
    with pytest.raises(StudyError, match="at least one bin"):
        calibration_error(*predictions(), bins=0)
