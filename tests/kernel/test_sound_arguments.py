"""Arguments as people give them: counts, labels, shapes that would broadcast, NaN, nothing."""

import math
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sound import LEVEL, LEVELS, LINEAR, TASK, TINY, X, head, predict, run
from torch import nn

from ppap_lib.diffusion.denoisers import (
    Prediction,
    clipped,
    diffusers_network,
    eps_model,
    thresholded,
    v_model,
)
from ppap_lib.diffusion.levels import CLEAN
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.diffusion.noise import Noise, check_seeds, seed_labels
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule, respace
from ppap_lib.errors import GuidanceError, InputError, PpapError, ScheduleError
from ppap_lib.experts import Intervals, LoraConfig, files, full_copies, lora_config, low_rank
from ppap_lib.guidance import at_x0, at_xt, gradient_field, guided
from ppap_lib.guidance.tasks import Classification
from ppap_lib.networks.adm import Classifier, UNet
from ppap_lib.networks.classifiers import CLASSIFIERS
from ppap_lib.networks.vision import Vision
from ppap_lib.parameters import Parameters, param, whole
from ppap_lib.samplers import SOLVERS, adaptive, ddim, ddpm, karras, plms
from ppap_lib.samplers.draw import draw
from ppap_lib.samplers.grids import uniform_grid
from ppap_lib.samplers.solvers import finest_grid
from ppap_lib.samplers.stochastic import noise_prediction_error


@dataclass(frozen=True)
class Run(Parameters):
    steps: int = param(25, low=1, high=1000)
    scale: float = 1.0
    pair: tuple[float, int] = (0.0, 0)
    either: int | None = None


INTEGERS = [np.int64, np.int32, np.uint8, torch.tensor]
NOT_WHOLE = [2.5, 2.0, np.float64(2), math.nan, "2", None, True, torch.tensor(2.0), [2, 3]]
COUNTED = {
    "a seed": lambda n: check_seeds([n, 7]),
    "classes": lambda n: seed_labels([5], n).tolist(),
    "a length": lambda n: Noise([1], (n,))().tolist(),
    "T": lambda n: Schedule.linear(n, 0.1, 0.2).betas.tolist(),
    "cosine T": lambda n: Schedule.cosine(n).betas.tolist(),
    "respacing": lambda n: respace(10, n),
    "a rank": lambda n: LoraConfig(("0",), (), n, 1.0).to_json(),
    "a rank of patterns": lambda n: lora_config(head(), "0", n, 1).to_json(),
    "intervals": lambda n: (Intervals(10, n), Intervals(n, 1).edges),
    "a size": lambda n: Vision(head(), n, 3).prepare(X).tolist(),
    "steps": lambda n: [float(level.t) for level in uniform_grid(LINEAR, n)],
    "a budget": lambda n: len(finest_grid(n, ddim(), lambda steps: LINEAR.grid(int(steps)))),
    "an order": lambda n: run(step=plms(n)).tolist(),
    "draws": lambda n: run(step=ddpm(lambda p, _: p.beta.log(), n)).tolist(),
    "a batch": lambda n: draw(
        Diffusion(predict, LINEAR, (3, 8, 8)), [1, 2, 3], steps=4, batch=n
    ).tolist(),
}


class TestWholeNumbers:
    @pytest.mark.parametrize("kind", INTEGERS)
    @pytest.mark.parametrize("call", COUNTED.values(), ids=COUNTED)
    def test_integers_of_numpy_and_torch_are_integers(self, call, kind):
        assert call(kind(2)) == call(2)

    @pytest.mark.parametrize("number", NOT_WHOLE, ids=repr)
    @pytest.mark.parametrize("name", COUNTED)
    def test_what_is_not_whole_is_refused(self, name, number):
        if (name, number) in (("a batch", None), ("respacing", "2")):
            number = 2.5
        with pytest.raises(InputError, match="whole number"):
            COUNTED[name](number)

    def test_parameters(self):
        found = Run(np.int64(3), np.float32(0.5), [np.int64(1), np.uint8(2)], np.int32(7))
        assert found == Run(3, 0.5, (1.0, 2), 7)
        values = (found.steps, found.scale, *found.pair, found.either)
        assert [type(value) for value in values] == [int, float, float, int, int]
        for bad in (
            {"steps": np.float64(3)},
            {"steps": np.True_},
            {"scale": np.float64("nan")},
            {"scale": 10**400},
            {"pair": np.zeros(2)},
        ):
            with pytest.raises(InputError, match="must be"):
                Run(**bad)
        with pytest.raises(InputError, match="unknown parameter 3"):
            Run.of({3: 3})

    def test_a_whole_number_has_a_range(self):
        assert whole("n", np.int8(3), 1, 3) == 3
        with pytest.raises(InputError, match=r"n must be in \[1, 3\], not 4"):
            whole("n", 4, 1, 3)

    def test_a_rank_of_numpy_is_saved_and_read(self, tmp_path):
        config = lora_config(head(), ["3"], np.int64(2), np.float32(4))
        experts = low_rank(head(), config, Intervals(np.int64(1000), np.int64(2)))
        files.save(experts, tmp_path / "experts.safetensors")
        found = files.read(tmp_path / "experts.safetensors", head())
        assert found.bank[0].config == config == LoraConfig(["3"], [], 2, 4)

    @pytest.mark.parametrize("spacing", [np.int64(25), np.int32(25), 25, "25"])
    def test_grids(self, spacing):
        assert [float(level.t) for level in LINEAR.grid(spacing)][:2] == [999, 957]

    @pytest.mark.parametrize("spacing", [25.0, None, [[3, 2]], ["a"], [9, math.nan], 2j, [2j]])
    def test_what_is_no_grid(self, spacing):
        with pytest.raises(ScheduleError):
            LINEAR.grid(spacing)

    @pytest.mark.parametrize("seeds", [3.5, None, "12", b"12", np.int64(3), [1.5], [[1, 2]]])
    def test_what_is_no_seed(self, seeds):
        with pytest.raises(InputError, match="seed"):
            check_seeds(seeds)

    def test_duplicates_are_refused_at_every_batch_size(self):
        for batch in (1, 2, 3, 4, None):
            with pytest.raises(InputError, match="a seed occurs twice"):
                draw(Diffusion(predict, LINEAR, (1, 2, 2)), [5, 6, 5], steps=2, batch=batch)

    @pytest.mark.parametrize("t", [math.nan, [1, math.nan], "a", None, 1j])
    def test_what_is_no_time(self, t):
        for at in (LINEAR.at, ContinuousSchedule().at, LINEAR.at_log_snr, LINEAR.log_snr_slope):
            with pytest.raises(ScheduleError):
                at(t)


class TestLabels:
    @pytest.mark.parametrize(
        "labels",
        [[5, 0, 0, 0], [-1, 0, 0, 0], [-100] * 4, [0.0] * 4, [True] * 4, [0] * 3, [0], "ab", None],
        ids=repr,
    )
    def test_what_is_no_class(self, labels):
        unet = UNet(replace(TINY, num_classes=5)).eval()
        diffusers = SimpleNamespace(config=SimpleNamespace(num_class_embeds=5))
        given = torch.tensor(labels) if isinstance(labels, list) else labels
        for wrong in (labels, given):
            if wrong is not None:
                with pytest.raises(InputError, match="class ind"):
                    eps_model(partial(unet, y=wrong))(X, LEVEL)
                with pytest.raises(InputError, match="class ind"):
                    diffusers_network(diffusers)(X, LEVEL.times(X), y=wrong)
            with pytest.raises(GuidanceError, match="class ind"):
                TASK.log_prob(torch.zeros(4, 5), wrong)

    def test_labels_as_people_have_them(self):
        torch.manual_seed(0)
        unet = UNet(replace(TINY, num_classes=5)).eval()
        nn.init.normal_(unet.out[2].weight)
        expected = unet(X, LEVEL.times(X), torch.tensor([3, 0, 1, 3]))
        for labels in ([3, 0, 1, 3], np.array([3, 0, 1, 3]), torch.tensor([3, 0, 1, 3]).byte()):
            assert torch.equal(unet(X, LEVEL.times(X), labels), expected)
        logits = X[:, 0, 0]
        for target in (2, np.int64(2), torch.tensor(2), [2] * 4, np.full(4, 2)):
            assert torch.equal(TASK.log_prob(logits, target), TASK.log_prob(logits, [2] * 4))


def one_image(name):
    """A denoiser that returns one image's `name` for four."""

    def denoise(x_t, level):
        prediction = Prediction(x_t, x_t, x_t.clone(), x_t.clone())
        return replace(prediction, **{name: x_t[:1]})

    return denoise


BROADCAST = {
    "one x0": lambda: run(one_image("x0")),
    "one eps": lambda: run(one_image("eps")),
    "one v": lambda: run(one_image("v"), step=ddpm(), noise=lambda: X),
    "one shift": lambda: run(one_image("shift"), step=ddpm()),
    "one x0 clipped": lambda: run(clipped(one_image("x0"))),
    "one x0 thresholded": lambda: run(thresholded(one_image("x0"))),
    "one x0 guided": lambda: guided(one_image("x0"), gradient_field(lambda x, *_: x))(X, LEVEL),
    "one eps guided": lambda: guided(one_image("eps"), gradient_field(lambda x, *_: x))(X, LEVEL),
    "one eps of a solver": lambda: run(one_image("eps"), step=SOLVERS["heun"].make(LINEAR)),
    "one eps of the flow": lambda: run(one_image("eps"), step=adaptive(LINEAR)),
    "one eps estimated": lambda: noise_prediction_error(one_image("eps"), X, X, [LEVEL]),
    "no prediction": lambda: run(lambda x, level: x),
    "a pair": lambda: guided(lambda x, level: (x, x), gradient_field(lambda x, *_: x))(X, LEVEL),
    "half a prediction": lambda: run(lambda x, level: Prediction(x, None)),
    "one gradient": lambda: run(guided(predict, gradient_field(lambda x, *_: x[:1]))),
    "no gradient": lambda: run(guided(predict, gradient_field(lambda x, *_: None))),
    "a number as gradient": lambda: run(guided(predict, gradient_field(lambda x, *_: 0.0))),
    "one draw": lambda: run(step=ddim(1.0), noise=lambda: X[:1]),
    "no draw": lambda: run(step=ddim(1.0), noise=lambda: None),
    "one image of a step": lambda: run(step=lambda denoise, x, *_: x[:1]),
    "no image of a step": lambda: run(step=lambda denoise, x, *_: None),
    "four ranges on one image": lambda: guided(predict, RANGES)(X[:1], LEVEL),
    "four ranges, unguided": lambda: RANGES(X[:1], LEVEL, None),
    "one range in a list on four": lambda: guided(predict, FIELD.during([0], 500))(X, LEVEL),
    "four ranges, three levels": lambda: RANGES(X[:3], LEVELS[:3], None),
    "four levels on one image": lambda: guided(predict, FIELD)(X[:1], LEVELS),
    "four levels, no network": lambda: LEVELS.noised(X[:1], X[:1]),
    "a column of levels": lambda: predict(X, LINEAR.at([[10.0], [20.0], [30.0], [40.0]])),
    "one level in a list": lambda: LEVELS[:1].noised(X, X),
    "one noise for four": lambda: LEVEL.noised(X, X[:1]),
    "four levels, one denoised": lambda: v_model(lambda x, t: x)(X[:1], LEVELS),
    "levels of experts": lambda: full_copies(head(), Intervals(1000, 2))(X[:1].float(), LEVELS),
    "a grid of levels each": lambda: run(grid=[LINEAR.at([900.0] * 4), LEVEL, CLEAN]),
    "a grid of numbers": lambda: run(grid=[900, 300]),
    "a start of numbers": lambda: run(x_T=[[1.0, 2.0]]),
    "an image without a batch": lambda: Vision(head(), 8, 3)(X[0]),
    "an image without pixels": lambda: Vision(head(), 8, 3)(X[..., :0]),
    "a list of images": lambda: Vision(head(), 8, 3)([X]),
}
FIELD = gradient_field(lambda x, level, prediction: torch.ones_like(x))
RANGES = FIELD.during(torch.tensor([0, 100, 200, 300]), torch.tensor([500, 500, 500, 500]))


class TestBroadcasting:
    @pytest.mark.parametrize("call", BROADCAST.values(), ids=BROADCAST)
    def test_no_image_is_lost_or_made(self, call):
        with pytest.raises(PpapError, match=r"expected|give one|for x|a step|a grid|x_T|noise"):
            call()

    def test_as_many_ranges_as_samples(self):
        expected = [1.0, 1.0, 1.0, 0.0]
        for start in ([0, 100, 200, 301], np.array([0, 100, 200, 301], dtype=np.uint16)):
            for stop in (500, [500.0] * 4, torch.tensor([200 + 255] * 4, dtype=torch.int16)):
                found = FIELD.during(start, stop)(X, LEVEL, None)
                assert found[:, 0, 0, 0].tolist() == expected
        assert RANGES(X, LEVELS, None)[:, 0, 0, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
        bytes_ = torch.tensor([100, 200], dtype=torch.uint8)  # whose negative is another
        assert FIELD.during(0, bytes_)(X[:2], LINEAR.at(150), None)[:, 0, 0, 0].tolist() == [0, 1]

    @pytest.mark.parametrize(
        "end", [math.nan, [0, math.nan, 1, 2], "a", None, [[1, 2]], 1j, torch.zeros(2, 2)]
    )
    def test_what_is_no_end_of_a_range(self, end):
        with pytest.raises(GuidanceError):
            FIELD.during(end, 900)
        with pytest.raises(GuidanceError):
            FIELD.during(0, end)

    @pytest.mark.parametrize("scale", [0, 0.0, np.float64(0)])
    def test_a_weight_stays_finite(self, scale):
        refused = pytest.raises(GuidanceError, match="finite number")
        with refused:
            FIELD / scale
        with refused:
            FIELD * 1e200 * 1e200
        with refused:
            FIELD * 10**400

    @pytest.mark.parametrize("name", [*SOLVERS, "adaptive"])
    def test_an_empty_batch_goes_through_every_solver(self, name):
        step = adaptive(LINEAR) if name == "adaptive" else SOLVERS[name].make(LINEAR)
        assert run(x_T=X[:0], step=step).shape == (0, 3, 8, 8)

    @pytest.mark.parametrize("levels", [LEVEL, LEVELS[:0]], ids=["one", "one each"])
    def test_an_empty_batch_goes_through_everything(self, levels):
        nothing = X[:0]
        small = CLASSIFIERS["judge"](3, 5).eval()
        experts = low_rank(head(), lora_config(head(), "0", 1, 1.0), Intervals(1000, 3)).eval()
        assert experts(nothing.float(), levels).shape == (0, 5)
        models = [head(), small, Vision(small, 32, 3, range(5)).eval(), experts]
        for model in models:
            for guide in (
                at_xt(model, TASK, 1),
                at_xt(model, TASK, []),
                at_x0(model, TASK, torch.zeros(0).long(), through=True),
                at_x0(model, TASK, 1, through=False).during([], 500),
            ):
                for denoise in (predict, clipped(predict), thresholded(predict)):
                    found = guided(denoise, guide, 2.0)(nothing, levels)
                    assert found.eps.shape == found.x0.shape == (0, 3, 8, 8)
        unet = UNet(replace(TINY, num_classes=5)).eval()
        assert eps_model(partial(unet, y=[]))(nothing, levels).eps.shape == (0, 3, 8, 8)
        assert Classifier(TINY, 8).eval()(nothing, levels.times(nothing)).shape == (0, 3)
        assert TASK.divergence(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)


class TestNaN:
    """A comparison with NaN is false, whichever way it is written."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda: ddim(math.nan),
            lambda: karras(LINEAR, math.nan),
            lambda: karras(LINEAR, S_min=math.nan),
            lambda: karras(LINEAR, S_max=math.nan),
            lambda: karras(LINEAR, S_noise=math.nan),
            lambda: karras(LINEAR, S_min=3.0, S_max=2.0),
            lambda: run(step=adaptive(LINEAR, math.nan)),
            lambda: run(step=adaptive(LINEAR, atol=math.inf)),
            lambda: uniform_grid(LINEAR, 5, math.nan),
            lambda: uniform_grid(LINEAR, 5, 900, math.nan),
            lambda: Schedule([0.1, math.nan]),
            lambda: Schedule.linear(10, math.nan),
            lambda: ContinuousSchedule(math.nan),
            lambda: ContinuousSchedule(0.1, math.inf),
            lambda: ContinuousSchedule(T=math.nan),
            lambda: ContinuousSchedule(T=0),
            lambda: thresholded(predict, math.nan),
            lambda: thresholded(predict, "0.9"),
            lambda: Classification(math.nan),
            lambda: LoraConfig((), (), 1, math.nan),
            lambda: LoraConfig((), (), 1, "8"),
            lambda: Vision(head(), 8, 3, mean=(math.nan,)),
            lambda: Vision(head(), 8, 3, std=(math.inf,)),
            lambda: FIELD * math.nan,
            lambda: run(x_T=X * math.nan),
            lambda: run(step=lambda denoise, x, *_: x * math.nan),
            lambda: run(guided(predict, gradient_field(lambda x, *_: x * math.nan))),
            lambda: Intervals(1000, 5).index_of(math.nan),
            lambda: Intervals(1000, 5).indices_of(torch.tensor([math.nan])),
        ],
    )
    def test_it_never_decides(self, call):
        with pytest.raises(PpapError):
            call()

    def test_a_state_that_overflows_names_its_images(self):
        def step(denoise, x, now, nxt, history, noise):
            return torch.cat([x[:2], x[2:] * math.inf])

        with pytest.raises(InputError, match=r"^x is not finite at step 0 .*images \[2, 3\]"):
            run(step=step)


OTHERS = [None, 3, "linear", X, 1.0 + 0j, object()]
"""What is no function, no schedule, no level and no number that a formula could take."""
REFUSED = {
    "denoisers": lambda it: run(it),
    "clipped": lambda it: clipped(it),
    "thresholded": lambda it: thresholded(it),
    "guided": lambda it: guided(it, FIELD),
    "networks": lambda it: eps_model(it)(X, LEVEL),
    "networks of images": lambda it: Vision(it, 8, 3),
    "tasks": lambda it: at_xt(head(), it, 1)(X, LEVEL, None),
    "levels": lambda it: predict(X, it),
    "levels of guides": lambda it: FIELD(X, it, None),
    "levels of experts": lambda it: full_copies(head(), Intervals(1000, 2))(X.float(), it),
    "grids": lambda it: draw(Diffusion(predict, LINEAR, (1, 2, 2)), [1], grid=[it]),
    "ends of solvers": lambda it: SOLVERS["dpmpp_2m"].make(LINEAR, [it]),
    "schedules": lambda it: uniform_grid(it, 5),
    "bounds": lambda it: clipped(predict, it, it),
    "bounds of x0": lambda it: at_x0(head(), TASK, 1, True, (it, it)),
    "dtypes of noise": lambda it: Noise([1], (1,), it),
    "integers as noise": lambda it: Noise([1], (1,), torch.int64),
    **{
        f"schedules of {name}": lambda it, name=name: run(step=SOLVERS[name].make(it))
        for name in ("prk", "rk4", "fon", "f_pndm", "dpm2", "deis_3_time", "karras", "dpmpp_2s")
    },
}


class TestOtherThings:
    @pytest.mark.parametrize("it", OTHERS, ids=lambda it: type(it).__name__)
    @pytest.mark.parametrize("name", REFUSED)
    def test_what_is_another_thing_is_refused(self, name, it):
        if name == "schedules of deis_3_time" and it is None:
            it = "none"  # where DEIS integrates in log-SNR instead
        with pytest.raises(PpapError):
            REFUSED[name](it)

    def test_bounds_that_cross_would_make_all_pixels_one(self):
        for bounds in ((1.0, -1.0), (0.0, 0.0), (math.nan, 1.0), (0.0, math.nan)):
            with pytest.raises(InputError, match="the lower first"):
                clipped(predict, *bounds)
            with pytest.raises(InputError, match="the lower first"):
                draw(Diffusion(predict, LINEAR, (1, 2, 2), bounds), [1], steps=2, batch=1)
