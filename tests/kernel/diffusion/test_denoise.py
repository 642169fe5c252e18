"""Denoisers: the adapters are one function in three parametrisations; wrappers keep x_t."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ppap_lib.diffusion.denoisers import (
    Prediction,
    clamp_straight_through,
    clipped,
    diffusers_network,
    eps_model,
    thresholded,
    v_model,
    x0_model,
)
from ppap_lib.diffusion.levels import Level
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.networks.adm import Architecture, UNet

SCHEDULE = Schedule.linear()
LABELLED = Architecture(3, 32, 3, 1, (), channel_mult=(1,), num_classes=4)
ADAPTERS = {"eps": eps_model, "x0": x0_model, "v": v_model}
LEVELS = {
    "nearly clean": SCHEDULE.at(0),
    "middle": SCHEDULE.at(333.3),
    "noise": SCHEDULE.at(999),
    "one each": SCHEDULE.at(torch.tensor([3, 500])),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


X0, EPS, FRACTION = (draw(2, 3, 4, 4, seed=seed) for seed in range(3))


def targets(level: Level) -> dict[str, Tensor]:
    """What a perfect network of each kind outputs for x_t = level.noised(X0, EPS)."""
    alpha, sigma = level.scales(X0)
    return {"eps": EPS, "x0": X0, "v": alpha * EPS - sigma * X0}


def consistent(prediction: Prediction, x_t: Tensor, level: Level, tolerance: float = 1e-10) -> None:
    """x_t = alpha x0 + sigma eps."""
    torch.testing.assert_close(
        level.noised(prediction.x0, prediction.eps), x_t, rtol=0, atol=tolerance
    )


# --- Adapters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_agree_on_the_same_function(kind, level, learned_variance):
    out = targets(level)[kind]
    if learned_variance:
        out = torch.cat([out, FRACTION], dim=1)
    x_t = level.noised(X0, EPS)
    prediction = ADAPTERS[kind](lambda x, t: out, learned_variance)(x_t, level)
    # Reading x0 off eps divides by alpha, eps off x0 by sigma: rounding grows by up to 157.
    torch.testing.assert_close(prediction.x0, X0, rtol=0, atol=1e-12)
    torch.testing.assert_close(prediction.eps, EPS, rtol=0, atol=1e-12)
    consistent(prediction, x_t, level, 1e-12)
    if learned_variance:
        torch.testing.assert_close(prediction.v, (FRACTION + 1) / 2, rtol=0, atol=0)
    else:
        assert prediction.v is None
    assert prediction.shift is None and prediction.gradients == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_state_keeps_its_dtype_and_networks_see_single_precision_at_most(dtype):
    seen = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.dtype, t.dtype, t.shape))
        return x

    prediction = eps_model(network)(X0.to(dtype), SCHEDULE.at(5))
    assert prediction.x0.dtype == prediction.eps.dtype == dtype
    assert seen == [(min(dtype, torch.float32, key=lambda d: d.itemsize), torch.float32, (2,))]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("state", [torch.float64, torch.float32, torch.float16])
def test_a_module_sees_the_dtype_of_its_parameters_whatever_the_state(state, dtype, labelled):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv2d(3, 3, 1)

        def forward(self, x, t, y=None):
            return self.mix(x)

    network = Network().to(dtype).eval()
    denoise = eps_model(partial(network, y=torch.tensor([1, 3])) if labelled else network)
    x_t = X0.to(state)
    eps = denoise(x_t, SCHEDULE.at(5)).eps
    assert torch.equal(eps, network(x_t.to(dtype), None).to(state))


def test_networks_read_the_training_index_times_the_scale():
    def network(x: Tensor, t: Tensor) -> Tensor:
        return t.view(-1, 1, 1, 1).expand_as(x)

    x_t, level = draw(2, 1, 2, 2), SCHEDULE.at(torch.tensor([250.5, 500]))
    assert eps_model(network)(x_t, level).eps[:, 0, 0, 0].tolist() == [250.5, 500]
    scaled = eps_model(network, time_scale=1 / 1000)(x_t, level).eps[:, 0, 0, 0]
    assert scaled.tolist() == pytest.approx([0.2505, 0.5])


def test_labels_enter_through_partial():
    network = UNet(LABELLED).eval()
    torch.nn.init.normal_(network.out[-1].weight)
    level, y = SCHEDULE.at(100), torch.tensor([1, 3])
    x_t = X0.float()
    with torch.no_grad():
        found = eps_model(partial(network, y=y))(x_t, level).eps
        assert torch.equal(found, network(x_t, torch.full((2,), 100.0), y))


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_network_in_train_mode_is_refused(kind, labelled):
    """Its dropout would make an image more than its seed's."""
    network = UNet(replace(LABELLED, dropout=0.5))
    bound = partial(network, y=torch.tensor([1, 3])) if labelled else network
    with pytest.raises(InputError, match=r"a UNet, is in train mode, .* network.eval\(\) first"):
        ADAPTERS[kind](bound)(X0.float(), SCHEDULE.at(100))


@pytest.mark.parametrize("kind", ADAPTERS)
def test_gradients_reach_the_image(kind):
    """With the network n(x_t): dx0/dx_t and deps/dx_t by the formulas of the parametrisations."""
    x_t, level = X0.clone().requires_grad_(), SCHEDULE.at(300)
    prediction = ADAPTERS[kind](lambda x, t: x.tanh())(x_t, level)
    found = [
        torch.autograd.grad(p.sum(), x_t, retain_graph=True)[0]
        for p in (prediction.x0, prediction.eps)
    ]
    (alpha, sigma), slope = level.scales(X0), 1 - X0.tanh() ** 2
    expected = {
        "eps": ((1 - sigma * slope) / alpha, slope),
        "x0": (slope, (1 - alpha * slope) / sigma),
        "v": (alpha - sigma * slope, sigma + alpha * slope),
    }[kind]
    for mine, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-6, atol=1e-6)  # networks see float32


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_network_without_a_graph_is_refused_where_one_is_asked_for(kind):
    def network(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return x.tanh()

    denoise, x_t, level = ADAPTERS[kind](network), X0.clone(), SCHEDULE.at(300)
    assert not denoise(x_t, level).x0.requires_grad
    x_t.requires_grad_()
    with torch.no_grad():
        assert denoise(x_t, level).x0.isfinite().all()
    with pytest.raises(InputError, match=r"no graph to x_t.*at_x0\(\.\.\., through=False\)"):
        denoise(x_t, level)


def test_one_clean_image_among_noisy_ones_is_refused():
    noisy = SCHEDULE.at(torch.tensor([3, 500]))
    level = Level(noisy.t, noisy.alpha, noisy.sigma * torch.tensor([0, 1]))
    with pytest.raises(InputError, match="clean end .* is never evaluated"):
        eps_model(lambda x, t: x)(X0, level)


def test_with_x0_and_with_eps_are_inverse():
    level = SCHEDULE.at(400)
    x_t = level.noised(X0, EPS)
    start = Prediction(X0, EPS, v=FRACTION, shift=X0, gradients=3)
    there = start.with_x0(EPS, x_t, level)
    consistent(there, x_t, level)
    back = there.with_eps(EPS, x_t, level)
    torch.testing.assert_close(back.x0, X0, rtol=0, atol=1e-12)
    assert back.v is FRACTION and back.shift is X0 and back.gradients == 3


# --- diffusers ----------------------------------------------------------------------------------


def diffusers_unet(**options) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        **options,
    )
    return unet.eval()


@torch.no_grad()
def test_a_diffusers_unet_takes_labels():
    unet = diffusers_unet(num_class_embeds=3)
    x_t, level, y = X0.float(), SCHEDULE.at(40), torch.tensor([0, 2])
    x_t = torch.nn.functional.interpolate(x_t, size=8)
    found = eps_model(partial(diffusers_network(unet), y=y))(x_t, level).eps
    assert torch.equal(found, unet(x_t, 40, class_labels=y).sample)
    assert not torch.equal(found[1], unet(x_t, 40, class_labels=y.flip(0)).sample[1])


@torch.no_grad()
def test_a_diffusers_unet_bare_or_in_train_mode_is_refused():
    unet, x_t = diffusers_unet(), torch.zeros(1, 3, 8, 8)
    with pytest.raises(InputError, match=r"a UNet2DOutput, .* diffusers_network\(unet\)"):
        eps_model(unet)(x_t, SCHEDULE.at(40))
    with pytest.raises(InputError, match=r"in train mode: call unet.eval\(\) first"):
        eps_model(diffusers_network(unet.train()))(x_t, SCHEDULE.at(40))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_diffusers_unet_plugs_in(dtype):
    torch.manual_seed(0)
    unet = diffusers_unet().to(dtype)
    x_t, level = draw(2, 3, 8, 8), SCHEDULE.at(torch.tensor([40, 960]))
    expected = unet(x_t.to(dtype), torch.tensor([40.0, 960.0])).sample.double()
    assert expected.any()
    prediction = eps_model(diffusers_network(unet))(x_t, level)
    assert torch.equal(prediction.eps, expected)
    consistent(prediction, x_t, level)
    assert torch.equal(x0_model(diffusers_network(unet))(x_t, level).x0, expected)
    alpha, sigma = level.scales(x_t)
    velocity = v_model(diffusers_network(unet))(x_t, level)
    torch.testing.assert_close(alpha * velocity.eps - sigma * velocity.x0, expected)


# --- Wrappers -----------------------------------------------------------------------------------

WIDE = 3 * draw(2, 3, 16, 16, seed=5)  # an x0 that leaves [-1, 1]


def wide(x_t: Tensor, level: Level) -> Prediction:
    return x0_model(lambda x, t: torch.cat([WIDE, 0 * WIDE], 1), learned_variance=True)(x_t, level)


@pytest.mark.parametrize("wrap", [clipped, thresholded])
@pytest.mark.parametrize("t", [0, 500, 999])
def test_wrappers_bound_x0_and_recompute_eps(wrap, t):
    level, x_t = SCHEDULE.at(t), draw(2, 3, 16, 16, seed=6)
    prediction = wrap(wide)(x_t, level)
    assert prediction.x0.abs().max() <= 1
    consistent(prediction, x_t, level)
    assert torch.equal(prediction.v, wide(x_t, level).v)


@pytest.mark.parametrize("wrap", [clipped, thresholded])
def test_wrappers_leave_an_x0_in_range_alone(wrap):
    level, x_t = SCHEDULE.at(500), draw(2, 3, 4, 4)
    inside = X0.clamp(-1, 1)
    prediction = wrap(x0_model(lambda x, t: inside))(x_t, level)
    assert torch.equal(prediction.x0, inside)


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 5), (3, 2, 5, 5, 5)])
def test_thresholding_works_on_states_of_any_shape(shape):
    x0, level = 3 * draw(*shape, seed=9), SCHEDULE.at(500)
    found = thresholded(lambda x, level: Prediction(x0, x0))(x0, level).x0
    assert found.shape == x0.shape and float(found.abs().max()) == 1


def test_clipping_clamps_and_lets_gradients_through():
    x_t, level = draw(2, 3, 16, 16).requires_grad_(), SCHEDULE.at(500)
    plain = x0_model(lambda x, t: 5 * x)
    prediction = clipped(plain)(x_t, level)
    assert bool((plain(x_t, level).x0.abs() > 1).any())
    (through,) = torch.autograd.grad(prediction.x0.sum(), x_t)
    (unclipped,) = torch.autograd.grad(plain(x_t, level).x0.sum(), x_t)
    torch.testing.assert_close(through, unclipped)
    assert torch.equal(prediction.x0.detach(), clipped(plain)(x_t.detach(), level).x0)


@given(x=st.floats(-1e6, 1e6, width=32), graph=st.booleans())
def test_straight_through_has_the_exact_value_of_clamp(x, graph):
    x = torch.tensor(x, requires_grad=graph)
    assert clamp_straight_through(x, -1, 1).item() == x.clamp(-1, 1).item()


@given(quantile=st.floats(0.05, 1), spread=st.floats(0.1, 10))
def test_thresholding_is_the_published_formula(quantile, spread):
    x0 = spread * draw(3, 2, 5, 5, seed=7)
    level, x_t = SCHEDULE.at(600), draw(3, 2, 5, 5, seed=8)
    found = thresholded(lambda x, level: Prediction(x0, x0), quantile)(x_t, level).x0
    for i in range(3):
        values = x0[i].abs().flatten().sort().values
        position = quantile * (len(values) - 1)  # linear between order statistics
        low = int(position)
        high = min(low + 1, len(values) - 1)
        s = max(1.0, float(values[low] + (position - low) * (values[high] - values[low])))
        torch.testing.assert_close(found[i], x0[i].clamp(-s, s) / s)
