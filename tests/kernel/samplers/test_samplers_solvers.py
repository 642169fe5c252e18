"""What holds for every solver by name: its cost, its end, guidance, and what it refuses."""

import math

import pytest
import torch

from ppap_lib.diffusion.analytic import Gaussian, Mixture
from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.diffusion.levels import CLEAN
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import InputError
from ppap_lib.guidance import at_xt, gradient_field, guided
from ppap_lib.guidance.tasks import Classification
from ppap_lib.samplers import (
    SOLVERS,
    adaptive,
    analytic_ddim,
    count_evaluations,
    ddim,
    deis,
    dpm2_ancestral,
    dpm_solver,
    dpmpp_multistep,
    dpmpp_singlestep,
    heun,
    k_lms,
    karras,
    karras_grid,
    log_snr_grid,
    noise_prediction_error,
    plms,
    probability_flow,
    quadratic_grid,
    sample,
    solver,
    trajectory,
    uniform_grid,
    unipc,
)

LINEAR, CONTINUOUS = Schedule.linear(), ContinuousSchedule()
STEPS = {name: one.make(LINEAR) for name, one in SOLVERS.items()}
LABELLED = Mixture(
    torch.tensor([[-1.0], [0.2], [1.1], [0.6]]),
    [0.3, 0.2, 0.25, 0.2],
    [0.3, 0.2, 0.3, 0.2],
    [0, 0, 1, 1],
)


def of_class(label):
    """The law of one class, as a mixture of its own."""
    own = LABELLED.labels == label
    return Mixture(LABELLED.means[own], LABELLED.stds[own], LABELLED.weights[own])


def steered(target):
    return guided(LABELLED.denoise, at_xt(LABELLED, Classification(), target), 1.0, "score")


def normal(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, 1, generator=generator, dtype=torch.float64)


def test_an_unknown_name_is_answered_with_others():
    assert solver("dpmpp_2m") is SOLVERS["dpmpp_2m"]
    with pytest.raises(InputError, match="no solver 'dpmpp2m': did you mean 'dpmpp_2m'"):
        solver("dpmpp2m")
    with pytest.raises(InputError, match="no solver 'x': there are ddim, .*, karras"):
        solver("x")


@pytest.mark.parametrize("name", [name for name in SOLVERS if not SOLVERS[name].draws_noise])
def test_guidance_at_scale_1_leads_to_the_conditional_law(name):
    """Quantile for quantile, after 100 steps: within 0.005 (solvers of order 1: 0.05)."""
    step = SOLVERS[name].make(CONTINUOUS)
    x_T = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    grid = CONTINUOUS.grid(torch.linspace(1000, 50, 101, dtype=torch.float64).tolist())
    exact = [of_class(label).quantile_map(x_T, grid[0], grid[-1]) for label in (0, 1)]
    target = torch.tensor([0, 1]).repeat_interleave(9)
    end = sample(steered(target), x_T.repeat(2, 1), grid, step)
    tolerance = 0.05 if SOLVERS[name].order == 1 else 0.005
    torch.testing.assert_close(end, torch.cat(exact), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "name", [one.name for one in SOLVERS.values() if one.draws_noise and not one.same_as]
)
def test_guidance_at_scale_1_draws_from_the_conditional_law(name):
    """Kolmogorov-Smirnov distance below 0.03 with 10,000 draws and 100 steps.

    Sampling alone reaches 0.016 once in a hundred; the rest is for the discretisation.
    """
    step, noise = STEPS[name], normal(10_000)
    denoise = steered(torch.ones(10_000, dtype=torch.long))
    end = sample(denoise, noise(), LINEAR.grid("100"), step, noise)
    assert distance_from_class_1(end) < 0.03


def distance_from_class_1(draws):
    """Kolmogorov-Smirnov, of draws [N, 1] from the clean law of class 1."""
    law, ordered = of_class(1), draws.flatten().sort().values
    z = (ordered[:, None] - law.means.flatten()) / law.stds
    below = (law.weights / law.weights.sum() * torch.special.ndtr(z)).sum(1)
    seen = torch.arange(1, len(ordered) + 1) / len(ordered)
    return float((below - seen).abs().max())


def test_guidance_at_scale_1_draws_from_the_conditional_law_with_the_optimal_variance():
    """A-DDIM, whose variance is the unconditional denoiser's; the distance as above."""
    noise, grid = normal(10_000), LINEAR.grid("100")
    x0, _ = LABELLED.sample(2000, torch.Generator().manual_seed(4))
    step = analytic_ddim(LABELLED.denoise, x0, normal(2000, 5)(), grid)
    end = sample(steered(torch.ones(10_000, dtype=torch.long)), noise(), grid, step, noise)
    assert distance_from_class_1(end) < 0.03


def test_guidance_at_scale_1_leads_the_adaptive_solver_to_the_conditional_law():
    """Quantile for quantile, to 30 times its tolerance, as without guidance."""
    x_T = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    now, nxt = CONTINUOUS.at(1000), CONTINUOUS.at(50)
    denoise = steered(torch.ones(9, dtype=torch.long))
    end = sample(denoise, x_T, [now, nxt], adaptive(CONTINUOUS, 1e-4, 1e-4))
    exact = of_class(1).quantile_map(x_T, now, nxt)
    torch.testing.assert_close(end, exact, rtol=0, atol=3e-3)


# Evaluations at N steps, the last to the clean end.
COSTS = dict.fromkeys(SOLVERS, lambda n: n)
COSTS |= dict.fromkeys(
    ("heun", "dpm2", "dpm_solver_2", "dpmpp_2s", "dpm2_ancestral", "karras"), lambda n: 2 * n - 1
)
COSTS |= dict.fromkeys(("dpm_solver_3", "dpmpp_3s"), lambda n: 3 * n - 2)
COSTS |= dict.fromkeys(("prk", "rk4"), lambda n: 4 * n - 3)
COSTS |= dict.fromkeys(("f_pndm", "fon"), lambda n: n + 9)
COSTS |= dict.fromkeys(("plms", "s_pndm"), lambda n: n + 1)


@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_at_n_steps(name):
    for steps in (5, 10):
        assert count_evaluations(STEPS[name], LINEAR.grid(str(steps))) == COSTS[name](steps)


def test_f_pndm_needs_13_evaluations():
    """Three steps of four and the last one: with fewer it is PRK by another name."""
    assert count_evaluations(STEPS["f_pndm"], LINEAR.grid("4")) == 13


@pytest.mark.parametrize("name", SOLVERS)
def test_the_clean_end_is_never_evaluated_and_reached_by_euler(name):
    def never_clean(x_t, level):
        assert not level.clean
        return LABELLED.denoise(x_t, level)

    noise = normal(3)
    *_, last = trajectory(never_clean, noise(), LINEAR.grid("ddim5"), STEPS[name], noise)
    assert last.level is CLEAN
    torch.testing.assert_close(last.x, last.prediction.x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in SOLVERS if not name.startswith("ddpm")])
def test_mean_form_guidance_is_refused(name):
    mean = guided(LABELLED.denoise, gradient_field(lambda x, level, p: x), 1.0, "mean")
    noise = normal(2)
    with pytest.raises(InputError, match="mean-form guidance"):
        sample(mean, noise(), LINEAR.grid("ddim5"), STEPS[name], noise)


@pytest.mark.parametrize("name", ["heun", "prk", "rk4", "karras", "dpm2_ancestral"])
def test_mean_form_guidance_is_refused_at_a_later_stage_too(name):
    mean = guided(LABELLED.denoise, gradient_field(lambda x, level, p: x), 1.0, "mean")

    def late(x_t, level):
        return (mean if level.t < 700 else LABELLED.denoise)(x_t, level)

    noise = normal(2)
    with pytest.raises(InputError, match="mean-form guidance"):
        sample(late, noise(), [LINEAR.at(800), LINEAR.at(400)], STEPS[name], noise)


def test_mean_form_guidance_is_refused_by_the_adaptive_solver():
    mean = guided(LABELLED.denoise, gradient_field(lambda x, level, p: x), 1.0, "mean")
    with pytest.raises(InputError, match="mean-form guidance"):
        next(probability_flow(mean, normal(2)(), LINEAR.at(999), LINEAR.at(0), LINEAR))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_state_keeps_its_precision(name):
    noise = normal(3)
    for dtype in (torch.float32, torch.float64):

        def denoise(x_t, level, dtype=dtype):
            known = LABELLED.denoise(x_t, level)
            return Prediction(known.x0.to(dtype), known.eps.to(dtype))

        draw = lambda dtype=dtype: noise().to(dtype)  # noqa: E731
        assert sample(denoise, draw(), LINEAR.grid("ddim5"), STEPS[name], draw).dtype == dtype


class TestKarras:
    def literal(self, x, ratios, gamma, draws):
        """Algorithm 2 as printed, from after its first noise: x / alpha and sigma / alpha."""

        def eps(x, ratio):
            level = CONTINUOUS.at_log_snr(-2 * math.log(ratio))
            return LABELLED.denoise(level.alpha * x, level).eps

        raised = ratios[0] * (1 + gamma)
        for low, z in zip(ratios[1:], draws, strict=True):
            d = eps(x, raised)
            euler = x + (low - raised) * d
            x = x + (low - raised) * (d + eps(euler, low)) / 2
            raised = low * (1 + gamma)
            x = x + math.sqrt(raised**2 - low**2) * 1.003 * z
        return x, raised

    def test_it_is_algorithm_2(self):
        ratios, gamma, noise = [20.0, 6.0, 2.0, 0.7, 0.2], 0.3, normal(5)
        draws, x_T = [noise() for _ in ratios[1:]], noise()
        grid = [CONTINUOUS.at_log_snr(-2 * math.log(r * (1 + gamma))) for r in ratios]
        same = iter(draws)
        end = sample(LABELLED.denoise, x_T, grid, karras(CONTINUOUS, gamma), lambda: next(same))
        expected, raised = self.literal(x_T / grid[0].alpha, ratios, gamma, draws)
        torch.testing.assert_close(end / grid[-1].alpha, expected, rtol=1e-9, atol=1e-9)

    def test_noise_from_below_the_schedule_is_refused(self):
        """Below t = 0 there is no level to add noise from."""
        with pytest.raises(InputError, match="does not reach .* up to t = 0: raise S_min"):
            noise = normal(3)
            sample(
                LABELLED.denoise, noise(), LINEAR.grid("ddim5"), karras(LINEAR, S_min=0.0), noise
            )

    def test_without_churn_it_is_heun(self):
        x_T, grid = normal(3)(), LINEAR.grid("ddim10")
        for step in (karras(LINEAR, 0.0), karras(LINEAR, S_min=60.0, S_max=70.0)):
            assert torch.equal(
                sample(LABELLED.denoise, x_T, grid, step), sample(LABELLED.denoise, x_T, grid, heun)
            )


class TestAnalyticDDIM:
    std = 0.6
    gaussian = Gaussian([0.0], std)
    # Four images and noises with the exact second moments of the law, which is all eps needs.
    x0 = torch.tensor([[std], [std], [-std], [-std]], dtype=torch.float64)
    eps = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)

    def test_what_a_gaussian_hides_of_the_noise(self):
        grid = LINEAR.grid("ddim5")
        seen = noise_prediction_error(self.gaussian.denoise, self.x0, self.eps, grid)
        known = [self.gaussian.denoise(a.noised(self.x0, self.eps), a).eps for a in grid[:-1]]
        # The paper's way to say it, by the law of total variance.
        assert seen == pytest.approx([1 - float(eps.square().mean()) for eps in known])
        signal = [a.alpha**2 * self.std**2 for a in grid[:-1]]
        shares = [float(s / (s + a.sigma**2)) for s, a in zip(signal, grid, strict=False)]
        assert seen == pytest.approx(shares)

    @pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
    def test_one_gaussian_keeps_its_exact_variance_at_any_step(self, eta):
        """Given x_t, eps is Gaussian there: the optimal variance is the true one."""
        grid = [LINEAR.at(t) for t in (999, 700, 300, 20)]
        step = analytic_ddim(self.gaussian.denoise, self.x0, self.eps, grid, eta)
        one, zero = (torch.full((1, 1), v, dtype=torch.float64) for v in (1.0, 0.0))
        variance = grid[0].alpha ** 2 * self.std**2 + grid[0].sigma ** 2
        for now, nxt in zip(grid, grid[1:], strict=False):
            gain = sample(self.gaussian.denoise, one, [now, nxt], step, lambda: zero)
            drawn = sample(self.gaussian.denoise, zero, [now, nxt], step, lambda: one)
            variance = gain**2 * variance + drawn**2
            true = nxt.alpha**2 * self.std**2 + nxt.sigma**2
            torch.testing.assert_close(variance, true.expand(1, 1), rtol=1e-10, atol=0)

    def test_it_ends_in_the_law_that_plain_ddim_misses(self):
        """Data at two points, five steps: the second moment that DDIM at eta = 1 loses."""
        points = Mixture(torch.tensor([[-1.0], [1.0]]), [0.05, 0.05])
        noise = normal(4000, 1)
        x0, _ = points.sample(4000, torch.Generator().manual_seed(2))
        grid = [LINEAR.at(t) for t in (999, 600, 250)]
        step = analytic_ddim(points.denoise, x0, noise(), grid)
        true = grid[-1].alpha ** 2 * (1 + 0.05**2) + grid[-1].sigma ** 2

        def miss(step):
            end = sample(points.denoise, normal(4000, 5)(), grid, step, normal(4000, 6))
            return abs(float(end.square().mean() - true))

        assert miss(step) < 0.02 < miss(ddim())

    def test_levels_it_was_not_built_for_are_named(self):
        step = analytic_ddim(self.gaussian.denoise, self.x0, self.eps, LINEAR.grid("ddim5"))
        with pytest.raises(InputError, match="no variance for t = 999"):
            sample(self.gaussian.denoise, self.x0, LINEAR.grid("5"), step, lambda: self.x0)
        with pytest.raises(InputError, match="one noise per image"):
            analytic_ddim(self.gaussian.denoise, self.x0, self.eps[:2], LINEAR.grid("ddim5"))


class TestGrids:
    grids = (uniform_grid, quadratic_grid, log_snr_grid, karras_grid)

    @pytest.mark.parametrize("schedule", [LINEAR, Schedule.cosine()])
    @pytest.mark.parametrize("build", grids)
    def test_ends_and_even_coordinates(self, build, schedule):
        grid = build(schedule, 10)
        assert len(grid) == 11 and grid[-1] is CLEAN
        assert [float(grid[0].t), float(grid[9].t)] == [schedule.T - 1, 0]
        read = {
            uniform_grid: lambda level: level.t,
            quadratic_grid: lambda level: level.t.sqrt(),
            log_snr_grid: lambda level: level.log_snr,
            karras_grid: lambda level: (level.sigma / level.alpha) ** (1 / 7),
        }[build]
        widths = torch.stack([read(level) for level in grid[:-1]]).diff()
        torch.testing.assert_close(widths, widths.mean().expand(9), rtol=1e-6, atol=1e-9)
        sample(LABELLED.denoise, normal(2)(), grid, ddim())  # and every sampler takes it

    def test_the_public_quadratic_grid(self):
        times = [float(level.t) for level in quadratic_grid(LINEAR, 5, start=800)[:-1]]
        assert times == pytest.approx([800, 450, 200, 50, 0])

    def test_a_continuous_schedule_needs_its_ends(self):
        assert float(karras_grid(CONTINUOUS, 4, 1000, 1)[-2].t) == 1
        with pytest.raises(InputError, match="pass start and stop"):
            log_snr_grid(CONTINUOUS, 4)

    def test_what_no_grid_can_be(self):
        with pytest.raises(InputError, match="at least 2 steps"):
            uniform_grid(LINEAR, 1)
        with pytest.raises(InputError, match="falls from start to stop"):
            uniform_grid(LINEAR, 5, start=0, stop=10)
        with pytest.raises(InputError, match="rho"):
            karras_grid(LINEAR, 5, rho=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: plms(5), "plms has orders 1 to 4, not 5"),
        (lambda: plms(0), "orders 1 to 4"),
        (lambda: plms(2.5), "the order of plms must be a whole number, not 2.5"),
        (lambda: k_lms(5), "orders 1 to 4"),
        (lambda: deis(5), "orders 1 to 4"),
        (lambda: dpm_solver(4, LINEAR), "orders 1 to 3"),
        (lambda: dpmpp_singlestep(0, LINEAR), "orders 1 to 3"),
        (lambda: dpmpp_multistep(4), "orders 1 to 3"),
        (lambda: dpmpp_multistep(2, halved=True), "second difference"),
        (lambda: unipc(4), "orders 1 to 3"),
        (lambda: unipc(3, "bh3"), "'bh1' or 'bh2'"),
        (lambda: dpm2_ancestral(LINEAR, 1.5), "eta must be in"),
        (lambda: karras(LINEAR, 0.5), "gamma must be in"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_a_solver_that_was_not_made_is_no_step():
    with pytest.raises(InputError, match=r"ddim does not: .* such as ddim\(\)"):
        sample(LABELLED.denoise, normal(2)(), LINEAR.grid("ddim5"), ddim)
