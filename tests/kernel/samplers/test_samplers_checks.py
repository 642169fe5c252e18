"""Whether predictions are finite: asked once a step, after it, and answered with what broke."""

import pytest
import torch

from ppap_lib.diffusion.analytic import Mixture
from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import InputError
from ppap_lib.guidance import gradient_field, guided
from ppap_lib.samplers import SOLVERS, adaptive, ddpm, probability_flow, sample, trajectory

LINEAR, CONTINUOUS = Schedule.linear(), ContinuousSchedule()
MIXTURE = Mixture(torch.tensor([[-1.0], [0.2], [1.1]]), [0.3, 0.2, 0.25], [0.3, 0.3, 0.4])
WAITS = {"__bool__", "__float__", "__int__", "__index__", "item", "tolist", "cpu", "nonzero"}


class OnDevice(torch.Tensor):
    """A tensor as if on an accelerator: notes every call for which a program waits for it."""

    events: list[str] = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function.__name__ not in WAITS:
            return result
        cls.events.append(function.__name__)
        return result.as_subclass(torch.Tensor) if isinstance(result, torch.Tensor) else result


def on_device(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None].as_subclass(OnDevice)


def denoise(x_t, level):
    """The exact denoiser, on the device, with all that a prediction can hold but a shift."""
    OnDevice.events.append("evaluation")
    known = MIXTURE.denoise(x_t.as_subclass(torch.Tensor), level)
    x0, eps, v = (
        value.as_subclass(OnDevice) for value in (known.x0, known.eps, 0 * known.eps + 0.5)
    )
    return Prediction(x0, eps, v)


@pytest.fixture
def events():
    OnDevice.events = []
    yield OnDevice.events
    OnDevice.events = []


def guide(x, level, prediction):
    return -x


@pytest.mark.parametrize("steered", [denoise, guided(denoise, gradient_field(guide))])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_waits_for_the_device_once_and_after_all_evaluations(name, steered, events):
    x_T, draw = on_device(-1, 0.5, 2), lambda: on_device(0.3, -1, 0.1)
    grid, step = LINEAR.grid("ddim5"), SOLVERS[name].make(LINEAR)
    evaluations = 0
    for state in trajectory(steered, x_T, grid, step, draw):
        fresh = state.evaluations - evaluations
        assert events == ["evaluation"] * fresh + ["cpu"]
        evaluations = state.evaluations
        events.clear()
    assert isinstance(state.x, OnDevice)


def test_a_step_with_mean_form_guidance_waits_once(events):
    steered = guided(denoise, gradient_field(guide), form="mean")
    states = trajectory(
        steered, on_device(-1, 2), LINEAR.grid("ddim5"), ddpm(), lambda: on_device(1, 0)
    )
    for _ in states:
        assert events == ["evaluation", "cpu"]
        events.clear()


def test_a_round_of_the_adaptive_solver_waits_for_the_check_and_for_its_errors(events):
    flow = probability_flow(denoise, on_device(-1, 2), LINEAR.at(999), LINEAR.at(10), LINEAR)
    for state in flow:
        fresh = 7 if state.index == 1 else 6
        assert events == ["evaluation"] * fresh + ["cpu", "cpu"]
        events.clear()


# --- What broke -----------------------------------------------------------------------------------


def breaking(name, evaluation, images, value=torch.nan):
    """The exact denoiser with learned variance, one quantity broken from an evaluation on."""
    count = 0

    def denoise(x_t, level):
        nonlocal count
        count += 1
        known = MIXTURE.denoise(x_t, level)
        parts = {"x0": known.x0, "eps": known.eps, "v": 0 * known.eps, "shift": 0 * known.eps}
        parts = parts if name == "shift" else {k: parts[k] for k in ("x0", "eps", "v")}
        if count >= evaluation:
            parts[name] = parts[name].index_fill(0, torch.tensor(images), value)
        return Prediction(**parts)

    return denoise


X_T = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]


# Heun evaluates twice a step, PRK four times, UniPC once; the fifth step of five only once.
@pytest.mark.parametrize(
    ("name", "evaluation", "step", "t"),
    [
        ("ddim", 3, 2, 400),
        ("heun", 3, 1, 600),
        ("heun", 4, 1, 400),
        ("prk", 7, 1, 500),
        ("unipc_2", 1, 0, 800),
        ("unipc_2", 5, 4, 0),
    ],
)
@pytest.mark.parametrize("quantity", ["x0", "eps", "v"])
def test_what_broke_is_named_with_its_step_time_and_images(name, evaluation, step, t, quantity):
    broken, grid = breaking(quantity, evaluation, [1, 3]), LINEAR.grid("ddim5")
    message = rf"^{quantity} is not finite at step {step} \(t = {t}\) in images \[1, 3\]: the netw"
    with pytest.raises(InputError, match=message):
        sample(broken, X_T, grid, SOLVERS[name].make(LINEAR))


def test_an_infinite_shift_is_named():
    with pytest.raises(
        InputError, match=r"^shift is not finite at step 1 \(t = 600\) in images \[4"
    ):
        sample(breaking("shift", 2, [4], torch.inf), X_T, LINEAR.grid("ddim5"), ddpm(), lambda: X_T)


def test_the_first_of_several_is_named():
    """A broken x_t breaks the rest of its step; the cause comes first."""
    with pytest.raises(
        InputError, match=r"^eps is not finite at step 1 \(t = 600\) in images \[2\]"
    ):
        sample(breaking("eps", 5, [2]), X_T, LINEAR.grid("ddim5"), SOLVERS["prk"].make(LINEAR))


@pytest.mark.parametrize(("evaluation", "index"), [(1, 0), (7, 0), (8, 1), (13, 1)])
def test_the_adaptive_solver_names_the_round_and_the_time_of_the_image(evaluation, index):
    flow = probability_flow(
        breaking("eps", evaluation, [3]), X_T, CONTINUOUS.at(1000), CONTINUOUS.at(50), CONTINUOUS
    )
    with pytest.raises(InputError, match=rf"^eps is not finite at step {index} .* images \[3\]"):
        list(flow)


def test_the_adaptive_solver_as_a_step_names_it_too():
    grid = [CONTINUOUS.at(1000), CONTINUOUS.at(50)]
    with pytest.raises(InputError, match=r"^eps is not finite at step 0 .* images \[0\]"):
        sample(breaking("eps", 4, [0]), X_T, grid, adaptive(CONTINUOUS))
