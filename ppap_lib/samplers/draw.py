"""Samples from seeds: each depends on its own, whatever else is drawn beside it."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from ppap_lib.diffusion.denoisers import check_bounds
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import Noise, check_seeds
from ppap_lib.diffusion.schedules import AnySchedule, Schedule
from ppap_lib.errors import InputError
from ppap_lib.parameters import whole
from ppap_lib.samplers import solvers
from ppap_lib.samplers.grids import uniform_grid
from ppap_lib.samplers.loop import Step, check_grid, trajectory
from ppap_lib.samplers.solvers import finest_grid

STEPS = 25
"""Steps of a draw that nothing is said of: those of the published study."""


def usual_batch(device: torch.device | str, shape: Sequence[int]) -> int:
    """Return how many samples to draw at a time: few for a CPU, or enough to keep a GPU busy.

    Parameters
    ----------
    device
        Where the networks are.
    shape
        Shape of one sample: channels or features, and the axes along which networks slide.
    """
    if torch.device(device).type == "cpu":
        return 16
    return max(1, min(256, 16 * 256**2 // math.prod(shape[1:])))


def draw(
    model: Diffusion | Callable[[Sequence[int]], Diffusion],
    seeds: Sequence[int],
    solver: str | Step = "ddim",
    *,
    steps: int | None = None,
    evaluations: int | None = None,
    grid: Sequence[Level] | None = None,
    batch: int | None = None,
    done: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw one sample a seed, and return them all.

    A sample depends on its own seed alone: on one CPU it is equal to the last bit whichever other
    seeds are drawn, however many and in which order, by every method of guidance; on a GPU so far
    as its kernels repeat themselves. Networks in float32 round differently for another batch size,
    by 1e-6, and guidance by a classifier that is sharp on clean images multiplies that by up to a
    million within 25 steps. So every batch has one size, the last is filled up with copies of its
    samples, and threads are a power of two, none of which gets part of a sample. Between machines,
    and between values of `batch`, 25 steps at scale 7.5 differ by rounding and what becomes of it:
    1e-5 without guidance, 1e-3 with experts, anything with a clean classifier that reads x0. With
    networks in float64, which take two to five times as long, even that agrees to 1e-7.

    A progress bar counts steps at a terminal and in JupyterLab; elsewhere there is none.

    Parameters
    ----------
    model
        What to sample from, guided or not; or, where that depends on the seed, such as on its
        class, a function from a batch's seeds to a model for that batch. A batch that is filled up
        has some of its seeds twice or more.
    seeds
        Whole numbers in [0, 2^32), N of them, each once.
    solver
        A name in `ppap_lib.samplers.SOLVERS`, made for the model's schedule, which ends at low
        order where it extrapolates; or a step.
    steps
        Number of steps, 25 by default: for "ddim" and its kin the public respacing "ddim25", for
        "ddpm_small" and "ddpm_large" the public "25", for all others even in t.
    evaluations
        Instead of `steps`: as many as evaluate the denoiser no more often than this.
    grid
        Instead of either: the levels to visit.
    batch
        Samples at a time, 16 on a CPU by default and up to 256 on a GPU. A draw of fewer costs as
        much as one of so many: for a quick look at one or two give their number.
    done
        Called with the number of samples after every batch, in place of the progress bar.

    Returns
    -------
    Tensor
        float32 [N, *shape] on the CPU, clamped to `model.bounds` if the data have a range; where
        the model decodes, [N, ...] as decoded.

    Raises
    ------
    InputError
        If there is no seed or one occurs twice, no such solver, or more than one of `steps`,
        `evaluations` and `grid`.
    ScheduleError
        If there is no such respacing.
    """
    seeds = check_seeds(seeds)
    model_for = _by_seeds(model)
    first = model_for(seeds[:1])
    size = usual_batch(first.device, first.shape) if batch is None else whole("batch", batch)
    if size < 1:
        raise InputError(f"a batch has at least one sample, not {size}")
    levels, step = _path(first.schedule, solver, steps, evaluations, grid)

    samples = []
    batches = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    steps_in_all = len(batches) * (len(levels) - 1)
    with _even_threads(), _progress_bar(steps_in_all, shown=done is None) as bar:
        for part in batches:
            drawn = _drawn(model_for, part, size, levels, step, bar.update)
            samples.append(drawn[: len(part)].float().cpu())
            if done is not None:
                done(len(part))
    return torch.cat(samples)


def _by_seeds(
    model: Diffusion | Callable[[Sequence[int]], Diffusion],
) -> Callable[[Sequence[int]], Diffusion]:
    """A function from a batch's seeds to its model, whichever way the model was given."""
    if isinstance(model, Diffusion):
        return lambda part: model

    def model_for(part: Sequence[int]) -> Diffusion:
        made = model(part) if callable(model) else model
        if not isinstance(made, Diffusion):
            raise InputError(
                f"what is drawn from is a Diffusion, as ppap.load returns and "
                f"ppap.Diffusion(denoise, schedule, shape) makes, or a function from seeds to "
                f"one, not a {type(made).__name__}"
            )
        return made

    return model_for


def _path(
    schedule: AnySchedule,
    solver: str | Step,
    steps: int | None,
    evaluations: int | None,
    grid: Sequence[Level] | None,
) -> tuple[Sequence[Level], Step]:
    """The levels to visit, and the step that leads from one to the next."""
    if sum(limit is not None for limit in (steps, evaluations, grid)) > 1:
        raise InputError("steps, evaluations and grid are three ways to say one thing: give one")
    named = solvers.solver(solver) if isinstance(solver, str) else None
    step = named.make(schedule) if named else solver
    if grid is None:
        if not isinstance(schedule, Schedule):
            raise InputError(
                "a continuous schedule has no first and last level: give a grid, such as "
                "uniform_grid(schedule, 25, start, stop)"
            )
        if evaluations is not None:
            even, fewest = partial(uniform_grid, schedule), named.fewest if named else 2
            # A step costs the same wherever its levels lie.
            steps = len(finest_grid(evaluations, step, even, fewest)) - 1
        grid = _grid(schedule, named.name if named else "", STEPS if steps is None else steps)
    check_grid(grid)
    return grid, named.make(schedule, lower_final=grid) if named else step


def _grid(schedule: Schedule, solver: str, steps: int) -> Sequence[Level]:
    """The levels of so many steps: where public code has a respacing for its solver, that one."""
    if solver.startswith("ddim"):
        return schedule.grid(f"ddim{steps}")
    if solver.startswith("ddpm"):
        return schedule.grid(str(steps))
    return uniform_grid(schedule, steps)


def _drawn(
    model_for: Callable[[Sequence[int]], Diffusion],
    seeds: Sequence[int],
    size: int,
    grid: Sequence[Level],
    step: Step,
    tell: Callable[[], None],
) -> Tensor:
    """The samples [size, ...] of a batch that is filled up with copies of its own."""
    rows = torch.arange(size, device="cpu") % len(seeds)
    model = model_for([seeds[row] for row in rows])
    own, rows = Noise(seeds, model.shape, device=model.device), rows.to(model.device)

    def noise() -> Tensor:
        return own()[rows]

    for state in trajectory(model.denoise, noise(), grid, step, noise):
        x = state.x
        tell()
    if model.bounds is not None:
        check_bounds(model.bounds)
        x = x.clamp(*model.bounds)
    if model.decode is None:
        return x
    with torch.no_grad():
        return model.decode(x.float())


@contextmanager
def _even_threads() -> Iterator[None]:
    """Fewer threads, if need be, so that they are a power of two.

    Group norms and activations cut a batch into as many pieces as threads, and round a sample
    otherwise if a cut goes through it: halves of halves of 16 samples go through none.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 << threads.bit_length() - 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _progress_bar(total: int, shown: bool):
    """A bar of steps, where someone looks: at a terminal, or at a notebook that Jupyter serves."""
    from tqdm.auto import tqdm

    # A page that is built or rerun by papermill has neither.
    looks = sys.stderr is not None and sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ
    return tqdm(total=total, unit="step", disable=not (shown and looks), leave=False)
