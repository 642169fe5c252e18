"""Networks as people have them: dtypes, train modes, and what they return."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sound import LEVEL, LEVELS, LINEAR, TASK, X, head, predict, run
from torch import nn

from ppap_lib.diffusion.analytic import Gaussian, Mixture
from ppap_lib.diffusion.denoisers import (
    as_computed,
    clipped,
    diffusers_network,
    eps_model,
    in_train_mode,
    thresholded,
    x0_model,
)
from ppap_lib.diffusion.levels import CLEAN
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import Noise, seed_labels
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule
from ppap_lib.errors import GuidanceError, InputError
from ppap_lib.experts import Intervals, full_copies
from ppap_lib.guidance import at_x0, at_xt, gradient_field, guided
from ppap_lib.guidance.fields import model_at
from ppap_lib.networks.blocks import timestep_embedding
from ppap_lib.networks.vision import Readout, Vision
from ppap_lib.samplers import SOLVERS, ddim
from ppap_lib.samplers.draw import draw
from ppap_lib.samplers.grids import uniform_grid

HALVES = (torch.float16, torch.bfloat16)


class Quantised(nn.Module):
    """A network whose first parameter holds integers."""

    def __init__(self, *dtypes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.uint8), requires_grad=False)
        for index, dtype in enumerate(dtypes):
            self.register_parameter(f"p{index}", nn.Parameter(torch.ones(1).to(dtype), False))

    def forward(self, x, t=None):
        self.dtype = x.dtype
        return x


class TestDtypes:
    @pytest.mark.parametrize("state", [torch.float64, torch.float32, *HALVES])
    @pytest.mark.parametrize(
        ("dtypes", "expected"),
        [
            ((), torch.float32),
            ((torch.float8_e4m3fn,), torch.float32),
            ((torch.float8_e4m3fn, torch.float16), torch.float16),
            ((torch.int64, torch.float64), torch.float64),
        ],
    )
    def test_a_network_reads_its_first_floating_parameter_s(self, dtypes, expected, state):
        network = Quantised(*dtypes).eval()
        x_t = X.to(state)
        for bound in (network, partial(network), network.forward):
            assert as_computed(x_t, bound).dtype == expected
        prediction = eps_model(network)(x_t, LEVEL)
        assert network.dtype == expected and prediction.eps.dtype == state
        assert prediction.eps.unique().numel() > 2  # no integers

    @pytest.mark.parametrize("dtype", [torch.float64, *HALVES])
    @pytest.mark.parametrize("size", [5, 8, 16])
    def test_vision_reads_as_the_network_does(self, size, dtype):
        expected = Vision(head(), size, 3, range(5), mean=(0.1,))(X.float())
        for vision in (
            Vision(head().to(dtype), size, 3, range(5), mean=(0.1,)),
            Vision(head(), size, 3, range(5), mean=(0.1,)).to(dtype),
        ):
            for images in (X, X.float(), X.to(dtype)):
                found = vision(images)
                assert found.dtype == dtype
                torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)

    @pytest.mark.parametrize("state", [torch.float64, torch.float32, *HALVES])
    @pytest.mark.parametrize("computed", [torch.float64, torch.float32, *HALVES])
    def test_a_state_keeps_its_dtype(self, computed, state):
        x_T = X.to(state)
        vision = Vision(head().to(computed), 6, 3, range(5)).eval()

        def wrapped(x_t, level):
            prediction = predict(x_t, level)
            return replace(
                prediction, x0=prediction.x0.to(computed), eps=prediction.eps.to(computed)
            )

        guides = {
            "x_t": at_xt(vision, TASK, 1),
            "x0": at_x0(vision, TASK, [0, 1, 2, 3], through=True),
            "own": gradient_field(lambda x, level, prediction: torch.ones_like(x, dtype=computed)),
        }
        for denoise in (wrapped, clipped(wrapped), thresholded(wrapped)):
            for guide in guides.values():
                prediction = guided(denoise, guide, 2.0)(x_T, LEVEL)
                assert {prediction.x0.dtype, prediction.eps.dtype} == {state}
            assert run(denoise, x_T).dtype == state
        assert run(x_T=x_T, step=lambda *_: X.to(computed)).dtype == state
        assert run(x_T=x_T, step=ddim(1.0), noise=lambda: X.to(computed)).dtype == state

    def test_thresholds_of_halves_and_of_large_batches_are_those_of_float32(self):
        wide = x0_model(lambda x, t: 3 * x)
        expected = thresholded(wide)(X.float(), LEVEL).x0
        for dtype in HALVES:
            found = thresholded(wide)(X.to(dtype), LEVEL).x0
            torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)
        large = torch.linspace(-1, 1, 2**24 + 8).view(2, -1)  # torch.quantile takes no more
        assert thresholded(wide)(large, LEVEL).x0.abs().max() == 1

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
    def test_torch_s_default_dtype_decides_nothing(self, dtype):
        network = head()

        def facts():
            vision = Vision(network, 6, 3, range(5), (0.1,), (0.3,)).eval()
            experts = full_copies(network, Intervals(1000, 3))
            grid = uniform_grid(Schedule.cosine(), 5)
            return [
                Noise([3, 4], (2,))(),
                *(level.t for level in grid),
                *(level.sigma for level in LINEAR.grid(7)),
                Gaussian([0.1, 0.2], 0.3).denoise(X[:, 0, 0, :2], LEVEL).x0,
                Mixture([[0.1], [0.2]], [0.3, 0.1]).log_posterior(X[:, 0, 0, :1], LEVELS),
                timestep_embedding(torch.tensor([3.3, 999.0], dtype=torch.float32), 32),
                guided(predict, at_xt(vision, TASK, 1).during(0.1, 900.3), 0.1)(X, LEVEL).eps,
                guided(predict, at_xt(experts.eval(), TASK, 1), 0.1)(X, LEVELS).eps,
                run(),
            ]

        expected = facts()
        torch.set_default_dtype(dtype)
        try:
            found = facts()
        finally:
            torch.set_default_dtype(torch.float32)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert one.equal(other)

    def test_torch_s_default_device_decides_nothing(self):
        def facts():
            guide = gradient_field(lambda x, level, prediction: x).during([0, 100, 300, 0], 900)
            steered = guided(predict, guide, 0.1)
            return [
                Noise([3, 4], (2,))(),
                seed_labels([3, 14], 10),
                Schedule.cosine(50).betas,
                LINEAR.at([1, 2.5]).sigma,
                LINEAR.at_log_snr(0.5).t,
                ContinuousSchedule().at_log_snr([0.5]).t,
                CLEAN.sigma,
                *(level.t for level in LINEAR.grid([900.0, 3.5])),
                Intervals(1000, 5).indices_of(LEVELS.t),
                Gaussian([0.1, 0.2], 0.3).denoise(X[:, 0, 0, :2], LEVEL).x0,
                Mixture([[0.1], [0.2]], [0.3, 0.1]).log_posterior(X[:, 0, 0, :1], LEVELS),
                run(steered),
                run(step=SOLVERS["unipc_3"].make(LINEAR)),
                TASK.log_prob(X[:, 0, 0].clone(), [0, 1, 2, 3]),
                draw(Diffusion(predict, LINEAR, (3, 8, 8)), [4, 5], steps=4, batch=3),
            ]

        expected = facts()
        torch.set_default_device("meta")
        try:
            found = facts()
        finally:
            torch.set_default_device(None)
        for one, other in zip(found, expected, strict=True):
            assert one.device.type == "cpu" and one.equal(other)


class TestTrainMode:
    def dropping(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Dropout(0.5))).eval()

    def test_every_part_of_a_diffusers_unet_is_asked(self):
        unet = self.dropping()
        unet.config = SimpleNamespace(num_class_embeds=None)
        unet[1].train()
        with pytest.raises(InputError, match=r"in train mode: call unet.eval\(\) first"):
            eps_model(diffusers_network(unet))(X, LEVEL)

    def test_a_method_of_a_module_is_the_module_s(self):
        network = self.dropping()
        for model in (network.forward, partial(network.forward), network):
            assert not in_train_mode(model)
        network[1][0].train()
        for model in (network.forward, partial(network.forward), network):
            assert in_train_mode(model)
        with pytest.raises(InputError, match="the denoiser, a Sequential, is in train mode"):
            eps_model(partial(network.forward))(X, LEVEL)

    @pytest.mark.parametrize("kind", ["frozen", "exported"])
    def test_modules_without_a_train_mode(self, kind):
        network = head()
        x = X.float()
        if kind == "frozen":
            fixed = torch.jit.freeze(torch.jit.trace(network, x))
        else:
            fixed = torch.export.export(network, (x,)).module()
        vision, expected = Vision(fixed, 8, 3, range(5)), network(x)
        assert vision.eval() is vision and not vision.training
        assert torch.equal(vision(x), expected)
        readout = Readout(fixed, [3, 1]).eval()
        assert torch.equal(readout(x), expected[:, [3, 1]])
        grad = at_xt(network, TASK, 1)(X, LEVEL, None)
        for model in (fixed, vision):
            torch.testing.assert_close(at_xt(model, TASK, 1)(X, LEVEL, None), grad)
        assert vision.train().training and in_train_mode(vision)
        with pytest.raises(GuidanceError, match="in train mode"):
            at_xt(vision, TASK, 1)(X, LEVEL, None)


class Returns(nn.Module):
    """A module that returns something made of its images."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x.flatten(2).mean(2))


class Named(nn.Module):
    """A classifier with a layer of the name that noise-aware models have for their method."""

    def __init__(self, at):
        super().__init__()
        self.at, self.head = at, head()

    def forward(self, x):
        return self.head(x)


class Method(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.read = read

    def at(self, level):
        return self.read


@dataclass
class Output:
    logits: torch.Tensor


WRAPPED = {
    "an object": (lambda logits: Output(logits), "a Output"),
    "a tuple": (lambda logits: (logits,), "a tuple"),
    "a dictionary": (lambda logits: {"logits": logits}, "a dict"),
    "nothing": (lambda logits: None, "a NoneType"),
    "a number each": (lambda logits: logits[:, 0], r"\[4\]"),
    "a map": (lambda logits: logits[..., None], r"\[4, 3, 1\]"),
    "one image's": (lambda logits: logits[:1], r"\[1(, 3)?\]"),
}


class TestOutputs:
    @pytest.mark.parametrize(("make", "shown"), WRAPPED.values(), ids=WRAPPED)
    def test_what_is_not_one_logit_per_class_is_named(self, make, shown):
        returns = f"returned {shown} for 4 images.*expected one logit per class.*network.x..logits"
        for model in (Vision(Returns(make), 8, 3, "abc"), Readout(Returns(make), [0, 1])):
            with pytest.raises(InputError, match=returns):
                model(X.float())
        if make(X[:, 0, 0]) is not None:  # any output passes where there are no classes
            Vision(Returns(make), 8, 3)(X)
        for guide in (at_xt, partial(at_x0, through=False)):
            with pytest.raises(GuidanceError, match=shown):
                guided(predict, guide(Returns(make).eval(), TASK, 0))(X, LEVEL)

    def test_a_readout_of_a_class_that_is_none(self):
        for indices in ([5], [0, 7]):
            with pytest.raises(InputError, match="returned 5 logits: expected at least"):
                Readout(head(), indices)(X.float())
        for indices in ([-1], [0.5], [True]):
            with pytest.raises(InputError, match="a class index"):
                Readout(head(), indices)

    @pytest.mark.parametrize("classes", [0, 1])
    def test_one_logit_has_no_gradient(self, classes):
        refused = pytest.raises(GuidanceError, match="of at least 2 classes.*softmax is constant")
        with refused:
            guided(predict, at_xt(lambda x: x[:, :classes, 0, 0], TASK, 0))(X, LEVEL)
        with refused:
            TASK.divergence(torch.zeros(2, classes), torch.zeros(2, classes))

    @pytest.mark.parametrize("other", [None, "abc", torch.zeros(2), (torch.zeros(2, 3),)])
    def test_what_is_no_logits_has_no_divergence(self, other):
        for pair in ((other, torch.zeros(2, 3)), (torch.zeros(2, 3), other)):
            with pytest.raises(GuidanceError, match="returns logits"):
                TASK.divergence(*pair)

    def test_a_layer_named_at_makes_no_model_noise_aware(self):
        expected = at_xt(head(), TASK, 1)(X, LEVEL, None)
        for at in (nn.Identity(), nn.Parameter(torch.ones(2)), nn.ModuleList()):
            assert torch.equal(at_xt(Named(at).eval(), TASK, 1)(X, LEVEL, None), expected)
        assert model_at(np.exp, LEVEL) is np.exp  # ufuncs have a method of that name
        for model in (Method(head()), SimpleNamespace(at=lambda level: head())):
            found = at_xt(model.eval() if isinstance(model, Method) else model, TASK, 1)
            assert torch.equal(found(X, LEVEL, None), expected)

    @pytest.mark.parametrize("model", [None, "resnet", 3, Method("no function")])
    def test_what_is_no_model(self, model):
        with pytest.raises(GuidanceError, match="is a function of samples, not a"):
            at_xt(model, TASK, 1)(X, LEVEL, None)

    @pytest.mark.parametrize("value", [None, 3.0, torch.zeros(()), torch.zeros(1)])
    def test_a_task_returns_one_value_each(self, value):
        task = SimpleNamespace(log_prob=lambda output, target: value)
        with pytest.raises(GuidanceError, match="expected one log probability each"):
            at_xt(head(), task, 1)(X, LEVEL, None)
