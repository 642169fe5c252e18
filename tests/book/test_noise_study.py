"""The noise study: variance doubles, the wrappers are what they say, a run is its seeds."""

from dataclasses import replace

import pytest
import torch

from ppap_book import ledger
from ppap_book.studies import noise
from ppap_lib.diffusion.analytic import Gaussian
from ppap_lib.diffusion.denoisers import eps_model, v_model
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.samplers import ddpm, large_variance, sample

TRAINED = Schedule.linear()
WIDE = noise.sampler_schedule(noise.TWEAKS["end"])
UNIT = Gaussian(torch.zeros(1), 1.0)


def variance(step, grid, denoise=UNIT.denoise, draws=1):
    """Of the sampler's end, exactly: sampling is linear, so give every draw an image of its own."""
    count = 1 + draws * (len(grid) - 2)
    one_hot = iter(torch.eye(count, dtype=torch.float64)[:, :, None])
    end = sample(denoise, next(one_hot), grid, step, lambda: next(one_hot))
    return end.square().sum().item()


@pytest.mark.parametrize("steps", [5, 25, 100])
def test_a_second_draw_doubles_the_variance_of_unit_data(steps):
    grid = TRAINED.grid(steps)
    one = variance(ddpm(large_variance), grid)
    two = variance(ddpm(large_variance, draws=2), grid, draws=2)
    # alpha^2 of the last level: the step to the clean end returns the mean.
    kept = float(grid[-2].alpha ** 2)
    assert one == pytest.approx(kept, rel=1e-9)
    started = float((grid[0].alpha / grid[-2].alpha) ** 2)
    assert two == pytest.approx(kept * (2 - started), rel=1e-9)


def test_at_its_own_betas_no_wrapper_changes_anything():
    x = torch.randn(3, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for wrapper in (noise.conditioned_on_index, noise.conditioned_on_level):
        for t in (0, 500, 999):
            level = TRAINED.at(t)
            expected, found = UNIT.denoise(x, level), wrapper(UNIT.denoise, TRAINED)(x, level)
            torch.testing.assert_close(found.x0, expected.x0, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(found.eps, expected.eps, rtol=1e-6, atol=1e-9)


def test_told_the_index_a_network_of_eps_is_used_as_it_is():
    """Whatever a network predicts, it is made to err as one that predicts eps would."""

    def network(x, t):
        return 0.3 * x + t.view(-1, 1) / 1000

    x = torch.ones(2, 1, dtype=torch.float64)
    level = WIDE.at(600)
    expected = eps_model(network)(x, level)
    found = noise.conditioned_on_index(eps_model(network), TRAINED)(x, level)
    torch.testing.assert_close(found.x0, expected.x0)
    of_v = noise.conditioned_on_index(v_model(network), TRAINED)(x, level)
    torch.testing.assert_close(of_v.eps, v_model(network)(x, TRAINED.at(600)).eps)


def test_told_the_level_an_exact_denoiser_stays_exact():
    x = torch.randn(4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    told = noise.conditioned_on_level(UNIT.denoise, TRAINED)
    for t in (100, 600):  # both within the noise that TRAINED knows
        expected, found = UNIT.denoise(x, WIDE.at(t)), told(x, WIDE.at(t))
        torch.testing.assert_close(found.x0, expected.x0, rtol=1e-9, atol=1e-12)
    beyond = told(x, WIDE.at(999))
    assert beyond.x0.isfinite().all() and beyond.x0.abs().max() < 0.1


def test_the_wrong_index_leaves_too_much_variance_and_the_level_mends_it():
    grid = WIDE.grid(25)
    wrong = variance(ddpm(large_variance), grid, noise.conditioned_on_index(UNIT.denoise, TRAINED))
    right = variance(ddpm(large_variance), grid, noise.conditioned_on_level(UNIT.denoise, TRAINED))
    assert right == pytest.approx(1, abs=1e-3) and 1.4 < wrong < 1.7


@pytest.mark.parametrize(("std", "low", "high"), [(1.0, 0.7, 0.95), (0.1, 1.05, 1.5)])
def test_the_wrong_index_under_and_overestimates_noise(std, low, high):
    """Too little eps where the data vary more than the noise, too much where they vary less."""
    data, level, x = Gaussian(torch.zeros(1), std), WIDE.at(200), torch.ones(1, 1)
    ratio = (
        noise.conditioned_on_index(data.denoise, TRAINED)(x, level).eps / data.denoise(x, level).eps
    )
    assert low < float(ratio) < high


def test_a_run_is_its_seeds_and_nothing_else():
    """Two halves are the whole."""

    def draw(**changes):
        params = noise.NoiseTweakRun(**({"steps": 4, "n": 4} | changes))
        return noise.draw(params, denoise=Learned(torch.zeros(1, 32, 32), 0.5).denoise)

    whole = draw(tweak="two_z")
    halves = torch.cat([draw(tweak="two_z", n=2), draw(tweak="two_z", n=2, first_seed=2)])
    torch.testing.assert_close(whole, halves, rtol=0, atol=0)
    assert not whole.equal(draw(tweak="one_z"))


class Learned(Gaussian):
    """A denoiser with a learned variance, as the tier's."""

    def denoise(self, x_t, level):
        return replace(super().denoise(x_t, level), v=torch.full_like(x_t, 0.5))


def test_the_grid_goes_repeat_by_repeat():
    runs = noise.grid(steps=(25, 250), repeats=2, n=10)
    assert [run for run in runs if run.clip] == noise.grid((25, 250), clipped=True, repeats=2, n=10)
    assert len({ledger.digest(run.recorded()) for run in runs}) == len(runs) == 2 * 2 * (6 + 4)
    assert all(run.clip for run in runs if run.tweak.endswith("told"))
    assert {run.first_seed for run in runs[:10]} == {0} and runs[0].recorded()["denoiser_sha256"]
    with pytest.raises(InputError, match="tweak must be one of"):
        noise.grid(tweaks=("three_z",))


def test_a_run_says_how_much_noise_is_left_on_every_image(monkeypatch):
    images = torch.linspace(-1, 1, 32).expand(10, 1, 32, 32)
    noisy = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    for drawn, expected in ((images, 0.0), (noisy, 0.2)):
        monkeypatch.setattr(noise, "draw", lambda *_, drawn=drawn: drawn)
        found = noise.measure(noise.NoiseTweakRun(n=10))
        assert set(found) == {"noise_left"}  # of ten images, no distance
        assert found["noise_left"] == pytest.approx([expected] * 10, abs=0.05)


def test_without_a_number_of_images_the_study_says_it():
    for steps, n in noise.STEPS.items():
        assert {(run.n, run.first_seed) for run in noise.grid(steps=(steps,))} == {
            (n, repeat * n) for repeat in range(3)
        }
