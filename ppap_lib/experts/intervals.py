"""The intervals of timesteps that experts own."""

import bisect
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ppap_lib.errors import ScheduleError


@dataclass(frozen=True)
class Intervals:
    """The timesteps 0..T-1 cut into `n` half-open intervals; index 0 is the cleanest.

    The one definition of the boundaries, for training, routing, plots and labels. Pages print
    index + 1.
    """

    T: int
    n: int

    def __post_init__(self):
        if not 1 <= self.n <= self.T:
            raise ScheduleError(
                f"{self.T} timesteps cannot be cut into {self.n} intervals: each needs one"
            )

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """The n+1 edges (k*T)//n."""
        return tuple(k * self.T // self.n for k in range(self.n + 1))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> range:
        """The integer timesteps of one interval."""
        if not 0 <= index < self.n:
            raise IndexError(f"interval {index} of {self.n}: indices are 0 to {self.n - 1}")
        return range(self.edges[index], self.edges[index + 1])

    def index_of(self, t: float) -> int:
        """The interval that owns real `t`: the one that holds floor(t)."""
        if not 0 <= t < self.T:
            raise ScheduleError(f"t must be in [0, {self.T}), not {t:g}")
        # Not t*n//T, which is wrong where n does not divide T (n = 7, t = 142).
        return bisect.bisect_right(self.edges, math.floor(t)) - 1

    def indices_of(self, t: Tensor) -> Tensor:
        """`index_of` for a tensor of times: int64 of the same shape."""
        if t.numel() and not bool(((t >= 0) & (t < self.T)).all()):
            raise ScheduleError(
                f"t must be in [0, {self.T}), not [{t.min():g}, {t.max():g}]: levels are those of "
                f"a schedule with T = {self.T}, as the intervals are"
            )
        edges = torch.tensor(self.edges[1:-1], device=t.device, dtype=torch.float64)
        return torch.searchsorted(edges, t.double().floor(), right=True)
