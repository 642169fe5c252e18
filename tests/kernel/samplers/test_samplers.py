"""The loop and the first steps: replayed against public code, and by identities."""

import itertools

import numpy as np
import pytest
import torch
from places import GOLDEN as FOLDER

from ppap_lib.diffusion.analytic import Gaussian, Mixture
from ppap_lib.diffusion.denoisers import Prediction, clipped, eps_model
from ppap_lib.diffusion.levels import Posterior
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import InputError
from ppap_lib.guidance import gradient_field, guided
from ppap_lib.samplers import (
    HISTORY,
    Evaluation,
    ddim,
    ddpm,
    heun,
    large_variance,
    sample,
    small_variance,
    trajectory,
)
from ppap_lib.zoo.tiers import tier

GOLDEN = np.load(FOLDER / "trajectories.npz")
LINEAR = Schedule.linear()


def golden(key):
    return torch.from_numpy(np.asarray(GOLDEN[key])).double()


def golden_denoiser(guidance_form=None):
    """The public run's denoiser: an exact Gaussian's, v = 0.65, clipped, then guided."""
    gaussian, w = Gaussian(golden("mu")[0], float(GOLDEN["s"])), golden("w")

    def plain(x_t, level):
        known = gaussian.denoise(x_t, level)
        return Prediction(known.x0, known.eps, torch.full_like(x_t, 0.65))

    denoise = clipped(plain)
    if guidance_form is None:
        return denoise
    cosine = gradient_field(lambda x_t, level, prediction: 2 * w * x_t.cos())
    return guided(denoise, cosine, 1.0, guidance_form)


RUNS = [("ddpm", "25", ddpm(), "mean"), ("ddim", "ddim25", ddim(), "score")]
RUNS.append(("ddim_eta", "ddim10", ddim(0.5), "score"))


@pytest.mark.parametrize("how", ["none", "guided"])
@pytest.mark.parametrize(("kind", "spacing", "step", "form"), RUNS, ids=[r[0] for r in RUNS])
def test_replays_the_public_trajectories_step_by_step(kind, spacing, step, form, how):
    denoise = golden_denoiser(form if how == "guided" else None)
    noise, path = golden(f"{kind}/{how}/noise"), golden(f"{kind}/{how}/x")
    stops = LINEAR.grid(spacing)
    starts = [golden(f"{kind}/{how}/x_T"), *path[:-1]]
    seen = []
    for i, (now, nxt) in enumerate(itertools.pairwise(stops)):
        # The neighbour whose variance the last step borrows is one level up the grid.
        levels = stops[max(i - 1, 0) : i + 1]
        history = [Evaluation(level, denoise(starts[i], level)) for level in levels]
        seen.append(step(denoise, starts[i], now, nxt, history, lambda i=i: noise[i]))
    torch.testing.assert_close(torch.stack(seen), path, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["none", "guided"])
@pytest.mark.parametrize(("kind", "spacing", "step", "form"), RUNS, ids=[r[0] for r in RUNS])
def test_whole_trajectories_end_where_the_public_ones_do(kind, spacing, step, form, how):
    draws = iter(golden(f"{kind}/{how}/noise"))
    end = sample(
        golden_denoiser(form if how == "guided" else None),
        golden(f"{kind}/{how}/x_T"),
        LINEAR.grid(spacing),
        step,
        lambda: next(draws),
    )
    torch.testing.assert_close(end, golden(f"{kind}/{how}/x")[-1], rtol=1e-5, atol=1e-5)


def two_hills(shape=(1, 2, 2)):
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return Mixture(means, [0.2, 0.3, 0.1], [0.5, 0.3, 0.2])


def test_ddim_at_eta_one_is_the_ddpm_posterior():
    mixture, grid = two_hills(), LINEAR.grid("ddim20")
    seeds, shape = range(6), (1, 2, 2)
    ends = []
    for step in (ddim(1.0), ddpm(small_variance)):
        noise = Noise(seeds, shape)
        ends.append(sample(mixture.denoise, noise(), grid, step, noise))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-11, atol=1e-12)


def test_the_posterior_is_bayes_rule():
    now, nxt = LINEAR.at(500), LINEAR.at(480)
    q = Posterior.between(now, nxt)
    # Marginalising q(x_nxt | x_now, x0) over q(x_now | x0) must give q(x_nxt | x0).
    torch.testing.assert_close(q.from_x0 + q.from_x_t * now.alpha, nxt.alpha)
    torch.testing.assert_close(q.variance + (q.from_x_t * now.sigma) ** 2, nxt.sigma**2)


def test_one_gaussian_is_followed_along_its_closed_form():
    gaussian = Gaussian([0.4, -0.7], 0.5)
    x_T = torch.tensor([[1.5, -0.3], [-2.0, 0.1]], dtype=torch.float64)
    grid = ContinuousSchedule().grid(torch.linspace(1000, 50, 401, dtype=torch.float64).tolist())
    exact = gaussian.trajectory(x_T, grid[0], grid[-1])
    torch.testing.assert_close(sample(gaussian.denoise, x_T, grid, heun), exact, rtol=0, atol=2e-4)


def test_two_draws_double_the_final_variance():
    """On a Gaussian a DDPM step is linear, so unit impulses give the exact final variance."""
    gaussian, grid = Gaussian([0.0], 1.0), LINEAR.grid("250")
    steps = len(grid) - 1

    def variance(draws):
        impulses = torch.eye(steps * draws, dtype=torch.float64)[:, :, None]
        start = torch.zeros(steps * draws, 1, dtype=torch.float64)
        noise, step = iter(impulses), ddpm(large_variance, draws)
        return sample(gaussian.denoise, start, grid, step, lambda: next(noise)).square().sum()

    one = torch.ones(1, 1, dtype=torch.float64)
    carried = sample(gaussian.denoise, one, grid, ddpm(large_variance), lambda: 0 * one).square()
    ratio = (carried + variance(2)) / (carried + variance(1))
    assert float(ratio) == pytest.approx(2.0, abs=5e-4)
    assert float(variance(2) / variance(1)) == pytest.approx(2.0, abs=1e-12)


def test_the_seed_promises_hold_bitwise_with_a_float64_denoiser():
    mixture, grid = two_hills(), LINEAR.grid("ddim10")

    def run(seeds):
        noise = Noise(seeds, (1, 2, 2))
        return sample(mixture.denoise, noise(), grid, ddim(1.0), noise)

    whole = run(range(7))
    assert torch.equal(whole, torch.cat([run([0]), run(range(1, 4)), run([4, 5, 6])]))
    assert torch.equal(whole[[5, 2]], run([5, 2]))


@pytest.mark.parametrize("seeds", [[0], range(4)])
def test_noise_of_another_number_of_images_is_refused(seeds):
    x_T, noise = Noise(range(3), (1, 2, 2))(), Noise(seeds, (1, 2, 2))
    with pytest.raises(InputError, match=r"1, 2, 2\] for x_T \[3, 1, 2, 2\]: .* drew x_T"):
        sample(two_hills().denoise, x_T, LINEAR.grid("ddim5"), ddim(1.0), noise)


def test_batch_size_moves_a_float32_network_by_less_than_1e4():
    torch.manual_seed(0)
    network = tier("fashion").denoiser().eval()
    for parameter in network.parameters():  # the zero-initialised layers must take part
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    denoise, grid = eps_model(network, learned_variance=True), LINEAR.grid("ddim25")

    def run(seeds):
        noise = Noise(seeds, (1, 16, 16))
        return sample(clipped(denoise), noise(), grid, ddim(), noise)

    together = run([0, 1, 2])
    apart = torch.cat([run([seed]) for seed in (0, 1, 2)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)


def test_the_loop_counts_every_evaluation_and_gradient():
    mixture, grid = two_hills(), LINEAR.grid("ddim10")
    x_T = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    steered = guided(mixture.denoise, gradient_field(lambda x, level, p: 0 * x).during(0, 500))
    for step, evaluations, gradients in ((ddim(), 10, 5), (heun, 19, 10)):
        *_, last = trajectory(steered, x_T, grid, step)
        assert (last.evaluations, last.gradients, last.index) == (evaluations, gradients, 10)


def test_the_history_ends_with_the_present_and_is_bounded():
    mixture, grid = two_hills(), LINEAR.grid("ddim10")
    lengths = []

    def watching(denoise, x, now, nxt, history, noise):
        assert history[-1].level is now
        torch.testing.assert_close(history[-1].prediction.eps, mixture.denoise(x, now).eps)
        lengths.append(len(history))
        return ddim()(denoise, x, now, nxt, history, noise)

    sample(mixture.denoise, torch.ones(1, 1, 2, 2, dtype=torch.float64), grid, watching)
    assert lengths == [min(i + 1, HISTORY) for i in range(10)]


def test_a_trajectory_leaves_the_gradient_mode_of_its_consumer_alone():
    mixture = two_hills()
    x_T = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    for state in trajectory(mixture.denoise, x_T, LINEAR.grid("ddim5"), ddim()):
        assert torch.is_grad_enabled() and not state.x.requires_grad


def test_a_broken_network_is_named_with_its_step():
    mixture, grid = two_hills(), LINEAR.grid("ddim10")

    def breaks(x_t, level):
        prediction = mixture.denoise(x_t, level)
        if level.t < 500:
            prediction.eps[1] = torch.nan
        return prediction

    x_T = torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    with pytest.raises(
        InputError, match=r"eps is not finite at step 5 \(t = 400\) in images \[1\]"
    ):
        sample(breaks, x_T, grid, ddim())
