"""One noise stream per image: nothing but the seed decides a draw."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ppap_lib.diffusion.noise import SEEDS, Noise, seed_labels

SHAPE = (3, 8, 8)


def draws(block, count: int = 3, **options) -> torch.Tensor:
    """[count, B, *SHAPE]: successive draws."""
    noise = Noise(block, SHAPE, **options)
    return torch.stack([noise() for _ in range(count)])


@given(split=st.lists(st.integers(1, 5), min_size=1, max_size=5), start=st.integers(0, 10**9))
def test_every_split_into_batches_gives_the_same_bits(split, start):
    whole = list(range(start, start + sum(split)))
    parts, first = [], 0
    for size in split:
        parts.append(draws(whole[first : first + size], count=2))
        first += size
    assert torch.equal(draws(whole, count=2), torch.cat(parts, dim=1))


def test_order_moves_images_and_changes_none():
    assert torch.equal(draws([7, 3, 5])[:, [1, 2, 0]], draws([3, 5, 7]))


def test_the_global_generator_plays_no_part():
    torch.manual_seed(0)
    first = draws([1, 2])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(draws([1, 2]), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_streams_differ_between_seeds_and_between_draws():
    several = draws(range(4)).flatten(0, 1).flatten(1)
    assert len({tuple(row.tolist()) for row in several}) == 12


def test_float32_is_the_rounding_of_float64():
    assert draws([1, 2], dtype=torch.float64).dtype == torch.float64
    assert torch.equal(draws([1, 2], dtype=torch.float32), draws([1, 2]).float())


def test_draws_are_standard_normal():
    noise = Noise(range(64), (1000,))()
    # Standard errors at 64,000 draws: 0.004 (mean), 0.0056 (variance), 0.0098 x sqrt(24/6).
    assert abs(noise.mean()) < 0.02
    assert abs(noise.var() - 1) < 0.03
    assert abs((noise**4).mean() - 3) < 0.2
    neighbours = torch.corrcoef(noise)  # streams of neighbouring seeds are unrelated
    assert (neighbours - torch.eye(64)).abs().max() < 0.16  # five standard errors, 1/sqrt(1000)


def test_length_is_the_number_of_images():
    assert len(Noise([4, 5, 6], SHAPE)) == 3


@given(num_classes=st.integers(1, 20), repeats=st.integers(1, 5), start=st.integers(0, 10**6))
def test_any_block_of_seeds_has_balanced_labels(num_classes, repeats, start):
    found = seed_labels(range(start, start + num_classes * repeats), num_classes)
    assert found.bincount(minlength=num_classes).tolist() == [repeats] * num_classes


def test_a_label_depends_on_its_seed_alone():
    assert seed_labels([12, 3, 40], 10).tolist() == [2, 3, 0]
    assert seed_labels([3], 10).tolist() == [3]
    assert seed_labels([], 10).dtype == torch.int64


def test_the_generator_reads_32_bits():
    """Why the range is what it is."""
    one, other = (torch.Generator().manual_seed(seed) for seed in (1, 1 + SEEDS))
    assert torch.equal(torch.randn(20, generator=one), torch.randn(20, generator=other))
