"""Guidance: exact on mixtures, linear as an algebra, and safe around clipping."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from guides import LINEAR, TARGET, TASK, constant, hills, linear_reader, noisy
from torch import nn

from ppap_lib.diffusion.analytic import Gaussian
from ppap_lib.diffusion.denoisers import clipped, eps_model, thresholded
from ppap_lib.diffusion.levels import Level, Posterior
from ppap_lib.errors import GuidanceError, InputError
from ppap_lib.guidance import TimeConditioned, at_x0, at_xt, gradient_field, guided
from ppap_lib.samplers import Evaluation, ddim, ddpm, heun, large_variance, sample, small_variance


class TestExactGuidance:
    @pytest.mark.parametrize("t", [0, 1, 40, 200, 500, 800, 960, 999])
    def test_scale_one_in_score_form_is_the_conditional_denoiser(self, t):
        mixture, x_t, level = hills(), noisy(), LINEAR.at(t)
        steered = guided(mixture.denoise, at_xt(mixture, TASK, TARGET), 1.0, "score")(x_t, level)
        exact = mixture.conditioned(TARGET)(x_t, level)
        torch.testing.assert_close(steered.eps, exact.eps, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(steered.x0, exact.x0, rtol=1e-9, atol=1e-9)

    def test_it_holds_for_mixed_levels_in_one_batch(self):
        mixture, x_t = hills(), noisy()
        level = LINEAR.at(torch.tensor([3.0, 100.0, 250.0, 500.0, 750.0, 998.0]))
        steered = guided(mixture.denoise, at_xt(mixture, TASK, TARGET))(x_t, level)
        exact = mixture.conditioned(TARGET)(x_t, level)
        torch.testing.assert_close(steered.eps, exact.eps, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("form", ["score", "mean"])
    def test_scale_zero_changes_nothing(self, form):
        mixture, x_t, level = hills(), noisy(), LINEAR.at(300)
        plain = mixture.denoise(x_t, level)
        steered = guided(mixture.denoise, at_xt(mixture, TASK, TARGET), 0.0, form)(x_t, level)
        assert torch.equal(steered.eps, plain.eps) and torch.equal(steered.x0, plain.x0)
        assert steered.shift is None or not steered.shift.any()

    def test_x_t_is_still_recomposed(self):
        mixture, x_t, level = hills(), noisy(), LINEAR.at(300)
        p = guided(mixture.denoise, at_xt(mixture, TASK, TARGET), 7.5)(x_t, level)
        torch.testing.assert_close(level.noised(p.x0, p.eps), x_t, rtol=1e-12, atol=1e-12)


class TestForms:
    # The mean form's push over the score form's at 25 steps; figures of the project's design.
    TIMES = (999, 500, 208, 83)
    SMALL, LARGE = (0.66, 0.78, 0.64, 0.29), (0.66, 0.82, 0.92, 0.97)

    @pytest.mark.parametrize(
        ("variance", "ratios"), [(small_variance, SMALL), (large_variance, LARGE)]
    )
    def test_how_much_weaker_the_mean_form_is(self, variance, ratios):
        grid = LINEAR.grid("25")
        plain = Gaussian(torch.zeros(1, 1, 1), 0.5).denoise
        x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        silent = lambda: torch.zeros_like(x)  # noqa: E731
        for t, expected in zip(self.TIMES, ratios, strict=True):
            i = next(i for i, level in enumerate(grid) if int(level.t) == t)

            def push(denoise, i=i):
                now, nxt = grid[i], grid[i + 1]
                history = [Evaluation(now, denoise(x, now))]
                return ddpm(variance)(denoise, x, now, nxt, history, silent)

            moved = {
                f: push(guided(plain, constant(), 1.0, f)) - push(plain) for f in ("mean", "score")
            }
            assert float(moved["mean"] / moved["score"]) == pytest.approx(expected, abs=0.006)

    def test_the_mean_form_moves_the_mean_by_sigma_times_the_gradient(self):
        mixture, grid, x_t = hills(), LINEAR.grid("25"), noisy()
        now, nxt = grid[3], grid[4]
        steered = guided(mixture.denoise, constant(2.0), 3.0, "mean")
        step, quiet = ddpm(small_variance), lambda: torch.zeros_like(x_t)
        ends = [
            step(d, x_t, now, nxt, [Evaluation(now, d(x_t, now))], quiet)
            for d in (steered, mixture.denoise)
        ]
        expected = 6.0 * Posterior.between(now, nxt).variance.expand(x_t.shape)
        torch.testing.assert_close(ends[0] - ends[1], expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("step", [ddim(), ddim(1.0), heun])
    def test_ode_steps_refuse_the_mean_form(self, step):
        steered = guided(hills().denoise, constant(), form="mean")
        with pytest.raises(InputError, match="cannot use mean-form guidance.*form='score'"):
            sample(steered, noisy(), LINEAR.grid("ddim5"), step, lambda: noisy())


class TestAlgebra:
    def test_sums_scales_and_ranges_are_linear(self):
        x_t, level = noisy(), LINEAR.at(300)
        a = gradient_field(lambda x, level, p: x)
        b = gradient_field(lambda x, level, p: x**2)
        guide = 2 * a + (b * 3).during(0, 301) + a.during(301, 1000) + b.during(0, 300)
        torch.testing.assert_close(guide(x_t, level, None), 2 * x_t + 3 * x_t**2)
        assert guide.gradients(level) == 2

    def test_guides_subtract_divide_negate_and_sum(self):
        x_t, level = noisy(), LINEAR.at(300)
        a = gradient_field(lambda x, level, p: x)
        b = gradient_field(lambda x, level, p: x**2)
        guide = sum([a, b / 2]) - np.float32(2) * b - -a
        torch.testing.assert_close(guide(x_t, level, None), 2 * x_t - 1.5 * x_t**2)

    def test_ranges_intersect_and_are_half_open(self):
        guide = constant().during(100, 400).during(200, 600)
        acts = [t for t in range(1000) if guide.gradients(LINEAR.at(t))]
        assert acts == list(range(200, 400))

    def test_what_an_intersection_leaves_empty_is_dropped_and_nothing_left_is_an_error(self):
        with pytest.raises(GuidanceError, match=r"\[200, 300\) has no timestep .*own \[0, 100\)"):
            constant().during(0, 100).during(200, 300)
        early, late = constant(1.0).during(0, 100), constant(2.0).during(200, 300)
        both = (early + late).during(50, 150)
        acts = [t for t in range(1000) if both.gradients(LINEAR.at(t))]
        assert acts == list(range(50, 100))

    def test_ranges_of_each_image_intersect_with_others(self):
        start, stop = torch.tensor([[0.0, 100.0], [300.0, 400.0]], dtype=torch.float64)
        x_t, t = noisy(2), [50, 150, 350, 390]
        own = constant().during(start, stop)
        for guide in (own.during(100, 390), constant().during(100, 390).during(start, stop)):
            grads = [guide(x_t, LINEAR.at(time), None).flatten(1)[:, 0].tolist() for time in t]
            assert grads == [[0, 0], [1, 1], [0, 1], [0, 0]]
        apart = own.during(stop, stop + 100)  # each image's own range is empty: it never acts
        assert not any(apart.gradients(LINEAR.at(time)) for time in range(0, 1000, 50))

    def test_a_range_masks_images_of_a_batch_with_their_own_levels(self):
        level = LINEAR.at(torch.tensor([99.0, 100.0, 199.0, 200.0]))
        grad = constant().during(100, 200)(noisy(4), level, None)
        assert grad.flatten(1)[:, 0].tolist() == [0, 1, 1, 0]

    def test_outside_its_range_a_guide_is_never_called(self):
        def forbidden(x_t, level, prediction):
            raise AssertionError("evaluated outside its range")

        guide = gradient_field(forbidden).during(0, 100)
        mixture, x_t, level = hills(), noisy(), LINEAR.at(500)
        steered = guided(mixture.denoise, guide, 5.0)(x_t, level)
        assert torch.equal(steered.eps, mixture.denoise(x_t, level).eps)
        assert steered.gradients == 0

    def test_guidance_twice_is_the_sum_of_guides(self):
        mixture, x_t, level = hills(), noisy(), LINEAR.at(300)
        a, b = at_xt(mixture, TASK, TARGET), constant(0.3)
        twice = guided(guided(mixture.denoise, a, 2.0), b, 3.0)(x_t, level)
        once = guided(mixture.denoise, 2 * a + 3 * b)(x_t, level)
        torch.testing.assert_close(twice.eps, once.eps, rtol=1e-12, atol=1e-12)
        assert twice.gradients == once.gradients == 2

    def test_guidance_twice_in_the_mean_form_adds_both_shifts(self):
        mixture, x_t, level = hills(), noisy(), LINEAR.at(300)
        a, b = at_xt(mixture, TASK, TARGET), constant(0.3)
        twice = guided(guided(mixture.denoise, a, 2.0, "mean"), b, 3.0, "mean")(x_t, level)
        once = guided(mixture.denoise, 2 * a + 3 * b, 1.0, "mean")(x_t, level)
        torch.testing.assert_close(twice.shift, once.shift, rtol=1e-12, atol=1e-12)

    def test_what_a_field_says_outside_its_range_does_not_matter_be_it_nan(self):
        guide = gradient_field(
            lambda x_t, level, prediction: (level.t[:, None, None, None] / 100).log().sqrt() * x_t
        )
        grad = guide.during(200, 1000)(noisy(2), LINEAR.at(torch.tensor([50.0, 500.0])), None)
        assert not grad[0].any() and grad[1].isfinite().all() and grad[1].any()


class TestReadingX0:
    def reader(self):
        torch.manual_seed(0)
        return (
            nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
        )

    def log_prob_at(self, x_t, level, model):
        x0 = hills().denoise(x_t, level).x0
        return TASK.log_prob(model(x0.clamp(-1, 1)), TARGET)

    def test_through_is_the_derivative_of_the_whole_composition(self):
        model, x_t, level = self.reader(), 0.2 * noisy(), LINEAR.at(200)
        assert float(hills().denoise(x_t, level).x0.abs().max()) < 1  # away from the clamp
        guide = at_x0(model, TASK, TARGET, through=True)
        steered = guided(hills().denoise, guide)(x_t, level)
        grad = (hills().denoise(x_t, level).eps - steered.eps) / level.sigma
        direction, h = noisy(seed=5), 1e-5
        ends = [self.log_prob_at(x_t + s * h * direction, level, model) for s in (1, -1)]
        along = (grad * direction).flatten(1).sum(1)
        torch.testing.assert_close(along, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-8)

    def test_eps_fixed_is_the_gradient_at_x0_over_alpha(self):
        model, x_t, level = self.reader(), noisy(), LINEAR.at(200)
        prediction = hills().denoise(x_t, level)
        x0 = prediction.x0.clamp(-1, 1).requires_grad_()
        (grad,) = torch.autograd.grad(TASK.log_prob(model(x0), TARGET).sum(), x0)
        guide = at_x0(model, TASK, TARGET, through=False)
        torch.testing.assert_close(guide(x_t, level, prediction), grad / level.alpha)

    @pytest.mark.parametrize("through", [True, False])
    def test_saturated_pixels_still_steer(self, through):
        """Clipping is straight-through: a pixel beyond the range keeps its gradient."""
        far = Gaussian(torch.full((1, 2, 2), 3.0), 0.1)
        x_t, level = noisy(), LINEAR.at(100)
        denoise = clipped(far.denoise)
        assert bool((denoise(x_t, level).x0 == 1).all())
        guide = at_x0(self.reader(), TASK, TARGET, through)
        moved = guided(denoise, guide)(x_t, level).eps - denoise(x_t, level).eps
        assert bool((moved.abs() > 1e-6).all())

    def test_two_guides_may_go_through_the_same_denoiser(self):
        guide = at_x0(self.reader(), TASK, TARGET, through=True)
        x_t, level = noisy(), LINEAR.at(200)
        twice = guided(hills().denoise, guide + guide)(x_t, level)
        double = guided(hills().denoise, 2 * guide)(x_t, level)
        torch.testing.assert_close(twice.eps, double.eps)

    def test_through_a_guided_denoiser_it_is_said_what_to_do(self):
        guide = at_x0(self.reader(), TASK, TARGET, through=True)
        twice = guided(guided(hills().denoise, constant()), guide)
        with pytest.raises(GuidanceError, match="add the guides instead"):
            twice(noisy(), LINEAR.at(200))


class TestTheSeam:
    def test_outside_the_range_of_what_goes_through_it_the_denoiser_has_no_graph(self):
        calls = []

        def watched(x_t, level):
            calls.append(x_t.requires_grad)
            return hills().denoise(x_t, level)

        deep = at_x0(linear_reader().double(), TASK, TARGET, through=True).during(0, 400)
        steered = guided(watched, deep + constant())
        for t in (300, 500):
            steered(noisy(), LINEAR.at(t))
        assert calls == [True, False]

    @pytest.mark.parametrize("through", [True, False])
    def test_the_denoiser_is_evaluated_once_with_a_graph_only_if_asked(self, through):
        calls = []

        def watched(x_t, level):
            calls.append(torch.is_grad_enabled() and x_t.requires_grad)
            return hills().denoise(x_t, level)

        model = linear_reader().double()
        steered = guided(watched, at_x0(model, TASK, TARGET, through))(noisy(), LINEAR.at(300))
        assert calls == [through]
        assert not steered.x0.requires_grad and not steered.eps.requires_grad

    def test_a_float32_model_steers_a_float64_state(self):
        model = linear_reader()
        steered = guided(hills().denoise, at_xt(model, TASK, TARGET))(noisy(), LINEAR.at(300))
        assert steered.eps.dtype == torch.float64

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda network: lambda x: network(x),
            lambda network: TimeConditioned(lambda x, t: network(x)),
        ],
    )
    def test_functions_around_a_float32_network_guide_as_it_does(self, wrapped):
        network, x_t, level = linear_reader(), noisy(), LINEAR.at(300)
        expected = at_xt(network, TASK, TARGET)(x_t, level, None)
        assert torch.equal(at_xt(wrapped(network), TASK, TARGET)(x_t, level, None), expected)
        prediction = hills().denoise(x_t, level)
        for guide in (at_x0(m, TASK, TARGET, False) for m in (network, wrapped(network))):
            assert guide(x_t, level, prediction).dtype == torch.float64

    def test_a_time_conditioned_network_is_read_at_its_level(self):
        seen = []

        def network(x, t):
            seen.append(t)
            return x.flatten(1)[:, :3]

        guide = at_xt(TimeConditioned(network, time_scale=0.5), TASK, TARGET)
        guide(noisy(), LINEAR.at(300), None)
        assert seen[0].tolist() == [150.0] * 6

    def test_the_gradient_of_one_image_ignores_the_others(self):
        mixture, x_t, level = hills(), noisy(), LINEAR.at(300)
        together = at_xt(mixture, TASK, TARGET)(x_t, level, None)
        alone = at_xt(mixture, TASK, TARGET[2:3])(x_t[2:3], level, None)
        torch.testing.assert_close(together[2:3], alone, rtol=1e-12, atol=1e-12)


class TestClippingAroundGuidance:
    """A saturated pixel that guidance pushes further out must not move the other way."""

    now, nxt = LINEAR.at(400), LINEAR.at(360)

    def next_x(self, denoise):
        x_t = torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64)
        history = [Evaluation(self.now, denoise(x_t, self.now))]
        return float(ddim()(denoise, x_t, self.now, self.nxt, history, None))

    def bright(self):
        return clipped(Gaussian(torch.full((1, 1, 1), 3.0), 0.1).denoise)

    def test_clamping_x0_without_recomputing_eps_reverses_the_guidance(self):
        steered = guided(self.bright(), constant(), 5.0)

        def wrongly_clipped(x_t, level):
            prediction = steered(x_t, level)
            return replace(prediction, x0=prediction.x0.clamp(-1, 1))

        assert self.next_x(wrongly_clipped) < self.next_x(self.bright()) - 1e-3

    @pytest.mark.parametrize("wrapper", [clipped, thresholded])
    def test_recomputing_eps_keeps_the_direction(self, wrapper):
        assert self.next_x(guided(self.bright(), constant(), 5.0)) > self.next_x(self.bright())
        around = wrapper(guided(self.bright(), constant(), 5.0))
        assert self.next_x(around) >= self.next_x(self.bright()) - 1e-12


def test_guiding_a_network_of_your_own_takes_ten_lines():
    """The library's promise, on the smallest possible networks."""
    denoise = eps_model(lambda x_t, t: 0.5 * x_t)
    brightness = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(1, 2)).eval()
    brightness[2].weight.data = torch.tensor([[-4.0], [4.0]])
    x_T, target = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(4)
    guide = at_xt(brightness, TASK, target.long())
    grid = LINEAR.grid("ddim10")
    means = [
        sample(d, x_T, grid, ddim()).mean(dim=(1, 2, 3))
        for d in (denoise, guided(denoise, guide, 2.0), guided(denoise, guide, -2.0))
    ]
    assert bool((means[2] < means[0]).all() and (means[0] < means[1]).all())


def test_a_level_of_a_batch_selects():
    level = LINEAR.at(torch.tensor([1.0, 2.0, 3.0]))
    assert isinstance(level[1:], Level) and level[1:].t.tolist() == [2.0, 3.0]
