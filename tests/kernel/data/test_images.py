"""The pixel contract: what comes in comes out, and nothing else is let in."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppap_lib.data.pixels import (
    GREY,
    check_images,
    from_bytes,
    from_unit,
    pad_to,
    resize,
    tile,
    to_bytes,
    to_unit,
    with_channels,
)
from ppap_lib.errors import InputError

ALL_BYTES = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


# --- Ranges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_every_byte_survives_the_round_trip(dtype):
    pixels = from_bytes(ALL_BYTES)
    assert pixels.dtype == torch.float32
    assert pixels.min() == -1 and pixels.max() == 1
    assert torch.equal(to_bytes(pixels.to(dtype)), ALL_BYTES)


def test_bytes_of_bfloat16_are_within_its_rounding():
    # Eight bits of mantissa: next to +-1 the step is 1/128 to 1/256, that is one byte.
    found = to_bytes(from_bytes(ALL_BYTES).bfloat16())
    assert (found.int() - ALL_BYTES.int()).abs().max() <= 1


def test_bytes_are_rounded_to_the_nearest_and_clamped():
    level = 2 / 255  # one byte in [-1, 1]
    given = torch.tensor([-1.5, -1 + 0.49 * level, -1 + 0.51 * level, 1.5])
    assert to_bytes(given).tolist() == [0, 0, 1, 255]


@given(st.floats(-1, 1))
def test_unit_range_and_contract_are_inverse(value):
    pixels = torch.full((1, 1, 1, 1), value, dtype=torch.float64)
    torch.testing.assert_close(from_unit(to_unit(pixels)), pixels, rtol=0, atol=1e-15)


def test_the_unit_range_is_clamped_on_the_way_out():
    assert to_unit(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_conversions_leave_their_input_alone():
    pixels = noise(1, 1, 2, 2)
    before = pixels.clone()
    to_bytes(pixels), to_unit(pixels), pad_to(pixels, 4)
    assert torch.equal(pixels, before)


def test_check_returns_images_that_keep_the_contract():
    pixels = noise(2, 3, 4, 4)
    assert check_images(pixels, channels=3) is pixels
    assert check_images(pixels[:0]).shape == (0, 3, 4, 4)
    check_images(torch.full((1, 1, 1, 1), 1.0005))  # rounding of a resize or of half precision


# --- Sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 8, 32])
def test_a_whole_factor_is_the_box_average(size):
    pixels = noise(2, 3, 32, 32)
    factor = 32 // size
    boxes = pixels.unflatten(2, (size, factor)).unflatten(4, (size, factor)).mean((3, 5))
    torch.testing.assert_close(resize(pixels, size), boxes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(28, 28), (48, 32), (20, 64)])
@pytest.mark.parametrize("size", [13, 32, 64])
def test_other_sizes_keep_flat_images_and_the_range(shape, size):
    flat = resize(torch.full((1, 1, *shape), 0.3), size)
    torch.testing.assert_close(flat, torch.full((1, 1, size, size), 0.3))
    edges = resize(noise(1, 1, *shape).sign(), size)  # bicubic overshoots here
    assert check_images(edges, tolerance=0).shape == (1, 1, size, size)


def test_shrinking_is_antialiased():
    stripes = torch.ones(1, 1, 30, 30)
    stripes[..., ::2] = -1  # finer than the new grid can show: only their mean remains
    assert resize(stripes, 7)[..., 1:-1].abs().max() < 0.1


@given(height=st.integers(1, 9), width=st.integers(1, 9), extra=st.integers(0, 5))
def test_padding_centres_the_images_on_black(height, width, extra):
    size = max(height, width) + extra
    padded = pad_to(torch.ones(2, 1, height, width), size)
    assert padded.shape == (2, 1, size, size)
    inside = padded == 1
    assert int(inside.sum()) == 2 * height * width and bool((padded[~inside] == -1).all())
    rows, columns = inside[0, 0].any(1).nonzero(), inside[0, 0].any(0).nonzero()
    for first, last in ((rows[0], rows[-1]), (columns[0], columns[-1])):
        assert 0 <= int(size - 1 - last) - int(first) <= 1  # the odd pixel goes behind


# --- Channels ---------------------------------------------------------------------------------


def test_grey_is_repeated_and_comes_back():
    grey = noise(2, 1, 4, 4)
    rgb = with_channels(grey, 3)
    assert rgb.shape == (2, 3, 4, 4)
    assert all(torch.equal(rgb[:, i : i + 1], grey) for i in range(3))
    torch.testing.assert_close(with_channels(rgb, 1), grey)
    assert with_channels(grey, 1) is grey


def test_grey_weighs_the_primaries_by_luma():
    primaries = torch.eye(3).view(3, 3, 1, 1)
    assert with_channels(primaries, 1).flatten().tolist() == pytest.approx(GREY)
    assert sum(GREY) == pytest.approx(1)


# --- Sheets -----------------------------------------------------------------------------------


@given(
    count=st.integers(1, 7),
    columns=st.integers(1, 4),
    gap=st.integers(0, 2),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
)
def test_tiles_lie_row_by_row_with_white_between(count, columns, gap, height, width):
    pixels = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, height, width) - 10
    sheet = tile(pixels, columns, gap)
    rows = -(-count // columns)
    assert sheet.shape == (3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i in range(count):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        assert torch.equal(sheet[:, top : top + height, left : left + width], pixels[i])
    assert int((sheet != 1).sum()) == pixels.numel()


# --- What is no image ---------------------------------------------------------------------------

NO_IMAGES = [None, 5, "x", math.nan, [1], torch.tensor(0.0), torch.zeros(3), torch.zeros(2, 0, 8)]
NO_SIZES = [0, -1, 2.5, "x", None, math.nan, True, torch.ones(2)]
CALLS = [check_images, from_bytes, to_bytes, to_unit, from_unit]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_what_is_no_image_is_refused(call):
    for wrong in NO_IMAGES[:5]:
        with pytest.raises(InputError):
            call(wrong)


@pytest.mark.parametrize("call", [pad_to, resize, with_channels, tile], ids=lambda c: c.__name__)
def test_what_is_no_size_is_refused(call):
    for wrong in NO_IMAGES:
        with pytest.raises(InputError):
            call(wrong, 1)
    for wrong in NO_SIZES:
        with pytest.raises(InputError):
            call(noise(2, 1, 8, 8), wrong)
    assert call(noise(2, 1, 8, 8), np.int64(8)).shape == call(noise(2, 1, 8, 8), 8).shape
