"""Losses against closed forms, and augmentations against the pixel contract."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ppap_lib.data.pixels import check_images, from_bytes
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import TrainingError
from ppap_lib.training.objectives import (
    ClassifierLoss,
    DenoiserLoss,
    discretised_nll,
    erased,
    flipped,
    gaussian_kl,
    gaussian_nll,
    shifted,
    snr_weight,
    stratified_times,
)

SCHEDULE = Schedule.linear()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(count: int = 4, channels: int = 1, size: int = 8) -> torch.Tensor:
    return from_bytes(
        torch.randint(256, (count, channels, size, size), generator=generator(1)).byte()
    )


class Oracle(nn.Module):
    """The network that knows the image: eps, x0 or v without error, and a variance fraction."""

    def __init__(self, x0, prediction, fraction=None):
        super().__init__()
        self.x0, self.prediction, self.fraction = x0, prediction, fraction

    def forward(self, x_t, t):
        abar = SCHEDULE.alphas_cumprod[t.long()].view(-1, 1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        eps = (x_t.double() - alpha * self.x0) / sigma
        out = {"eps": eps, "x0": self.x0, "v": alpha * eps - sigma * self.x0}[self.prediction]
        if self.fraction is not None:
            out = torch.cat([out, torch.full_like(out, self.fraction)], 1)
        return out.float()


class Fixed(nn.Module):
    """Returns one parameter, whatever it is shown."""

    def __init__(self, out):
        super().__init__()
        self.out = nn.Parameter(out)

    def forward(self, x_t, t):
        return self.out


def draw(images, t):
    return torch.tensor(t), torch.randn(images.shape, generator=generator(2))


# --- Gaussians and pixels


def test_gaussian_kl_against_hand_computed_values():
    zero, one = torch.zeros(()), torch.ones(())
    assert gaussian_kl(zero, zero, zero, zero) == 0
    assert gaussian_kl(one, zero, zero, zero) == pytest.approx(0.5)
    # KL(N(0, 1) || N(1, 4)) = log 2 + (1 + 1)/8 - 1/2
    kl = gaussian_kl(zero, zero, one, torch.tensor(4.0).log())
    assert kl == pytest.approx(math.log(2) + 0.25 - 0.5, abs=1e-6)


@settings(deadline=None)
@given(
    mean=st.floats(-1.5, 1.5, allow_subnormal=False),
    log_std=st.floats(math.log(0.003), math.log(0.6)),
)
def test_discretised_likelihood_sums_to_one(mean, log_std):
    x = from_bytes(torch.arange(256).byte())
    log_var = torch.full_like(x, 2 * log_std)
    nll = discretised_nll(x, torch.full_like(x, mean), log_var)
    assert torch.isfinite(nll).all()
    assert (-nll).exp().double().sum() == pytest.approx(1, abs=2e-4)


def test_discretised_likelihood_is_the_bins_integral_far_into_the_tail():
    x = from_bytes(torch.tensor([10, 100, 128, 240]).byte()).double()
    mean, std = torch.tensor(0.0).double(), 0.1
    normal = torch.distributions.Normal(0.0, std)
    centre = normal.log_prob(x) + math.log(2 / 255)
    nll = discretised_nll(x, mean, torch.tensor(2 * math.log(std)).double())
    # The bin is narrow against std: density times width, off by (width/std)^2/24 (x/std)^2.
    assert torch.allclose(nll, -centre, rtol=1e-3)
    far = discretised_nll(torch.tensor(0.98), torch.tensor(-1.0), torch.tensor(-7.0))
    assert torch.isfinite(far) and far > 100  # 1 - cdf would be 0 there


def test_discretised_likelihood_has_finite_gradients_everywhere():
    x = from_bytes(torch.arange(256).byte())
    mean = torch.linspace(-3, 3, 256).requires_grad_()
    log_var = torch.linspace(-12, 0, 256).requires_grad_()
    discretised_nll(x, mean, log_var).sum().backward()
    assert torch.isfinite(mean.grad).all() and torch.isfinite(log_var.grad).all()


# --- The hybrid loss


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("min_snr", [None, 5.0])
def test_a_perfect_network_has_no_simple_loss(prediction, min_snr):
    images = some_images()
    loss = DenoiserLoss(SCHEDULE, prediction, learned_variance=False, min_snr=min_snr)
    simple, bound = loss.terms(
        Oracle(images.double(), prediction), images, *draw(images, [0, 3, 500, 999])
    )
    # eps from a nearly clean x_t loses digits: 1e-7 / sigma at t = 0.
    assert bound is None and torch.allclose(simple, torch.zeros(4), atol=1e-8)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_bound_does_not_depend_on_what_is_predicted(prediction):
    images = some_images()
    wrong = images.double() * 0.5
    loss = DenoiserLoss(SCHEDULE, prediction)
    t, eps = draw(images, [0, 3, 500, 999])
    _, bound = loss.terms(Oracle(wrong, prediction, 0.3), images, t, eps)
    _, expected = DenoiserLoss(SCHEDULE, "x0").terms(Oracle(wrong, "x0", 0.3), images, t, eps)
    # x0 recovered from eps at t = 999 is multiplied by 157, float32 noise with it.
    assert torch.allclose(bound, expected, rtol=1e-3, atol=1e-4)


def test_the_bound_is_the_kl_of_the_two_posteriors():
    """At one t by hand: q(x_{t-1} | x_t, x0) from the betas, the model's from x0 and fraction."""
    t, images, x0 = 400, some_images(1).double(), some_images(1).double().flip(3)
    beta, abar = SCHEDULE.betas[t], SCHEDULE.alphas_cumprod[t]
    before = SCHEDULE.alphas_cumprod[t - 1]
    x_t = abar.sqrt() * images + (1 - abar).sqrt() * 0.7
    gap = before.sqrt() * beta / (1 - abar) * (images - x0)  # x_t's share of the means cancels
    tilde = beta * (1 - before) / (1 - abar)
    share = 0.8  # of log beta, that is a fraction of 0.6
    variance = beta**share * tilde ** (1 - share)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(gap, tilde.sqrt()),
        torch.distributions.Normal(torch.zeros_like(gap), variance.sqrt()),
    )
    expected = kl.mean() / math.log(2)
    bound = DenoiserLoss(SCHEDULE).bound(
        images.float(),
        x_t.float(),
        x0.float(),
        torch.full_like(x0, 0.6).float(),
        torch.tensor([t]),
    )
    assert bound.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_bound_of_the_true_posterior_is_zero_but_at_the_last_step():
    images = some_images()
    loss = DenoiserLoss(SCHEDULE)
    t, eps = draw(images, [1, 10, 500, 999])
    _, bound = loss.terms(Oracle(images.double(), "v", -1.0), images, t, eps)
    assert torch.allclose(bound, torch.zeros(4), atol=1e-4)
    _, last = loss.terms(Oracle(images.double(), "v", -1.0), images, *draw(images, [0] * 4))
    # There it is the pixels' code length: less than 8 bits, more than none.
    assert ((last > 0) & (last < 8)).all()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_bound_trains_the_variance_only_and_the_simple_loss_the_mean_only(prediction):
    images = some_images()
    t, eps = draw(images, [0, 3, 500, 999])
    for which, trained in ((0, 0), (1, 1)):
        network = Fixed(torch.randn(4, 2, 8, 8, generator=generator(3)) / 3)
        loss = DenoiserLoss(SCHEDULE, prediction).terms(network, images, t, eps)[which]
        loss.sum().backward()
        halves = network.out.grad.chunk(2, dim=1)
        assert (halves[trained] != 0).any(1).all()
        assert not halves[1 - trained].any()


def test_the_loss_is_the_simple_loss_plus_a_thousandth_of_T_times_the_bound():
    images = some_images()
    for T in (100, 1000):
        loss = DenoiserLoss(Schedule.linear(T))
        network = Fixed(torch.randn(4, 2, 8, 8, generator=generator(3)) / 3)
        t, eps = draw(images, [0, 3, 50, 99])
        simple, bound = loss.terms(network, images, t, eps)
        assert torch.allclose(loss.per_sample(network, images, t, eps), simple + T / 1000 * bound)


def test_min_snr_weights():
    snr = SCHEDULE.alphas_cumprod / (1 - SCHEDULE.alphas_cumprod)
    capped = snr.clamp(max=5)
    assert torch.allclose(snr_weight(SCHEDULE, "x0", 5.0), capped)
    assert torch.allclose(snr_weight(SCHEDULE, "eps", 5.0), capped / snr)
    assert torch.allclose(snr_weight(SCHEDULE, "v", 5.0), capped / (snr + 1))
    assert torch.equal(snr_weight(SCHEDULE, "v", None), torch.ones(1000).double())


@pytest.mark.parametrize("t", [5, 400, 950])
def test_min_snr_weighs_the_same_x0_error_alike_whatever_is_predicted(t):
    images = some_images()
    wrong, (times, eps) = images.double() + 0.1, draw(images, [t] * 4)
    losses = [
        DenoiserLoss(SCHEDULE, prediction, False, 5.0)
        .terms(Oracle(wrong, prediction), images, times, eps)[0]
        .mean()
        .item()
        for prediction in ("eps", "x0", "v")
    ]
    snr = SCHEDULE.log_snr[t].exp().item()
    assert losses == pytest.approx([min(snr, 5) * 0.01] * 3, rel=1e-3)


def test_times_are_stratified_and_cover_all_steps():
    t = stratified_times(100, 1000, generator())
    assert torch.equal(t // 10, torch.arange(100))
    many = torch.cat([stratified_times(7, 10, generator(k)) for k in range(3000)])
    assert torch.allclose(many.bincount() / len(many), torch.full((10,), 0.1), atol=0.01)


def test_a_batch_is_a_function_of_the_generator():
    images, network = some_images(), Fixed(torch.zeros(4, 2, 8, 8))
    loss = DenoiserLoss(SCHEDULE)
    a, b, other = (loss(network, images, None, generator(k)).item() for k in (5, 5, 6))
    assert a == b != other


def test_a_denoiser_may_learn_from_mirrored_images():
    images = some_images(64)
    both_ways = (images + images.flip(3)) / 2
    for flip, seen, nothing in (
        (False, images, True),
        (True, images, False),
        (True, both_ways, True),
    ):
        loss = DenoiserLoss(SCHEDULE, "x0", learned_variance=False, flip=flip)
        found = loss(Oracle(seen, "x0"), seen, None, generator()).item()
        assert (found < 1e-9) == nothing


def test_a_network_without_variance_channels_is_named():
    images = some_images()
    with pytest.raises(TrainingError, match="learned_variance=True"):
        DenoiserLoss(SCHEDULE)(Fixed(torch.zeros(4, 1, 8, 8)), images, None, generator())


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenoiserLoss(SCHEDULE, "noise"),
        lambda: DenoiserLoss(SCHEDULE, min_snr=0.0),
        lambda: ClassifierLoss(smoothing=1.0),
        lambda: ClassifierLoss(shift=-1),
    ],
)
def test_bad_objectives_are_refused(make):
    with pytest.raises(TrainingError):
        make()


# --- Augmentation and cross-entropy


def test_flipping_mirrors_about_half_of_the_images():
    images = some_images(400)
    out = flipped(images, generator())
    same = (out == images).flatten(1).all(1)
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all() and 150 < mirrored.sum() < 250


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), most=st.integers(0, 3))
def test_shifting_moves_and_fills_with_black(seed, most):
    images = some_images(5, channels=2)
    out = shifted(images, most, generator(seed))
    assert out.shape == images.shape
    span = range(-most, most + 1)
    for before, after in zip(images, out, strict=True):
        assert any(torch.equal(after, moved(before, dy, dx)) for dy in span for dx in span)


def moved(image, dy, dx):
    """`image` [C, H, W] moved down by dy and right by dx, black behind it."""
    out = image.roll((dy, dx), (1, 2))
    out[:, : max(dy, 0)] = -1
    out[:, :, : max(dx, 0)] = -1
    if dy < 0:
        out[:, dy:] = -1
    if dx < 0:
        out[:, :, dx:] = -1
    return out


def test_shifts_reach_every_offset():
    image = torch.full((1, 1, 8, 8), -1.0)
    image[..., 4, 4] = 1
    out = shifted(image.expand(2000, 1, 8, 8), 2, generator())
    assert torch.equal(
        (out > 0).any(0)[0].nonzero(), torch.cartesian_prod(*[torch.arange(2, 7)] * 2)
    )


def test_erasing_fills_one_rectangle_in_about_half_of_the_images():
    images = torch.full((600, 1, 32, 32), -1.0)
    out = erased(images, generator())
    changed = (out != images)[:, 0]
    share = changed.flatten(1).any(1).float().mean()
    assert 0.4 < share < 0.6
    for mask in changed[changed.flatten(1).any(1)]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.float().mean() > 0.99 and max(box.shape) <= 17
    check_images(out)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_keep_the_contract(channels):
    images = some_images(50, channels, 32)
    out = ClassifierLoss(erase=True, shift=4).augmentation(images, generator())
    assert check_images(out, channels).shape == images.shape and out.dtype == images.dtype


def test_cross_entropy_of_known_logits():
    images, labels = some_images(), torch.tensor([0, 1, 2, 3])
    plain = ClassifierLoss(smoothing=0.0)
    uniform = plain(lambda x: torch.zeros(4, 10), images, labels, generator())
    assert uniform.item() == pytest.approx(math.log(10))
    certain = plain(lambda x: 50 * torch.eye(10)[:4], images, labels, generator())
    assert certain.item() < 1e-6


# --- Samples of any shape


@pytest.mark.parametrize("shape", [(7,), (6, 24), (2, 3, 4, 5)])
@pytest.mark.parametrize("learned", [True, False])
def test_the_loss_of_any_samples_is_that_of_the_same_numbers_as_images(shape, learned):
    """Only the shape differs, so that nothing about the loss may."""
    width = math.prod(shape[1:])
    samples, eps = (torch.randn(4, *shape, generator=generator(k)) for k in (1, 2))
    images, image_eps = (v.reshape(4, shape[0], 1, width) for v in (samples, eps))
    t = torch.tensor([0, 3, 500, 999])
    loss = DenoiserLoss(SCHEDULE, learned_variance=learned, likelihood="gaussian")
    out = torch.randn(4, shape[0] * (1 + learned), *shape[1:], generator=generator(3)) / 3
    found = loss.per_sample(Fixed(out), samples, t, eps)
    as_images = out.reshape(4, -1, 1, width)
    torch.testing.assert_close(found, loss.per_sample(Fixed(as_images), images, t, image_eps))
    assert loss(Fixed(out), samples, None, generator(4)).isfinite()


def test_continuous_data_have_a_density_where_pixels_have_a_probability():
    """Of the likelihood of the first step alone; and a bin's width is what parts the two."""
    images, t = some_images(), torch.tensor([0, 0, 1, 999])
    eps, out = torch.zeros_like(images), torch.zeros(4, 2, 8, 8)
    pixels, numbers = (
        DenoiserLoss(SCHEDULE, "x0", likelihood=kind).terms(Fixed(out), images, t, eps)[1]
        for kind in ("discretised", "gaussian")
    )
    assert torch.equal(pixels[2:], numbers[2:]) and not torch.isclose(pixels[0], numbers[0])
    x, mean, log_var = torch.tensor([0.0, 0.1]), torch.tensor([0.02, -0.3]), torch.zeros(2)
    expected = -torch.distributions.Normal(mean, 1.0).log_prob(x)
    torch.testing.assert_close(gaussian_nll(x, mean, log_var), expected)
    torch.testing.assert_close(
        discretised_nll(x, mean, log_var), expected - math.log(2 / 255), rtol=1e-3, atol=1e-3
    )


def test_a_loss_is_known_by_what_it_prints():
    """Checkpoints of earlier versions name no likelihood."""
    said = "DenoiserLoss(prediction='v', learned_variance=True, min_snr=None, flip=False)"
    assert repr(DenoiserLoss(SCHEDULE)) == said
    series = DenoiserLoss(SCHEDULE, likelihood="gaussian")
    assert repr(series) == said[:-1] + ", likelihood='gaussian')"


def test_only_images_can_be_mirrored_and_likelihoods_have_names():
    with pytest.raises(TrainingError, match=r"images \[B, C, H, W\] can be mirrored, not \[4, 6"):
        DenoiserLoss(SCHEDULE, flip=True)(Fixed(torch.zeros(1)), torch.zeros(4, 6, 9), None, None)
    with pytest.raises(TrainingError, match="one of discretised, gaussian, not 'laplace'"):
        DenoiserLoss(SCHEDULE, likelihood="laplace")
