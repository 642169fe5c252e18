"""Levels, schedules and respacing, against the public tables and by identity."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from places import GOLDEN as FOLDER

from ppap_lib.diffusion.levels import CLEAN, Level, Posterior
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule, respace
from ppap_lib.errors import ScheduleError

GOLDEN = np.load(FOLDER / "schedules.npz")
PUBLIC = {"linear": Schedule.linear(), "cosine": Schedule.cosine()}
CASES = sorted({tuple(key.split("/")[:2]) for key in GOLDEN.files})
SCHEDULES = {
    **PUBLIC,
    "linear T=100": Schedule.linear(100),
    "linear T=4000": Schedule.linear(4000),
    "linear 1e-5..0.05": Schedule.linear(1000, 1e-5, 0.05),
    "falling betas": Schedule.linear(500, 0.02, 1e-3),
    "cosine T=37": Schedule.cosine(37),
    "two steps": Schedule([0.1, 0.2]),
    "one step": Schedule([0.5]),
}


def golden(name: str, spacing: str, table: str) -> np.ndarray:
    return GOLDEN[f"{name}/{spacing}/{table}"]


def batch(levels) -> Level:
    return Level(*(torch.stack([getattr(v, k) for v in levels]) for k in ("t", "alpha", "sigma")))


# --- The public tables ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_betas_are_the_public_ones(name):
    schedule = PUBLIC[name]
    for table in ("betas", "alphas_cumprod"):
        found = getattr(schedule, table).numpy()
        np.testing.assert_allclose(found, golden(name, "full", table), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "spacing"), CASES)
def test_respaced_grids_are_the_public_ones(name, spacing):
    schedule = PUBLIC[name]
    grid = schedule.grid("" if spacing == "full" else spacing)
    assert grid[-1] is CLEAN
    assert [int(level.t) for level in grid[-2::-1]] == golden(
        name, spacing, "timestep_map"
    ).tolist()

    # Everything a step needs follows from the two ends: rising order, as the tables have it.
    now, nxt = batch(grid[-2::-1]), batch(grid[:0:-1])
    posterior = Posterior.between(now, nxt)
    tables = {
        "alphas_cumprod": now.alpha**2,
        "betas": posterior.beta,
        "posterior_variance": posterior.variance,
        "posterior_mean_coef1": posterior.from_x0,
        "posterior_mean_coef2": posterior.from_x_t,
    }
    for table, found in tables.items():
        expected = golden(name, spacing, table)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12, err_msg=table)


# --- Levels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_preserve_variance_and_signal_to_noise_falls(name):
    schedule = SCHEDULES[name]
    levels = schedule.at(torch.linspace(0, schedule.T - 1, 4 * schedule.T))
    torch.testing.assert_close(
        levels.alpha**2 + levels.sigma**2, torch.ones_like(levels.t), rtol=0, atol=1e-14
    )
    assert levels.alpha.dtype == levels.sigma.dtype == levels.t.dtype == torch.float64
    assert bool((schedule.log_snr.diff() < 0).all())
    distinct = levels.log_snr[levels.t.diff(prepend=torch.tensor([-1.0])) > 0]
    assert bool((distinct.diff() < 0).all())


@pytest.mark.parametrize("name", SCHEDULES)
def test_integer_times_are_exact(name):
    schedule = SCHEDULES[name]
    levels = schedule.at(torch.arange(schedule.T))
    # exp(log(abar)/2) rounds twice; anything beyond that would be interpolation.
    torch.testing.assert_close(levels.alpha**2, schedule.alphas_cumprod, rtol=1e-14, atol=0)
    torch.testing.assert_close(levels.sigma**2, 1 - schedule.alphas_cumprod, rtol=1e-10, atol=1e-15)
    for t in {0, schedule.T // 2, schedule.T - 1}:
        assert schedule.at(t).alpha == levels.alpha[t]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_whole_timestep_stays_whole(name):
    """One that comes back a rounding error too small would be the expert's below an edge."""
    schedule = SCHEDULES[name]
    t = torch.arange(1, schedule.T, dtype=torch.float64)
    assert torch.equal(schedule.at_log_snr(schedule.at(t).log_snr).t, t)
    assert torch.equal(schedule.at(t - 1e-13).t, t)
    assert torch.equal(schedule.at(t - 1e-3).t, t - 1e-3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_at_log_snr_inverts_at(name):
    schedule = SCHEDULES[name]
    t = torch.linspace(0, schedule.T - 1, 501, dtype=torch.float64)
    level = schedule.at(t)
    back = schedule.at_log_snr(level.log_snr)
    torch.testing.assert_close(back.t, t, rtol=0, atol=1e-7)
    torch.testing.assert_close(back.alpha, level.alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(back.sigma, level.sigma, rtol=1e-12, atol=0)


@given(
    betas=st.lists(st.floats(1e-6, 0.999), min_size=2, max_size=6),
    share=st.floats(0, 1),
)
def test_the_inverse_holds_on_any_table(betas, share):
    # Betas that leap bend the cubics, so that Newton's method alone would leave its bracket.
    schedule = Schedule(betas)
    high, low = float(schedule.log_snr[0]), float(schedule.log_snr[-1])
    target = high + share * (low - high)
    t = schedule.at_log_snr(target).t
    assert 0 <= t <= schedule.T - 1
    assert float(schedule.at(t).log_snr) == pytest.approx(target, rel=1e-9, abs=1e-9)


@given(data=st.data(), name=st.sampled_from(sorted(SCHEDULES)))
def test_interpolation_stays_between_the_integers_and_is_monotone(data, name):
    schedule = SCHEDULES[name]
    assume(schedule.T > 1)
    left = data.draw(st.integers(0, schedule.T - 2))
    u, v = sorted(data.draw(st.tuples(*[st.floats(0, 1)] * 2)))
    log_snr = [float(schedule.at(left + w).log_snr) for w in (0, u, v, 1)]
    slack = 1e-9  # rounding of the logarithms
    assert all(a >= b - slack for a, b in zip(log_snr, log_snr[1:], strict=False))


@settings(max_examples=50)
@given(betas=st.lists(st.floats(1e-5, 0.999), min_size=2, max_size=30))
def test_any_betas_make_a_monotone_schedule(betas):
    # abar must stay a normal number: thirty betas of 0.999 would leave 1e-90, still fine.
    schedule = Schedule(betas)
    assert bool((schedule.log_snr.diff() < 0).all())
    t = torch.linspace(0, schedule.T - 1, 301, dtype=torch.float64)
    assert bool((schedule.at(t).log_snr.diff() < 1e-9).all())


def test_interpolation_reproduces_a_smooth_schedule():
    # The linear table is a sampling of a smooth curve: leave out every other node and compare.
    fine = Schedule.linear()
    abar = fine.alphas_cumprod[::2]
    coarse = Schedule(1 - torch.cat([abar[:1], abar[1:] / abar[:-1]]))
    t = torch.arange(25, 475)
    torch.testing.assert_close(
        coarse.at(t + 0.5).log_snr, fine.at(2 * t + 1).log_snr, rtol=0, atol=1e-4
    )


def test_levels_broadcast_over_images_and_keep_their_dtype():
    schedule = PUBLIC["linear"]
    x0, eps = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    level = schedule.at(torch.tensor([0, 500, 999]))
    x_t = level.noised(x0, eps)
    assert x_t.dtype == torch.float32
    for i in range(3):
        one = schedule.at([0, 500, 999][i]).noised(x0[i : i + 1], eps[i : i + 1])
        torch.testing.assert_close(x_t[i : i + 1], one)
        assert level[i].t == [0, 500, 999][i]
    assert level.times(x0).tolist() == [0, 500, 999]
    assert schedule.at(2.5).times(x0).tolist() == [2.5] * 3
    assert level.times(x0).dtype == torch.float32


def test_the_clean_end_is_the_image_itself():
    x0 = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(CLEAN.noised(x0, torch.randn_like(x0)), x0)
    assert CLEAN.clean and CLEAN.log_snr == math.inf
    assert not any(level.clean for level in PUBLIC["cosine"].grid()[:-1])


def test_linear_betas_scale_with_T():
    # Scaled by 1000/T, so that the last level hardly depends on T.
    ends = [float(Schedule.linear(T).alphas_cumprod[-1].log()) for T in (200, 1000, 4000)]
    assert max(ends) - min(ends) < 1.5 and max(ends) < -9


# --- Continuous time --------------------------------------------------------------------------


@given(u=st.floats(1e-4, 1), T=st.sampled_from([1, 100, 1000]))
def test_the_continuous_schedule_is_its_formula(u, T):
    level = ContinuousSchedule(T=T).at(u * T)
    log_abar = -(0.1 * u + 9.95 * u**2)
    assert math.isclose(2 * math.log(float(level.alpha)), log_abar, rel_tol=1e-9, abs_tol=1e-15)
    assert math.isclose(float(level.sigma) ** 2, -math.expm1(log_abar), rel_tol=1e-9)
    assert float(level.t) == u * T


def test_the_continuous_inverse():
    schedule = ContinuousSchedule()
    t = torch.linspace(1, 1000, 400, dtype=torch.float64)
    level = schedule.at(t)
    back = schedule.at_log_snr(level.log_snr)
    torch.testing.assert_close(back.t, t, rtol=1e-9, atol=0)
    torch.testing.assert_close(back.sigma, level.sigma, rtol=1e-12, atol=0)
    assert bool((level.log_snr.diff() < 0).all())


@pytest.mark.parametrize("beyond", [-15.0, math.nan, math.inf, 800.0, [0.0, -15.0]])
def test_log_snrs_beyond_the_continuous_schedule_are_refused(beyond):
    schedule = ContinuousSchedule()
    noisiest = schedule.at(1000).log_snr
    assert schedule.at_log_snr(noisiest).t == pytest.approx(1000, rel=1e-12)
    with pytest.raises(ScheduleError, match="log-SNR must be finite and at least -10.05"):
        schedule.at_log_snr(torch.tensor(beyond))


def test_the_linear_table_approaches_the_continuous_schedule():
    table, smooth = Schedule.linear(4000), ContinuousSchedule(T=4000)
    t = torch.arange(400, 4000, 400)
    # Entry t is the state after t+1 steps.
    torch.testing.assert_close(table.at(t).alpha, smooth.at(t + 1).alpha, rtol=0.02, atol=0)


def test_grids_of_the_continuous_schedule_have_no_clean_end():
    grid = ContinuousSchedule(T=1).grid([1.0, 0.5, 0.05])
    assert [float(level.t) for level in grid] == [1.0, 0.5, 0.05]


# --- Respacing --------------------------------------------------------------------------------


@given(T=st.integers(1, 2000), data=st.data())
def test_a_count_gives_that_many_rising_steps(T, data):
    counts = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=5))
    sections = [T // len(counts) + (i < T % len(counts)) for i in range(len(counts))]
    assume(all(count <= size for count, size in zip(counts, sections, strict=True)))
    assume(sum(counts) > 1 or T == 1)
    kept = respace(T, ",".join(map(str, counts)))
    assert all(a < b for a, b in zip(kept, kept[1:], strict=False))
    assert kept[0] >= 0 and kept[-1] < T
    start = 0
    for count, size in zip(counts, sections, strict=True):
        section = [t for t in kept if start <= t < start + size]
        assert len(section) == count
        assert section[0] == start
        if count > 1:
            assert section[-1] == start + size - 1
        start += size


@given(T=st.integers(1, 2000), stride=st.integers(1, 2000))
def test_a_ddim_respacing_has_one_whole_stride(T, stride):
    steps = len(range(0, T, stride))
    assume(steps > 1 or T == 1)
    kept = respace(T, f"ddim{steps}")
    assert len(kept) == steps and kept[0] == 0 and kept[-1] < T
    assert len({b - a for a, b in zip(kept, kept[1:], strict=False)}) <= 1


def test_ddim25_is_every_fortieth():
    assert respace(1000, "ddim25") == list(range(0, 1000, 40))
    assert respace(1000, "") == list(range(1000))


def test_a_grid_takes_counts_strings_and_times():
    schedule = PUBLIC["linear"]
    times = [[float(level.t) for level in schedule.grid(s)] for s in (4, "4")]
    assert times[0] == times[1] == [999, 666, 333, 0, -1]
    assert [float(level.t) for level in schedule.grid([800.5, 3])] == [800.5, 3, -1]
    assert [float(v.t) for v in schedule.grid(np.array([9, 1]))] == [9, 1, -1]
