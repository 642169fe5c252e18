"""Power by spatial frequency: Parseval, single waves, and refusals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppap_book.errors import StudyError
from ppap_book.measures.spectrum import band_powers, frequencies, noise_sigma_mad
from ppap_lib.errors import InputError


def wave(fx, fy, height=32, width=32):
    """cos of `fx` periods across and `fy` down: [1, 1, H, W], mean square 1/2 unless constant."""
    y, x = (torch.arange(n, dtype=torch.float64) / n for n in (height, width))
    return torch.cos(2 * math.pi * (fx * x[None, :] + fy * y[:, None]))[None, None]


@given(
    st.integers(0, 10_000),
    st.sampled_from([(1, 8, 8), (3, 7, 12), (1, 32, 32)]),
    st.sampled_from([(4.0,), (0.5, 3.0), (2.0, 4.0, 100.0)]),
)
def test_the_powers_sum_to_the_mean_square(seed, shape, edges):
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    powers = band_powers(images, edges)
    assert powers.shape == (2, len(edges) + 1) and bool((powers >= 0).all())
    torch.testing.assert_close(
        powers.sum(1), images.double().square().mean((1, 2, 3)), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize(
    ("fx", "fy", "low"),
    [(0, 0, True), (3, 0, True), (0, 3.0, True), (4, 0, False), (3, 3, False), (2, 2, True)],
)
def test_a_wave_lies_wholly_in_the_band_of_its_frequency(fx, fy, low):
    power = 1.0 if fx == fy == 0 else 0.5
    expected = torch.tensor([[power, 0.0] if low else [0.0, power]], dtype=torch.float64)
    torch.testing.assert_close(band_powers(wave(fx, fy), [4]), expected, rtol=0, atol=1e-9)


def test_white_noise_fills_every_band_by_its_share_of_frequencies():
    noise = torch.randn(400, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    share = (frequencies(32, 32) < 4).double().mean()
    measured = band_powers(noise, [4]).mean(0)
    # Relative standard error of the low band: sqrt(2 / (400 * 45 bins)), about 0.01.
    assert measured[0].item() == pytest.approx(share.item(), rel=0.05)


@pytest.mark.parametrize(
    ("images", "edges", "message"),
    [
        (torch.zeros(1, 8, 8), [4], r"floating \[B, C, H, W\]"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), [4], "torch.uint8"),
        (torch.zeros(1, 1, 8, 8), [], "positive and rise strictly"),
        (torch.zeros(1, 1, 8, 8), [0, 4], "positive and rise strictly"),
        (torch.zeros(1, 1, 8, 8), [4, 4], "positive and rise strictly"),
        (torch.zeros(1, 1, 8, 8), [math.nan], "edges must be"),
        (torch.zeros(1, 1, 8, 8), [2, math.nan], "edges must be"),
        (None, [4], "images must be"),
        (torch.zeros(0, 1, 8, 8), [4], "at least one pixel"),
        (torch.zeros(1, 0, 8, 8), [4], "at least one pixel"),
        (torch.zeros(1, 1, 0, 8), [4], "at least one pixel"),
    ],
)
def test_what_has_no_bands_is_refused(images, edges, message):
    with pytest.raises((StudyError, InputError), match=message):
        band_powers(images, edges)


@pytest.mark.parametrize("sigma", [0.01, 0.3])
@pytest.mark.parametrize("side", [32, 33])
def test_the_noise_on_a_picture_is_found_and_edges_are_not_noise(sigma, side):
    noise = sigma * torch.randn(50, 3, side, side, generator=torch.Generator().manual_seed(0))
    picture = torch.ones(1, 1, side, side).tril().double() * 2 - 1  # a sharp oblique edge
    assert noise_sigma_mad(picture).item() == 0
    # Relative standard error of the mean: 1.17 / sqrt(50 * 768), below 0.01; the edge adds some.
    assert noise_sigma_mad(noise).mean().item() == pytest.approx(sigma, rel=0.03)
    assert noise_sigma_mad(picture + noise).mean().item() == pytest.approx(sigma, rel=0.1)


def test_noise_is_asked_of_images():
    with pytest.raises(StudyError, match=r"floating \[B, C, H, W\]"):
        noise_sigma_mad(torch.zeros(1, 8, 8))
    with pytest.raises(StudyError, match="at least one pixel"):
        noise_sigma_mad(torch.zeros(0, 1, 8, 8))
    with pytest.raises(StudyError, match="at least 2 x 2 pixels"):
        noise_sigma_mad(torch.zeros(1, 1, 1, 8))
