"""Step by step against diffusers' schedulers, given the same eps and noise.

A scheduler is asked for its grid of sigma / alpha, which our steps then walk. It keeps that grid
in single precision, hence the tolerance of 1e-5. The last step, to the clean end, is Euler's here;
where theirs differs it is left out.

No scheduler exists for RK4, FON and S-PNDM (diffusers has F-PNDM, whose first steps are PRK, and
PLMS), for DEIS with a polynomial in t, for A-DDIM and for an adaptive solver. Their proofs are
orders and identities, in the tests beside this one.
"""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.denoisers import thresholded
from ppap_lib.diffusion.levels import CLEAN, Level
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.samplers import (
    ddim,
    ddim_sigma_hat,
    ddpm,
    deis,
    dpm2,
    dpm2_ancestral,
    dpm_solver,
    dpmpp_multistep,
    dpmpp_singlestep,
    euler,
    euler_ancestral,
    f_pndm,
    heun,
    k_lms,
    karras,
    plms,
    small_variance,
    trajectory,
    unipc,
)

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

LINEAR, SHAPE = Schedule.linear(), (2, 3, 4, 4)
CONFIG = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
HILLS = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MIXTURE = Mixture(HILLS, [0.2, 0.3, 0.1], [0.5, 0.3, 0.2])


def close(ours, theirs):
    theirs = torch.stack(theirs).double()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)).double()


def draws(count):
    """Fresh generators with known streams: what schedulers take, and the same noise for us."""
    seeds = range(100, 100 + count)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    same = [
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        for s in seeds
    ]
    return generators, same


def level_of(ratio, t=0.0):
    """The level with this sigma / alpha; at 0 the clean end."""
    ratio = torch.as_tensor(float(ratio), dtype=torch.float64)
    if not ratio:
        return CLEAN
    return Level(torch.tensor(float(t)).double(), *(v / (1 + ratio**2).sqrt() for v in (1, ratio)))


def grid_of(ratios):
    """Schedulers of second order list their levels twice, and the clean end at times thrice."""
    ratios = list(dict.fromkeys(float(r) for r in ratios))
    return [level_of(r, t=len(ratios) - i) for i, r in enumerate(ratios)]


def states(step, grid, noise=None):
    path = trajectory(MIXTURE.denoise, start(), grid, step, noise)
    return torch.stack([state.x for state in path])


class TestVariancePreserving:
    """Schedulers whose state is ours, x = alpha x0 + sigma eps."""

    def run(self, scheduler, ratios, orders=None):
        """States and grid of a scheduler that evaluates once per step."""
        scheduler.sigmas = torch.as_tensor(ratios, dtype=torch.float32)
        x, path = start(), []
        for i, (t, ratio) in enumerate(zip(scheduler.timesteps, scheduler.sigmas, strict=False)):
            if orders:
                orders(scheduler, i)
            x = scheduler.step(MIXTURE.denoise(x, level_of(ratio)).eps, t, x).prev_sample
            path.append(x)
        return path

    def ratios(self, scheduler, steps):
        scheduler.set_timesteps(steps)
        return scheduler.sigmas

    @pytest.mark.parametrize("lower", [False, True], ids=["full", "lower"])
    @pytest.mark.parametrize(
        ("kind", "solver", "config"),
        [
            (
                "DPMSolverMultistepScheduler",
                partial(dpmpp_multistep, 2),
                dict(solver_order=2, solver_type="midpoint"),
            ),
            (
                "DPMSolverMultistepScheduler",
                partial(dpmpp_multistep, 3, halved=True),
                dict(solver_order=3, solver_type="midpoint"),
            ),
            (
                "DPMSolverMultistepScheduler",
                partial(deis, 2),
                dict(solver_order=2, algorithm_type="dpmsolver", solver_type="heun"),
            ),
            ("DEISMultistepScheduler", partial(deis, 2), dict(solver_order=2)),
            ("DEISMultistepScheduler", partial(deis, 3), dict(solver_order=3)),
            ("UniPCMultistepScheduler", partial(unipc, 1), dict(solver_order=1)),
            ("UniPCMultistepScheduler", partial(unipc, 2), dict(solver_order=2)),
            (
                "UniPCMultistepScheduler",
                partial(unipc, 2, "bh1"),
                dict(solver_order=2, solver_type="bh1"),
            ),
            ("UniPCMultistepScheduler", partial(unipc, 3), dict(solver_order=3)),
            (
                "UniPCMultistepScheduler",
                partial(unipc, 3, "bh1"),
                dict(solver_order=3, solver_type="bh1"),
            ),
        ],
        ids=lambda value: None if callable(value) else str(value),
    )
    def test_multistep(self, kind, solver, config, lower):
        """Where the order falls at the end, it does so in the last steps between noisy levels: the
        grid ends at the cleanest of them. Below 15 steps, for two of theirs."""
        final = {} if "DEIS" in kind else dict(final_sigmas_type="sigma_min")
        scheduler = getattr(diffusers, kind)(**CONFIG, **config, **final, lower_order_final=lower)
        ratios = self.ratios(scheduler, 12)
        grid = grid_of(ratios)
        step = solver(lower_final=grid if lower else None)
        close(states(step, grid), self.run(scheduler, ratios))

    def test_3m_at_full_weight_has_no_scheduler(self):
        """All public 3M codes halve the second difference; ours at full weight is UniPC's
        predictor, UniP-3, which diffusers gives with the corrector switched off."""
        scheduler = diffusers.UniPCMultistepScheduler(
            **CONFIG,
            solver_order=3,
            lower_order_final=False,
            final_sigmas_type="sigma_min",
            disable_corrector=list(range(20)),
        )
        ratios = self.ratios(scheduler, 12)
        close(states(dpmpp_multistep(3), grid_of(ratios)), self.run(scheduler, ratios))

    def test_dynamic_thresholding(self):
        """A wrapper here, an option of the scheduler there; a prior that overshoots [-1, 1]."""
        scheduler = diffusers.DPMSolverMultistepScheduler(
            **CONFIG,
            solver_order=2,
            final_sigmas_type="sigma_min",
            lower_order_final=False,
            thresholding=True,
            sample_max_value=1e9,
        )
        ratios = self.ratios(scheduler, 10)
        path = trajectory(
            thresholded(MIXTURE.denoise), start(), grid_of(ratios), dpmpp_multistep(2)
        )
        ours = torch.stack([state.x for state in path])
        assert float(MIXTURE.means.abs().max()) > 1.5
        close(ours, self.run(scheduler, ratios))

    @pytest.mark.parametrize("form", ["dpmsolver", "dpmsolver++"])
    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_singlestep(self, form, order):
        """Theirs takes a step's stages from the grid, ours from the schedule: hence a grid with
        the stages where the papers want them. Theirs has the paper's second stage of order 3 only
        as "heun", and its end only as "midpoint"."""
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            **CONFIG, solver_order=order, algorithm_type=form, final_sigmas_type="sigma_min"
        )
        scheduler.set_timesteps(4 * order)
        coarse = np.linspace(np.log(100.0), np.log(0.02), 5)
        inner = np.interp(np.arange(4 * order + 1) / order, np.arange(5), coarse)
        scheduler.order_list = [1 + i % order for i in range(4 * order)]

        def solver_type(scheduler, i):
            stage_of_three = order == 3 and i % 3 == 1
            scheduler.register_to_config(solver_type="heun" if stage_of_three else "midpoint")

        path = self.run(scheduler, np.exp(inner), solver_type)
        solver = dpm_solver if form == "dpmsolver" else dpmpp_singlestep
        close(states(solver(order, LINEAR), grid_of(np.exp(coarse))), path[order - 1 :: order])


class TestPseudoNumerical:
    """diffusers' PNDM reads a table of abar at whole t, so its steps are given in t."""

    def run(self, skip_prk_steps):
        scheduler = diffusers.PNDMScheduler(
            **CONFIG, skip_prk_steps=skip_prk_steps, set_alpha_to_one=False
        )
        scheduler.set_timesteps(20)
        x, path = start(), []
        for t in scheduler.timesteps:
            x = scheduler.step(MIXTURE.denoise(x, LINEAR.at(float(t))).eps, t, x).prev_sample
            path.append(x)
        return path, [int(t) for t in scheduler.timesteps]

    def test_f_pndm(self):
        path, _ = self.run(False)
        times = list(range(950, -1, -50))
        ours = states(f_pndm(LINEAR), LINEAR.grid([float(t) for t in times])[:-1])
        # Four evaluations for each of the first three steps, then one. Their last leads from t = 0
        # to t = 0, for want of a cleaner abar.
        close(ours, [*path[3:12:4], *path[12:-1]])

    def test_plms(self):
        path, times = self.run(True)
        ours = states(plms(), LINEAR.grid([float(t) for t in dict.fromkeys(times)])[:-1])
        # Its second state takes back the first, an Euler step, for Heun's.
        close(ours, path[1:-1])


class TestVarianceExploding:
    """Schedulers whose state is x / alpha = x0 + (sigma / alpha) eps."""

    def run(self, scheduler, grid, middles=None, generators=None):
        """States after whole steps, in our scaling; evaluations at the grid and its `middles`."""
        asked = list(grid[:-1])
        if middles:  # none on the way to the clean end
            asked = [*itertools.chain(*zip(grid, middles, strict=False)), grid[-2]]
        x, path = start() / grid[0].alpha, []
        for i, (t, level) in enumerate(zip(scheduler.timesteps, asked, strict=True)):
            noise = {"generator": generators[i]} if generators else {}
            eps = MIXTURE.denoise(level.alpha * x, level).eps
            x = scheduler.step(eps, t, scheduler_input(scheduler, x, t), **noise).prev_sample
            path.append(x)
        path = [*path[1::2], path[-1]] if middles else path
        return [x * level.alpha for x, level in zip(path, grid[1:], strict=True)]

    def scheduler(self, kind, steps=12):
        scheduler = getattr(diffusers, kind)(**CONFIG, timestep_spacing="leading")
        scheduler.set_timesteps(steps)
        return scheduler

    def test_euler(self):
        scheduler = self.scheduler("EulerDiscreteScheduler")
        grid = grid_of(scheduler.sigmas)
        close(states(euler, grid), self.run(scheduler, grid))

    def test_euler_ancestral(self):
        scheduler = self.scheduler("EulerAncestralDiscreteScheduler")
        grid, (generators, noise) = grid_of(scheduler.sigmas), draws(12)
        theirs = self.run(scheduler, grid, generators=generators)
        same = iter(noise)
        close(states(euler_ancestral(), grid, lambda: next(same)), theirs)

    def test_k_lms(self):
        """Theirs keeps order 4 into the clean end, where ours takes Euler's step; and integrates
        numerically, to 1e-4 of each coefficient, so that its later orders agree to that."""
        scheduler = self.scheduler("LMSDiscreteScheduler")
        grid = grid_of(scheduler.sigmas)
        close(states(k_lms(), grid)[:-1], self.run(scheduler, grid)[:-1])

    def test_heun(self):
        scheduler = self.scheduler("HeunDiscreteScheduler")
        grid = grid_of(scheduler.sigmas)
        close(states(heun, grid), self.run(scheduler, grid, middles=grid[1:-1]))

    def test_dpm2(self):
        scheduler = self.scheduler("KDPM2DiscreteScheduler")
        grid = grid_of(scheduler.sigmas)
        ratios = [level.sigma / level.alpha for level in grid[:-1]]
        middles = [level_of((a * b) ** 0.5) for a, b in itertools.pairwise(ratios)]
        close(states(dpm2(LINEAR), grid), self.run(scheduler, grid, middles))

    def test_dpm2_ancestral(self):
        """The middle of their step, in log(sigma / alpha), is the grid's next level."""
        scheduler = self.scheduler("KDPM2AncestralDiscreteScheduler")
        grid = grid_of(scheduler.sigmas)
        generators, noise = draws(23)
        theirs = self.run(scheduler, grid, grid[1:-1], generators)
        same = iter(noise[1::2])  # every step's second half draws
        close(states(dpm2_ancestral(LINEAR), grid, lambda: next(same)), theirs)

    def test_karras(self):
        """Their model returns minus eps, and their noise is of single precision. No noise is added
        above 50 and below 0.05, so the grid's ends are not raised."""
        from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeScheduler

        sigmas = np.geomspace(80, 0.02, 10)
        scheduler = KarrasVeScheduler(s_noise=1.01, s_churn=2)  # gamma = 2 / 10
        scheduler.set_timesteps(len(sigmas))
        grid = grid_of([*(s * 1.2 if 0.05 <= s <= 50 else s for s in sigmas), 0.0])

        def model(x, sigma):
            level = level_of(sigma)
            return -MIXTURE.denoise(level.alpha * x, level).eps

        generator = torch.Generator().manual_seed(5)
        x, high, path = start() / grid[0].alpha, sigmas[0], []
        for low, level in zip(sigmas[1:], grid[1:-1], strict=True):
            euler_step = scheduler.step(model(x, high), high, low, x)
            ahead, slope = euler_step.prev_sample, euler_step.derivative
            corrected = scheduler.step_correct(model(ahead, low), high, low, x, ahead, slope)
            x, high = scheduler.add_noise_to_input(corrected.prev_sample, low, generator)
            path.append(x * level.alpha)
        path.append(scheduler.step(model(x, high), high, 0.0, x).prev_sample)

        generator = torch.Generator().manual_seed(5)
        drawn = iter([torch.randn(SHAPE, generator=generator).double() for _ in sigmas])
        step = karras(LINEAR, gamma=0.2, S_noise=1.01)
        close(states(step, grid, lambda: next(drawn)), path)


def scheduler_input(scheduler, x, t):
    scheduler.scale_model_input(x, t)  # which only notes that it was called: eps is known
    return x


class TestDiffusion:
    """DDIM and DDPM, whose grids are whole t."""

    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    def test_ddim(self, eta):
        scheduler = diffusers.DDIMScheduler(**CONFIG, clip_sample=False)
        scheduler.set_timesteps(20)
        x, path = start(), []
        _, noise = draws(20)
        for t, z in zip(scheduler.timesteps, noise, strict=True):
            eps = MIXTURE.denoise(x, LINEAR.at(float(t))).eps
            x = scheduler.step(eps, t, x, eta=eta, variance_noise=z).prev_sample
            path.append(x)
        same = iter(noise)
        grid = LINEAR.grid([float(t) for t in scheduler.timesteps])
        close(states(ddim(eta), grid, lambda: next(same)), path)

    @pytest.mark.parametrize(
        ("variance_type", "step"),
        [("fixed_small_log", ddpm(small_variance)), ("fixed_large", ddim_sigma_hat)],
        ids=["small", "sigma-hat"],
    )
    def test_ddpm(self, variance_type, step):
        scheduler = diffusers.DDPMScheduler(
            **CONFIG, variance_type=variance_type, clip_sample=False
        )
        scheduler.set_timesteps(20)
        x, path = start(), []
        generators, noise = draws(20)
        for t, generator in zip(scheduler.timesteps, generators, strict=True):
            eps = MIXTURE.denoise(x, LINEAR.at(float(t))).eps
            x = scheduler.step(eps, t, x, generator=generator).prev_sample
            path.append(x)
        same = iter(noise)
        grid = LINEAR.grid([float(t) for t in scheduler.timesteps])
        close(states(step, grid, lambda: next(same)), path)
