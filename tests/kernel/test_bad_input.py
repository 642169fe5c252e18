"""Bad input gets an error that says what was wrong and what was expected.

`CASES` is the whole of it: (name, call, exception, what the message must match). Files that are
not weights are in test_weights.py, because they have to be written first.
"""

import gzip
import json
import math
from dataclasses import replace

import pytest
import torch
from places import GOLDEN

from ppap_lib.data.pixels import (
    check_images,
    from_bytes,
    from_unit,
    pad_to,
    resize,
    tile,
    with_channels,
)
from ppap_lib.diffusion.denoisers import Prediction, eps_model, thresholded, x0_model
from ppap_lib.diffusion.levels import CLEAN
from ppap_lib.diffusion.noise import Noise, seed_labels
from ppap_lib.diffusion.schedules import ContinuousSchedule, Schedule, respace
from ppap_lib.errors import GuidanceError, InputError, ScheduleError, WeightsError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.guidance import gradient_field, guided
from ppap_lib.networks.adm import Architecture, Classifier, UNet, Upsampler, from_flags
from ppap_lib.samplers import ddim, ddpm, heun, large_variance, sample
from ppap_lib.zoo import tiers

LINEAR = Schedule.linear()
X, T = torch.zeros(2, 3, 16, 16), torch.zeros(2)
GREY = torch.zeros(1, 1, 8, 4)
FLAGS = json.loads(gzip.decompress((GOLDEN / "checkpoints.json.gz").read_bytes()))[
    "adm_64x64_cond"
]["config"]

TINY = Architecture(3, 32, 3, 1, (2,), channel_mult=(1, 2))


def unet(**changes) -> UNet:
    return UNet(replace(TINY, **changes))


def classifier(image_size: int = 16, pool: str = "attention") -> Classifier:
    return Classifier(replace(TINY, out_channels=10), image_size, pool)


def flags(drop: str = "", **changes):
    """The network of public flags with some changed, or one left out."""
    with torch.device("meta"):
        return from_flags({k: v for k, v in (FLAGS | changes).items() if k != drop})


def output(network, learned_variance=False):
    """One evaluation of a denoiser whose network returns network(x)."""
    return eps_model(lambda x, t: network(x), learned_variance)(X, LINEAR.at(5))


def predict(x_t, level) -> Prediction:
    return x0_model(lambda x, t: 0 * x)(x_t, level)


def run(step=heun, denoise=predict, grid=None, x_T=X):
    return sample(denoise, x_T, LINEAR.grid(4) if grid is None else grid, step)


def breaks_at(t: float):
    """A denoiser whose second image is NaN at one timestep."""

    def denoise(x_t, level):
        prediction = predict(x_t, level)
        if level.t == t:
            prediction.eps[1] = math.nan
        return prediction

    return denoise


GUIDE = gradient_field(lambda x_t, level, prediction: x_t)
MEAN = guided(predict, GUIDE, 1.0, form="mean")

CASES = [
    # Pixels
    ("uint8 as images", lambda: check_images(X.byte()), InputError, "floating .*torch.uint8"),
    ("one image", lambda: check_images(X[0]), InputError, r"\[B, C, H, W\].*\[3, 16, 16\]"),
    ("grey for RGB", lambda: check_images(GREY, 3), InputError, "expected 3 channels, not 1"),
    (
        "pixels in [0, 255]",
        lambda: check_images(X + 255),
        InputError,
        r"in \[255, 255\], expected \[-1, 1\]: use from_bytes",
    ),
    ("NaN pixels", lambda: check_images(X * math.nan), InputError, r"\[nan, nan\]"),
    ("float bytes", lambda: from_bytes(X), InputError, "uint8 pixels, not torch.float32"),
    ("unit above 1", lambda: from_unit(X + 2), InputError, r"expected \[-1, 1\]"),
    ("padding to less", lambda: pad_to(GREY, 6), InputError, "8x4 images to 6x6"),
    ("size 0", lambda: resize(GREY, 0), InputError, "cannot resize to 0x0"),
    (
        "four channels",
        lambda: with_channels(X[:, [0, 1, 2, 0]], 3),
        InputError,
        "cannot turn 4 channels into 3",
    ),
    ("no columns", lambda: tile(X, 0), InputError, "columns must be at least 1, and gaps 0"),
    ("an empty sheet", lambda: tile(X[:0], 2), InputError, "at least one image"),
    # Seeds
    ("no seeds", lambda: Noise([], (1,)), InputError, "no seeds: give one per sample"),
    ("a seed twice", lambda: Noise([1, 2, 1], (1,)), InputError, "occurs twice"),
    (
        "a seed twice in a tensor",
        lambda: Noise(torch.tensor([1, 1]), (1,)),
        InputError,
        "occurs twice",
    ),
    (
        "a negative seed",
        lambda: Noise([0, -1], (1,)),
        InputError,
        r"in \[0, 2\^32\), not \[-1, 0\]",
    ),
    ("a seed of 33 bits", lambda: Noise([2**32], (1,)), InputError, r"in \[0, 2\^32\)"),
    ("no classes", lambda: seed_labels([1], 0), InputError, "at least one class, not 0"),
    # Schedules
    ("no betas", lambda: Schedule([]), ScheduleError, r"a list of T numbers, not \[0\]"),
    ("a table of betas", lambda: Schedule(X[0, 0]), ScheduleError, r"not \[16, 16\]"),
    (
        "a beta of 1",
        lambda: Schedule([0.1, 1.0]),
        ScheduleError,
        r"every beta must be in \(0, 1\).*\[0.1, 1\]",
    ),
    ("a NaN beta", lambda: Schedule([0.1, math.nan]), ScheduleError, "every beta must be in"),
    ("no steps", lambda: Schedule.linear(0), ScheduleError, "at least one step, not T = 0"),
    ("too few for linear", lambda: Schedule.linear(10), ScheduleError, "every beta must be in"),
    ("t = T", lambda: LINEAR.at(1000), ScheduleError, r"t must be in \[0, 999\], not"),
    ("t = NaN", lambda: LINEAR.at(math.nan), ScheduleError, r"t must be in \[0, 999\]"),
    ("a log-SNR outside", lambda: LINEAR.at_log_snr(20.0), ScheduleError, "log-SNR must be in"),
    ("a rising grid", lambda: LINEAR.grid([1, 2]), ScheduleError, "fall strictly"),
    ("an empty grid", lambda: LINEAR.grid([]), ScheduleError, "fall strictly"),
    ("more steps than T", lambda: LINEAR.grid(1001), ScheduleError, "more steps than the schedule"),
    (
        "levels for other images",
        lambda: LINEAR.at([1, 2, 3]).times(X),
        ScheduleError,
        "3 levels for 2 images",
    ),
    (
        "falling continuous betas",
        lambda: ContinuousSchedule(1.0, 0.5),
        ScheduleError,
        "0 < beta_min < beta_max",
    ),
    (
        "continuous t = 0",
        lambda: ContinuousSchedule().at(0),
        ScheduleError,
        r"t must be in \(0, 1000\]",
    ),
    (
        "a rising continuous grid",
        lambda: ContinuousSchedule().grid([1, 2]),
        ScheduleError,
        "fall strictly",
    ),
    ("a word as respacing", lambda: respace(1000, "fast"), ScheduleError, "'fast': write a number"),
    ("0 as respacing", lambda: respace(1000, "0"), ScheduleError, "unknown respacing '0'"),
    ("1 step", lambda: LINEAR.grid(1), ScheduleError, "'1' keeps t = 0 alone.*at least 2 steps"),
    ("1 DDIM step", lambda: respace(1000, "ddim1"), ScheduleError, "'ddim1' keeps t = 0 alone"),
    ("a gap in respacing", lambda: respace(1000, "10,,5"), ScheduleError, "unknown respacing"),
    (
        "an impossible stride",
        lambda: respace(1000, "ddim999"),
        ScheduleError,
        "no whole stride cuts 1000 steps into 999",
    ),
    ("too many in a section", lambda: respace(10, "2,8"), ScheduleError, "8 steps out of 5"),
    # Intervals
    ("empty intervals", lambda: Intervals(10, 11), ScheduleError, "11 intervals: each needs one"),
    ("no intervals", lambda: Intervals(10, 0), ScheduleError, "cannot be cut into 0"),
    ("t above", lambda: Intervals(10, 2).index_of(10), ScheduleError, r"in \[0, 10\), not 10"),
    ("t below", lambda: Intervals(10, 2).index_of(-1), ScheduleError, r"in \[0, 10\), not -1"),
    ("t above in T", lambda: Intervals(10, 2).indices_of(T + 10), ScheduleError, r"in \[0, 10\)"),
    ("interval 2 of 2", lambda: Intervals(10, 2)[2], IndexError, "indices are 0 to 1"),
    # Networks: architecture
    (
        "48 channels",
        lambda: unet(model_channels=48),
        InputError,
        "48 channels: .*multiple of 32",
    ),
    ("3 heads of 64", lambda: unet(num_heads=3), InputError, "cut into 3 heads"),
    ("no heads", lambda: unet(num_heads=0), InputError, "cut into 0 heads"),
    ("heads of 48", lambda: unet(num_head_channels=48), InputError, "heads of 48"),
    ("an unknown pool", lambda: classifier(pool="max"), InputError, "not 'max'"),
    ("an unknown flag", lambda: flags(dept=1), InputError, "unknown flags: dept"),
    ("a missing flag", lambda: flags(drop="num_heads"), InputError, "lack 'num_heads'"),
    ("no image size", lambda: flags(drop="image_size"), InputError, "lack 'image_size'"),
    (
        "a size without default widths",
        lambda: flags(image_size=48),
        InputError,
        "image size 48 .*64, 128, 256, 512",
    ),
    # Networks: input
    (
        "grey into RGB",
        lambda: unet()(X[:, :1], T),
        InputError,
        r"takes \[B, 3, H, W\], not \[2, 1, 16, 16\]",
    ),
    ("one image without batch", lambda: unet()(X[0], T), InputError, r"\[B, 3, H, W\]"),
    ("an odd width", lambda: unet()(X[..., :15], T), InputError, "multiples of 2"),
    ("too few t", lambda: unet()(X, T[:1]), InputError, r"t must be \[2\], not \[1\]"),
    ("a scalar t", lambda: unet()(X, T[0]), InputError, r"t must be \[2\], not \[\]"),
    (
        "labels nobody reads",
        lambda: unet()(X, T, T.long()),
        InputError,
        "unconditional: give no labels",
    ),
    (
        "no labels",
        lambda: unet(num_classes=5)(X, T),
        InputError,
        r"conditional: give labels y in \[0, 5\)",
    ),
    (
        "too few labels",
        lambda: unet(num_classes=5)(X, T, T[:1].long()),
        InputError,
        r"one class index per image, int64 \[2\], not torch.int64 \[1\]",
    ),
    (
        "a grey low_res",
        lambda: Upsampler(TINY)(X, T, X[:, :1]),
        InputError,
        r"low_res must be \[2, 3\]",
    ),
    (
        "another size into the pool",
        lambda: classifier(image_size=32)(X, T),
        InputError,
        "built for 256 positions, not 64",
    ),
    (
        "weights of another network",
        lambda: weights.load(unet(), unet(num_classes=5).state_dict()),
        WeightsError,
        "1 unexpected: label_emb.weight",
    ),
    ("an unknown tier", lambda: tiers.tier("mnist"), InputError, "no tier 'mnist': there are"),
    # Denoisers
    (
        "variance channels unasked",
        lambda: output(lambda x: torch.cat([x, x], 1)),
        InputError,
        "pass learned_variance=True",
    ),
    ("no variance channels", lambda: output(lambda x: x, True), InputError, "expected 6 chan"),
    (
        "one channel out",
        lambda: output(lambda x: x[:, :1]),
        InputError,
        r"\[2, 1, 16, 16\] for x_t \[2, 3, 16, 16\], expected 3 channels",
    ),
    ("another size out", lambda: output(lambda x: x[..., :2]), InputError, "expected 3 chan"),
    ("the clean end", lambda: predict(X, CLEAN), InputError, "clean end .*never evaluated"),
    ("quantile 0", lambda: thresholded(predict, 0), InputError, r"in \(0, 1\], not 0"),
    ("quantile 1.1", lambda: thresholded(predict, 1.1), InputError, r"in \(0, 1\], not 1.1"),
    # Sampling and guidance
    ("NaN from a network", lambda: run(ddim(), breaks_at(666)), InputError, r"step 1 .*\[1\]"),
    ("a step by name", lambda: run("ddim"), InputError, r"ddim\(\) makes, not 'ddim'"),
    ("a grid of one", lambda: run(grid=LINEAR.grid([5])[:1]), InputError, "at least two levels"),
    ("a reversed grid", lambda: run(grid=LINEAR.grid(4)[::-1]), InputError, "noisy to clean"),
    ("an integer start", lambda: run(x_T=X.long()), InputError, "x_T is floating"),
    ("ddpm without noise", lambda: run(ddpm(large_variance)), InputError, "pass noise=Noise"),
    ("ddpm without variance", lambda: run(ddpm()), InputError, "no learned variance: use"),
    ("no draws", lambda: ddpm(draws=0), InputError, "draws must be in .1, 100., not 0"),
    ("eta of 2", lambda: ddim(2), InputError, r"eta must be in \[0, 1\], not 2"),
    ("mean form into ddim", lambda: run(ddim(), MEAN), InputError, "cannot use mean-form"),
    ("mean form into heun", lambda: run(heun, MEAN), InputError, "cannot use mean-form"),
    ("an empty range", lambda: GUIDE.during(5, 5), GuidanceError, "empty interval: start 5"),
    ("an infinite scale", lambda: math.inf * GUIDE, GuidanceError, "finite number, not inf"),
    (
        "an unknown form",
        lambda: guided(predict, GUIDE, 1.0, form="median"),
        GuidanceError,
        "'score' or 'mean', not 'median'",
    ),
]


def test_names_are_unique():
    names = [name for name, *_ in CASES]
    assert len(set(names)) == len(names) >= 30


@pytest.mark.parametrize(
    ("call", "exception", "message"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_bad_input_says_what_was_expected(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
