"""What a budget of evaluations buys, and which names need no budget of their own."""

import pytest
import torch

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.levels import CLEAN
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import ContinuousSchedule
from ppap_lib.errors import InputError
from ppap_lib.samplers import (
    SOLVERS,
    adaptive,
    count_evaluations,
    finest_grid,
    probability_flow,
    sample,
    trajectory,
    uniform_grid,
)

CONTINUOUS = ContinuousSchedule()
STEPS = {name: one.make(CONTINUOUS) for name, one in SOLVERS.items()}
SAME = {name: one.same_as for name, one in SOLVERS.items() if one.same_as}
MIXTURE = Mixture(torch.tensor([[-1.0], [0.2], [1.1]]), [0.3, 0.2, 0.25], [0.3, 0.3, 0.4])


def build(steps):
    return uniform_grid(CONTINUOUS, steps, 1000, 1)


# Solvers whose evaluations per step differ, and the steps that 10 and 20 evaluations buy.
AFFORDED = {
    "ddim": (10, 20),
    "heun": (5, 10),
    "dpm_solver_3": (4, 7),
    "prk": (3, 5),
    "s_pndm": (9, 19),
    "karras": (5, 10),
}


@pytest.mark.parametrize("name", AFFORDED)
def test_the_finest_grid_within_the_budget(name):
    for budget, steps in zip((10, 20), AFFORDED[name], strict=True):
        grid = finest_grid(budget, STEPS[name], build)
        assert len(grid) - 1 == steps
        assert count_evaluations(STEPS[name], grid) <= budget
        assert count_evaluations(STEPS[name], build(steps + 1)) > budget


@pytest.mark.parametrize("name", ["f_pndm", "fon"])
def test_a_warm_up_and_the_last_step_are_the_least_that_counts(name):
    """F-PNDM and FON: 13 evaluations, for three steps of four and the last one."""
    fewest = SOLVERS[name].fewest
    assert len(finest_grid(13, STEPS[name], build, fewest)) - 1 == 4
    with pytest.raises(InputError, match="at least 13 evaluations, for 4 steps: the budget"):
        finest_grid(12, STEPS[name], build, fewest)


def test_a_budget_below_two_steps_is_refused_with_what_is_needed():
    with pytest.raises(InputError, match="needs at least 5 evaluations, for 2 steps"):
        finest_grid(4, STEPS["prk"], build)


@pytest.mark.parametrize("name", SAME)
def test_two_names_of_one_solver(name):
    ends = []
    for solver in (name, SAME[name]):
        noise = Noise(range(5), (1,))
        ends.append(sample(MIXTURE.denoise, noise(), build(7), STEPS[solver], noise))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_all_other_names_mean_solvers_of_their_own():
    ends = {}
    for name in SOLVERS.keys() - SAME.keys():
        noise = Noise(range(5), (1,))
        ends[name] = sample(MIXTURE.denoise, noise(), build(7), STEPS[name], noise)
    for name, end in ends.items():
        twins = [n for n, other in ends.items() if torch.allclose(end, other, atol=1e-9)]
        assert twins == [name]


def test_the_adaptive_solver_as_a_step():
    grid = (CONTINUOUS.at(1000), CONTINUOUS.at(1), CLEAN)
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    *_, arrived = probability_flow(MIXTURE.denoise, x_T, grid[0], grid[1], CONTINUOUS, 0.1, 0.1)
    *_, last = trajectory(MIXTURE.denoise, x_T, grid, adaptive(CONTINUOUS, 0.1, 0.1))
    assert torch.equal(last.x, MIXTURE.denoise(arrived.x, grid[1]).x0)
    assert last.evaluations == arrived.evaluations + 2  # its start once more, and the last level
