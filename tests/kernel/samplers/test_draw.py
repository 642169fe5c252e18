"""Drawing: what is drawn depends on seeds, and the path from a few words to a grid and a step."""

import io
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import seed_labels
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import InputError, ScheduleError
from ppap_lib.guidance import at_xt
from ppap_lib.guidance.tasks import Classification
from ppap_lib.samplers import SOLVERS, ddim, ddpm, finest_grid, log_snr_grid, solver, uniform_grid
from ppap_lib.samplers.draw import draw, usual_batch

LINEAR = Schedule.linear()
SHAPE = (1, 2, 2)
MIXTURE = Mixture(
    torch.tensor([[[[0.5, 0.1], [0.2, -0.3]]], [[[-0.5, 0.3], [0.0, 0.4]]]]), [0.1, 0.2]
)
MODEL = Diffusion(MIXTURE.denoise, LINEAR, SHAPE)
GRID = LINEAR.grid("ddim5")


def around(mean, shape):
    """A model of samples that are `mean` throughout."""
    return Diffusion(Mixture(torch.full((1, *shape), mean), [0.1]).denoise, LINEAR, shape)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_any_batch_size_gives_the_same_samples_bitwise(eta):
    runs = [draw(MODEL, range(7), ddim(eta), grid=GRID, batch=size) for size in (1, 3, 7, 16)]
    assert all(torch.equal(run, runs[0]) for run in runs)
    reordered = draw(MODEL, torch.tensor([5, 2]), ddim(eta), grid=GRID)
    assert torch.equal(reordered, runs[0][[5, 2]])


def test_a_function_of_seeds_makes_the_model_of_each_batch():
    """Guidance to each seed's own class, split anyhow, is guidance of the whole."""
    asked = []

    def towards_own_class(seeds):
        asked.append(list(seeds))
        return MODEL.guided(at_xt(MIXTURE, Classification(), seed_labels(seeds, 2)), 4.0)

    runs = [draw(towards_own_class, range(6), grid=GRID, batch=size) for size in (4, 6)]
    assert torch.equal(*runs)
    classes = MIXTURE.log_posterior(runs[0].double(), LINEAR.at(0)).argmax(1)
    assert classes.tolist() == [0, 1] * 3
    assert [0, 1, 2, 3] in asked and [4, 5, 4, 5] in asked  # filled up with its own seeds


def test_every_evaluation_has_the_size_of_a_batch():
    sizes = set()

    def watched(x_t, level):
        sizes.add(len(x_t))
        return MIXTURE.denoise(x_t, level)

    model = replace(MODEL, denoise=watched)
    assert len(draw(model, range(20), "heun", steps=3)) == 20 and sizes == {
        usual_batch("cpu", SHAPE)
    }
    sizes.clear()
    assert len(draw(model, [3], "heun", steps=3, batch=5)) == 1 and sizes == {5}


def test_a_range_is_kept_where_there_is_one_and_nothing_else_is_clamped():
    pixels = draw(replace(around(5.0, SHAPE), bounds=(-1.0, 1.0)), range(3), grid=GRID)
    assert pixels.dtype == torch.float32 and bool((pixels == 1).all())
    for shape in ((6, 24), (5,), SHAPE):
        series = draw(around(5.0, shape), range(3), "dpmpp_2m", steps=5)
        assert series.shape == (3, *shape) and (series - 5).abs().max() < 1
        assert series.dtype == torch.float32 and not series.requires_grad


def test_latents_are_decoded_a_batch_at_a_time_without_a_graph():
    weight, sizes = torch.ones(2, 1, requires_grad=True), []

    def decode(latents):
        assert latents.dtype == torch.float32
        sizes.append(len(latents))
        return (latents @ weight).view(-1, 1, 1, 1)

    model = replace(around(3.0, (2,)), decode=decode)
    images = draw(model, range(5), grid=GRID, batch=3)
    assert images.shape == (5, 1, 1, 1) and sizes == [3, 3] and not images.requires_grad
    plain = draw(replace(model, decode=None), range(5), grid=GRID)
    torch.testing.assert_close(images.flatten(), plain.sum(1))


def levels_and_step(monkeypatch, *how, schedule=LINEAR, **limits):
    """What `draw` hands to the loop."""
    seen = []

    def walk(denoise, x_T, grid, step, noise):
        seen.append(([float(level.t) for level in grid], step))
        raise InterruptedError

    monkeypatch.setattr("ppap_lib.samplers.draw.trajectory", walk)
    with pytest.raises(InterruptedError):
        draw(replace(MODEL, schedule=schedule), [0], *how, **limits)
    return seen[0]


def times(grid):
    return [float(level.t) for level in grid]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, LINEAR.grid("ddim25")) for name in ("ddim", "ddim_0.5", "ddim_sigma_hat")),
        *((name, LINEAR.grid("25")) for name in ("ddpm_small", "ddpm_large")),
        *((name, uniform_grid(LINEAR, 25)) for name in ("heun", "dpmpp_2m", "karras", ddim(), 0)),
    ],
)
def test_steps_are_those_of_the_public_code_and_else_even_in_t(monkeypatch, name, expected):
    name = ddpm() if name == 0 else name
    assert levels_and_step(monkeypatch, name, steps=25)[0] == times(expected)
    assert levels_and_step(monkeypatch, name)[0] == times(expected)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m", "f_pndm", "prk", "ddpm_small"])
@pytest.mark.parametrize("budget", [13, 25])
def test_evaluations_are_not_exceeded_and_not_left_over(name, budget):
    calls = []

    def counted(x_t, level):
        calls.append(float(level.t))
        return MIXTURE.denoise(x_t, level)

    model, one = replace(MODEL, denoise=counted), SOLVERS[name]
    images = draw(model, [1, 2], name, evaluations=budget)
    spent = len(calls)
    grid = finest_grid(budget, one.make(LINEAR), partial(uniform_grid, LINEAR), one.fewest)
    assert spent <= budget
    calls.clear()
    draw(model, [1, 2], name, steps=len(grid))  # one more
    assert len(calls) > budget
    assert torch.equal(images, draw(model, [1, 2], name, steps=len(grid) - 1))


def test_a_named_solver_ends_at_low_order_and_a_step_is_taken_as_it_is():
    model = replace(MODEL, denoise=Mixture(torch.tensor([[-0.7], [0.4]]), [0.05, 0.3]).denoise)
    model, grid = replace(model, shape=(1,)), uniform_grid(LINEAR, 5)
    lowered, full = (solver("dpmpp_3m").make(LINEAR, last) for last in (grid, None))
    expected = draw(model, range(3), lowered, grid=grid)
    assert torch.equal(draw(model, range(3), "dpmpp_3m", steps=5), expected)
    assert not torch.equal(draw(model, range(3), full, steps=5), expected)


def test_a_grid_of_one_s_own_serves_a_continuous_schedule(monkeypatch):
    smooth = ContinuousSchedule()
    grid = log_snr_grid(smooth, 4, 900, 10)
    seen, _ = levels_and_step(monkeypatch, "heun", schedule=smooth, grid=grid)
    assert seen == times(grid)


def test_a_gpu_is_given_as_many_samples_as_keep_it_busy():
    assert usual_batch("cpu", (3, 256, 256)) == usual_batch("cpu", (1, 32, 32)) == 16
    assert usual_batch("cuda", (3, 256, 256)) == 16 and usual_batch("cuda", (1, 32, 32)) == 256
    assert usual_batch("cuda", (3, 4096, 4096)) == 1
    assert usual_batch("cuda", (6, 24)) == usual_batch("cuda", (5,)) == 256


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("jupyter", [True, False])
@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO(), None])
def test_a_bar_is_shown_where_someone_looks(monkeypatch, stderr, jupyter):
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if jupyter:
        monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    bars = []

    def bar(**options):
        bars.append(options)
        return tqdm(**options | {"file": io.StringIO()})

    from tqdm.auto import tqdm

    monkeypatch.setattr("tqdm.auto.tqdm", bar)
    told = []
    draw(MODEL, range(5), grid=GRID, batch=2)
    draw(MODEL, range(5), grid=GRID, batch=2, done=told.append)
    looks = jupyter or isinstance(stderr, Terminal)
    assert [options["disable"] for options in bars] == [not looks, True]
    assert bars[0]["total"] == 15 and told == [2, 2, 1]


def test_a_bar_ends_with_all_steps_taken(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    draw(MODEL, range(5), grid=GRID, batch=2)
    assert "15" in terminal.getvalue()


@pytest.mark.parametrize(
    ("model", "arguments", "limits", "message"),
    [
        (MODEL, ([],), {}, "no seeds: give one per sample"),
        (MODEL, (8,), {}, "seeds are a sequence, .* range\\(8\\)"),
        (MODEL, ([*range(40), 3],), {"batch": 4}, "a seed occurs twice"),
        (MODEL, ([2**32],), {}, "seeds must be in \\[0, 2\\^32\\)"),
        (MODEL, ([0],), {"batch": 0}, "at least one sample, not 0"),
        (MODEL, ([0],), {"steps": 5, "evaluations": 5}, "three ways to say one thing: give one"),
        (MODEL, ([0],), {"steps": 5, "grid": GRID}, "three ways to say one thing: give one"),
        (MODEL, ([0], "dpmpp2m"), {}, "no solver 'dpmpp2m': did you mean 'dpmpp_2m'"),
        (MODEL, ([0], "f_pndm"), {"evaluations": 5}, "needs at least 13 evaluations"),
        (MODEL, ([0], ddim), {"steps": 5}, "ddim does not: .* ddim\\(\\)"),
        (MODEL, ([0], None), {"steps": 5}, "a step is a function"),
        (MIXTURE, ([0],), {}, "drawn from is a Diffusion, .* not a Mixture"),
        (lambda part: MIXTURE.denoise, ([0],), {}, "drawn from is a Diffusion, .* not a method"),
        (
            replace(MODEL, schedule=ContinuousSchedule()),
            ([0],),
            {"steps": 5},
            "a continuous schedule has no first and last level: give a grid",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(model, arguments, limits, message):
    with pytest.raises(InputError, match=message):
        draw(model, *arguments, **limits)


def test_a_respacing_that_there_is_not_is_refused():
    with pytest.raises(ScheduleError, match="no whole stride cuts 1000 steps into 300"):
        draw(MODEL, [0], steps=300)
