"""Orders of convergence against the exact quantile map, and identities between the solvers.

On the continuous schedule and away from its ends, log abar = -(0.1 u + 9.95 u^2), u from 1 to
0.05: neither a table of betas nor the last step to the clean end has an order to measure.
"""

import math

import numpy as np
import pytest
import torch

from ppap_lib.diffusion.analytic import Gaussian, Mixture
from ppap_lib.diffusion.levels import CLEAN, Posterior
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import InputError
from ppap_lib.samplers import (
    SOLVERS,
    ddim,
    ddim_sigma_hat,
    deis,
    dpm2,
    dpm2_ancestral,
    dpm_solver,
    dpmpp_multistep,
    dpmpp_singlestep,
    k_lms,
    plms,
    probability_flow,
    sample,
    trajectory,
)
from ppap_lib.samplers.pndm import _adams_bashforth
from ppap_lib.samplers.quadrature import (
    DATA_PREDICTION,
    NOISE_PREDICTION,
    exact_moments,
    identity,
    log_ratio,
    noise_ratio,
    weights,
)

CONTINUOUS, LINEAR = ContinuousSchedule(), Schedule.linear()
FLOW = {name: one for name, one in SOLVERS.items() if not one.draws_noise}
MIXTURE = Mixture(torch.tensor([[-1.0], [0.2], [1.1]]), [0.3, 0.2, 0.25], [0.3, 0.3, 0.4])
X_T = torch.linspace(-2, 2, 11, dtype=torch.float64)[:, None]


def falling(count):
    return CONTINUOUS.grid(torch.linspace(1000, 50, count + 1, dtype=torch.float64).tolist())


EXACT = MIXTURE.quantile_map(X_T, CONTINUOUS.at(1000), CONTINUOUS.at(50))


def error(step, count):
    return float((sample(MIXTURE.denoise, X_T, falling(count), step) - EXACT).abs().max())


# Steps at which the order is read off, half of them and all. A multistep method shows its order
# once the few low-order steps at its start have stopped to matter.
STEPS = dict.fromkeys(FLOW, 80)
STEPS |= dict.fromkeys(("ddim", "euler", "s_pndm", "fon", "deis_3_time", "unipc_1", "unipc_3"), 160)
STEPS |= dict.fromkeys(("prk", "rk4", "dpm_solver_3"), 40)
STEPS |= dict.fromkeys(("plms", "f_pndm", "dpmpp_3m_halved"), 320)


def order(step, count):
    return np.log2(error(step, count) / error(step, 2 * count))


@pytest.mark.parametrize(
    "name", [name for name, one in FLOW.items() if not one.same_as and name != "k_lms"]
)
def test_order_of_convergence(name):
    one = SOLVERS[name]
    assert order(one.make(CONTINUOUS), STEPS[name]) == pytest.approx(one.order, abs=0.25)


def test_names_of_one_solver_have_one_order():
    for one in SOLVERS.values():
        if one.same_as:
            same = SOLVERS[one.same_as]
            assert (one.order, one.fewest, same.same_as) == (same.order, same.fewest, None)


@pytest.mark.parametrize(
    ("step", "expected", "count"),
    [(k_lms(2), 2, 80), (k_lms(3), 3, 160), (deis(2, CONTINUOUS), 2, 80)],
    ids=["k_lms_2", "k_lms_3", "deis_2_time"],
)
def test_orders_that_have_no_name(step, expected, count):
    assert order(step, count) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("step", [k_lms(4), deis(4), deis(4, CONTINUOUS)])
def test_four_points_are_at_least_of_order_3(step):
    """Their first steps, of lower order, still matter."""
    assert order(step, 80) > 3


class TestQuadrature:
    def test_adams_bashforth_by_name(self):
        assert _adams_bashforth(4) * 24 == pytest.approx([-9, 37, -59, 55])
        assert _adams_bashforth(3) * 12 == pytest.approx([5, -16, 23])
        assert _adams_bashforth(2) * 2 == pytest.approx([-1, 3])

    @pytest.mark.parametrize("form", [NOISE_PREDICTION, DATA_PREDICTION], ids=["noise", "data"])
    @pytest.mark.parametrize(("t", "s"), [(999, 0), (500, 499), (3, 2)])
    def test_moments_are_the_phi_functions(self, form, t, s):
        """The integral of s^k d(exp(sign lambda)) by parts, k times: DPM-Solver's closed forms."""
        now, nxt = LINEAR.at(t), LINEAR.at(s)
        h = form.sign * float(nxt.log_snr - now.log_snr) / 2
        end, width = float(form.omega(log_ratio(nxt))), form.width(now, nxt)
        first = end - width / h
        second = end - 2 * first / h
        seen = exact_moments(form, now, nxt, 3, identity)
        # The closed forms cancel in small steps, the quadrature does not.
        np.testing.assert_allclose(seen, [width, first, second], rtol=1e-6, atol=1e-12)

    def test_in_its_own_variable_the_moments_are_those_of_a_line(self):
        seen = exact_moments(NOISE_PREDICTION, LINEAR.at(900), LINEAR.at(100), 4, noise_ratio)
        width = NOISE_PREDICTION.width(LINEAR.at(900), LINEAR.at(100))
        np.testing.assert_allclose(seen, width / np.arange(1, 5), rtol=1e-12)

    def test_weights_reproduce_their_moments(self):
        nodes, moments = [0.0, -0.7, -1.1, 1.0], np.array([1.0, 0.3, -2.0, 0.1])
        w = weights(nodes, moments)
        np.testing.assert_allclose([np.dot(w, np.power(nodes, k)) for k in range(4)], moments)


class TestLowerFinal:
    @pytest.mark.parametrize("name", [name for name, one in SOLVERS.items() if one.extrapolates])
    def test_the_step_to_the_last_noisy_level_is_of_first_order(self, name):
        """That is DDIM's step, but for UniPC's corrections of the step before it."""
        grid = (*falling(6), CLEAN)
        lowered = SOLVERS[name].make(CONTINUOUS, grid)
        path = list(trajectory(MIXTURE.denoise, X_T, grid, lowered))
        before, last, end = path[-3:]
        expected = sample(MIXTURE.denoise, before.x, grid[-3:-1], ddim())
        if not name.startswith("unipc"):
            torch.testing.assert_close(last.x, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(end.x, end.prediction.x0)
        # Both ways of ending agree until the order falls, at the step before if it was 3.
        full = list(trajectory(MIXTURE.denoise, X_T, grid, SOLVERS[name].make(CONTINUOUS)))
        same = [torch.equal(a.x, b.x) for a, b in zip(path, full, strict=True)]
        assert same.index(False) == (4 if "_3" in name or "3m" in name else 5)

    def test_the_grid_is_the_one_that_is_walked(self):
        step = dpmpp_multistep(2, lower_final=falling(6))
        with pytest.raises(InputError, match="t = 881.25 is not on the grid .* lower_final"):
            sample(MIXTURE.denoise, X_T, falling(8), step)


def ends(first, second, grid):
    """Where two solvers take the same noise down the same grid."""
    found = []
    for step in (first, second):
        noise = Noise(range(5), (1, 1, 1))
        flat = lambda noise=noise: noise()[:, :, 0, 0]  # noqa: E731
        found.append(sample(MIXTURE.denoise, flat(), grid, step, flat))
    return found


IDENTITIES = {
    "DPM-Solver-1 is DDIM": (dpm_solver(1, LINEAR), ddim()),
    "DPM-Solver++(1S) is DDIM": (dpmpp_singlestep(1, LINEAR), ddim()),
    "DPM-Solver++(1M) is DDIM": (dpmpp_multistep(1), ddim()),
    "DEIS of order 1 is DDIM": (deis(1), ddim()),
    "K-LMS of order 1 is DDIM": (k_lms(1), ddim()),
    "PLMS of order 1 is DDIM": (plms(1), ddim()),
    "DPM2 ancestral at eta 0 is DPM2": (dpm2_ancestral(LINEAR, 0.0), dpm2(LINEAR)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_two_names_for_one_solver(name):
    one, other = ends(*IDENTITIES[name], LINEAR.grid("ddim10"))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_sigma_hat_scales_the_noise_alone():
    """Its mean is DDIM's at eta = 1; its noise has variance 1 - abar_now / abar_nxt."""
    now, nxt = LINEAR.at(600), LINEAR.at(400)
    x = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    mean = lambda step, z: sample(  # noqa: E731
        MIXTURE.denoise, x, [now, nxt], step, lambda: torch.full_like(x, z)
    )
    torch.testing.assert_close(mean(ddim_sigma_hat, 0.0), mean(ddim(1.0), 0.0))
    spread = (mean(ddim_sigma_hat, 1.0) - mean(ddim_sigma_hat, 0.0)) ** 2
    expected = 1 - (now.alpha / nxt.alpha) ** 2
    torch.testing.assert_close(spread, expected.expand_as(spread))
    assert expected > Posterior.between(now, nxt).variance
    # A long first step is where the naive coefficient, sqrt(sigma_nxt^2 - sigma-hat^2), is NaN.
    early, late = LINEAR.at(999), LINEAR.at(100)
    assert late.sigma**2 - (1 - (early.alpha / late.alpha) ** 2) < 0
    assert sample(MIXTURE.denoise, x, [early, late], ddim_sigma_hat, lambda: x).isfinite().all()


class TestProbabilityFlow:
    def ends(self, **options):
        now, nxt = CONTINUOUS.at(1000), CONTINUOUS.at(50)
        *_, last = probability_flow(MIXTURE.denoise, X_T, now, nxt, CONTINUOUS, **options)
        return last

    @pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
    def test_it_meets_its_tolerance(self, tolerance):
        last = self.ends(rtol=tolerance, atol=tolerance)
        # Between the hills the flow drives neighbours apart, and early errors with them.
        torch.testing.assert_close(last.x, EXACT, rtol=0, atol=30 * tolerance)
        assert last.evaluations == 1 + 6 * last.index

    def test_a_tighter_tolerance_costs_more(self):
        assert self.ends(rtol=1e-6, atol=1e-6).evaluations > self.ends().evaluations

    def test_every_image_has_steps_of_its_own(self):
        now, nxt = CONTINUOUS.at(1000), CONTINUOUS.at(50)
        alone = [
            last_of(probability_flow(MIXTURE.denoise, x[None], now, nxt, CONTINUOUS)) for x in X_T
        ]
        together = self.ends()
        apart = torch.cat([state.x for state in alone])
        torch.testing.assert_close(together.x, apart, rtol=0, atol=1e-12)
        assert len({state.index for state in alone}) > 1  # some images are harder
        assert together.index == max(state.index for state in alone)

    def test_states_hold_one_level_per_image_and_what_they_started_from(self):
        states = list(
            probability_flow(
                MIXTURE.denoise, X_T, CONTINUOUS.at(1000), CONTINUOUS.at(50), CONTINUOUS
            )
        )
        assert all(state.level.t.shape == (len(X_T),) for state in states)
        torch.testing.assert_close(
            states[0].prediction.eps, MIXTURE.denoise(X_T, CONTINUOUS.at(1000)).eps
        )
        torch.testing.assert_close(states[-1].level.t, torch.full((len(X_T),), 50.0).double())
        for before, after in zip(states, states[1:], strict=False):
            assert bool((after.level.t <= before.level.t).all())

    def test_on_a_table_of_betas_too(self):
        gaussian = Gaussian([0.3], 0.4)
        now, nxt = LINEAR.at(999), LINEAR.at(0)
        *_, last = probability_flow(gaussian.denoise, X_T, now, nxt, LINEAR, 1e-4, 1e-4)
        expected = gaussian.trajectory(X_T, now, nxt)
        torch.testing.assert_close(last.x, expected, rtol=0, atol=1e-3)

    def test_a_broken_network_is_named_with_the_image_and_its_time(self):
        def breaks(x_t, level):
            prediction = MIXTURE.denoise(x_t, level)
            prediction.eps[3] = torch.nan
            return prediction

        with pytest.raises(InputError, match=r"step 0 \(t = 1000\) in images \[3\]"):
            next(probability_flow(breaks, X_T, falling(1)[0], falling(1)[1], CONTINUOUS))

    def test_what_it_cannot_do_is_said(self):
        run = lambda *args, **kw: next(  # noqa: E731
            probability_flow(MIXTURE.denoise, *args, schedule=CONTINUOUS, **kw)
        )
        high, low = CONTINUOUS.at(1000), CONTINUOUS.at(50)
        for ends in ((low, high), (high, CLEAN), (high, high)):
            with pytest.raises(InputError, match="less noisy"):
                run(X_T, *ends)
        with pytest.raises(InputError, match="tolerances"):
            run(X_T, high, low, rtol=0.0)
        with pytest.raises(InputError, match="floating"):
            run(X_T.long(), high, low)
        with pytest.raises(InputError, match="11 of 11 images have not arrived after 2 rounds"):
            list(
                probability_flow(
                    MIXTURE.denoise, X_T, high, low, CONTINUOUS, rtol=1e-9, atol=1e-9, limit=2
                )
            )


def last_of(states):
    *_, last = states
    return last


@pytest.mark.parametrize("schedule", [LINEAR, Schedule.cosine(), CONTINUOUS])
def test_the_slope_of_the_log_snr_is_its_derivative(schedule):
    t = torch.tensor([0.5, 3.25, 123.4, 700.9, 998.6], dtype=torch.float64)
    width = 1e-4
    rise = schedule.at(t + width).log_snr - schedule.at(t - width).log_snr
    torch.testing.assert_close(schedule.log_snr_slope(t), rise / (2 * width), rtol=1e-5, atol=1e-9)
    assert math.isfinite(float(schedule.log_snr_slope(999)))
