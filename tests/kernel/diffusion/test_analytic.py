"""The yardsticks themselves, checked against each other and against plain definitions."""

import pytest
import torch

from ppap_lib.diffusion.analytic import Gaussian, Mixture, reference_trajectory
from ppap_lib.diffusion.levels import CLEAN
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import InputError

LINEAR = Schedule.linear()
LEVELS = [LINEAR.at(t) for t in (1, 250, 999)]


def hills():
    means = torch.tensor([[-1.0, 0.3], [0.5, 0.9], [0.1, -1.2]])
    return Mixture(means, [0.3, 0.15, 0.2], [0.5, 0.2, 0.3], [0, 1, 1])


def points(count=5, dims=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, dims, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("level", LEVELS, ids=["clean", "middle", "noisy"])
def test_eps_is_the_score(level):
    x = points().requires_grad_()
    (score,) = torch.autograd.grad(hills().log_density(x, level).sum(), x)
    eps = hills().denoise(x, level).eps
    torch.testing.assert_close(eps, -level.sigma * score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("level", LEVELS, ids=["clean", "middle", "noisy"])
def test_prediction_recomposes_x_t(level):
    x = points()
    p = hills().denoise(x, level)
    torch.testing.assert_close(level.noised(p.x0, p.eps), x, rtol=1e-12, atol=1e-12)


def test_density_integrates_to_one():
    mixture = Mixture([[-0.5], [0.8]], [0.2, 0.1], [0.7, 0.3])
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = mixture.log_density(x[:, None], LINEAR.at(300)).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-9)


def test_the_classifier_is_bayes_rule_over_labels():
    mixture, x, level = hills(), points(), LINEAR.at(300)
    prior = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    alone = Mixture(mixture.means[:1], mixture.stds[:1])
    rest = Mixture(mixture.means[1:], mixture.stds[1:], mixture.weights[1:])
    joint = torch.stack([m.log_density(x, level) for m in (alone, rest)], 1) + prior
    torch.testing.assert_close(
        mixture.log_posterior(x, level), joint.log_softmax(1), rtol=1e-10, atol=1e-10
    )


def test_the_conditional_denoiser_is_that_of_the_class_alone():
    mixture, x, level = hills(), points(), LINEAR.at(300)
    rest = Mixture(mixture.means[1:], mixture.stds[1:], mixture.weights[1:])
    got = mixture.conditioned(torch.ones(5, dtype=torch.long))(x, level)
    torch.testing.assert_close(got.x0, rest.denoise(x, level).x0, rtol=1e-12, atol=1e-12)


def test_levels_may_differ_within_a_batch():
    x, times = points(3), [5.0, 400.0, 900.0]
    together = hills().denoise(x, LINEAR.at(torch.tensor(times)))
    apart = [hills().denoise(x[i : i + 1], LINEAR.at(t)).eps for i, t in enumerate(times)]
    torch.testing.assert_close(together.eps, torch.cat(apart), rtol=1e-12, atol=1e-12)


def test_samples_have_the_stated_moments():
    mixture = Mixture([[-1.0], [2.0]], [0.5, 0.25], [0.25, 0.75], [3, 7])
    x0, labels = mixture.sample(200_000, torch.Generator().manual_seed(0))
    mean, second = 0.25 * -1 + 0.75 * 2, 0.25 * (1 + 0.25) + 0.75 * (4 + 0.0625)
    deviation = (second - mean**2) ** 0.5
    # Five standard errors of the mean; the share of a label is binomial.
    assert float(x0.mean()) == pytest.approx(mean, abs=5 * deviation / 200_000**0.5)
    assert float(x0.std()) == pytest.approx(deviation, rel=0.01)
    share = float((labels == 7).double().mean())
    assert share == pytest.approx(0.75, abs=5 * (0.1875 / 200_000) ** 0.5)


def test_three_references_agree_on_a_gaussian():
    """Closed form, quantile map and adaptive Runge-Kutta are independent derivations."""
    gaussian, schedule = Gaussian([0.4], 0.6), ContinuousSchedule()
    now, nxt = schedule.at(1000), schedule.at(50)
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    exact = gaussian.trajectory(x, now, nxt)
    torch.testing.assert_close(gaussian.quantile_map(x, now, nxt), exact, rtol=0, atol=1e-12)
    solved = reference_trajectory(gaussian.denoise, x, now, nxt, schedule)
    torch.testing.assert_close(solved, exact, rtol=0, atol=1e-10)


def test_the_reference_follows_the_quantile_map_of_a_mixture():
    mixture, schedule = Mixture([[-1.0], [0.7]], [0.2, 0.3], [0.4, 0.6]), ContinuousSchedule()
    now, nxt = schedule.at(1000), schedule.at(50)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    solved = reference_trajectory(mixture.denoise, x, now, nxt, schedule)
    exact = mixture.quantile_map(x, now, nxt)
    torch.testing.assert_close(solved, exact, rtol=0, atol=1e-9)


def test_bad_distributions_are_refused():
    with pytest.raises(InputError, match="one mean, std, weight and label per component"):
        Mixture([[0.0], [1.0]], [1.0])
    with pytest.raises(InputError, match="weights must be positive"):
        Mixture([[0.0]], [1.0], [0.0])
    for labels in ([-1, 0], [0.0, 1.0]):
        with pytest.raises(InputError, match="labels are integers from 0, not"):
            Mixture([[0.0], [1.0]], [1.0, 1.0], labels=labels)
    for means in ([0.0, 1.0], []):
        with pytest.raises(InputError, match=r"means are \[K, \*shape\] .*, not"):
            Mixture(means, [1.0, 1.0])
    with pytest.raises(InputError, match="no component has class 4"):
        hills().conditioned(torch.tensor([4]))
    with pytest.raises(InputError, match="for one dimension, this mixture has 2"):
        hills().quantile_map(points(), *LEVELS[:2])
    with pytest.raises(InputError, match="noise at both ends"):
        reference_trajectory(hills().denoise, points(), LEVELS[0], CLEAN, LINEAR)
