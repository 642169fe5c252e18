"""Intervals of timesteps: each timestep lies in one, and routing agrees with the edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppap_lib.experts.intervals import Intervals


@pytest.mark.parametrize("T", [1000, 997, 100, 10])
@pytest.mark.parametrize("n", range(1, 11))
def test_intervals_cover_every_timestep_once(T, n):
    intervals = Intervals(T, n)
    assert len(intervals) == n
    assert [t for interval in intervals for t in interval] == list(range(T))
    sizes = {len(interval) for interval in intervals}
    assert max(sizes) - min(sizes) <= 1
    owners = [intervals.index_of(t) for t in range(T)]
    assert owners == intervals.indices_of(torch.arange(T)).tolist()
    assert owners == [k for k in range(n) for _ in intervals[k]]


def test_the_boundary_that_a_product_gets_wrong():
    # 142 * 7 // 1000 = 0, though the second interval starts at 1000 // 7 = 142.
    intervals = Intervals(1000, 7)
    assert intervals.edges[1] == 142
    assert intervals.index_of(142) == 1 and intervals.index_of(141) == 0
    assert intervals.indices_of(torch.tensor([141, 142])).tolist() == [0, 1]


def test_the_boundaries_that_the_released_code_routes_below():
    assert [Intervals(1000, 5).index_of(t) for t in (200, 400, 600, 800)] == [1, 2, 3, 4]


@given(data=st.data(), T=st.integers(1, 3000))
def test_routing_agrees_with_the_edges_at_real_times(data, T):
    n = data.draw(st.integers(1, min(T, 40)))
    t = data.draw(st.floats(0, T, exclude_max=True))
    intervals = Intervals(T, n)
    owner = intervals.index_of(t)
    assert intervals.edges[owner] <= t < intervals.edges[owner + 1]
    assert intervals.indices_of(torch.tensor(t, dtype=torch.float64)) == owner
    assert math.floor(t) in intervals[owner]


def test_routing_keeps_the_shape_and_takes_float32():
    routed = Intervals(1000, 5).indices_of(torch.tensor([[0.0, 199.9], [200.0, 999.5]]))
    assert routed.tolist() == [[0, 0], [1, 4]] and routed.dtype == torch.int64
