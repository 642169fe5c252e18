"""The intervals of timesteps that experts own.

>>> cut = Intervals(1000, 5)
>>> cut.edges
(0, 200, 400, 600, 800, 1000)
>>> cut.index_of(200), cut.index_of(199.5), cut[0]
(1, 0, range(0, 200))
"""

import bisect
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ppap_lib.errors import ScheduleError
from ppap_lib.parameters import real, whole


@dataclass(frozen=True)
class Intervals:
    """The timesteps 0..T-1 cut into half-open intervals; index 0 is the cleanest.

    This is the one definition of the boundaries, for training, routing, plots and labels. Pages
    print index + 1.

    Parameters
    ----------
    T
        Number of training timesteps.
    n
        Number of intervals, from 1 to T.

    Raises
    ------
    InputError
        If a number is not whole.
    ScheduleError
        If there are more intervals than timesteps, or none.
    """

    T: int
    n: int

    def __post_init__(self):
        for name in ("T", "n"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
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
        """Return the integer timesteps of one interval."""
        if not 0 <= index < self.n:
            raise IndexError(f"interval {index} of {self.n}: indices are 0 to {self.n - 1}")
        return range(self.edges[index], self.edges[index + 1])

    def index_of(self, t: float) -> int:
        """Return the interval that owns real `t`, which is the one that holds floor(t).

        Raises
        ------
        ScheduleError
            If `t` is not in [0, T).
        """
        if not 0 <= real("t", t) < self.T:
            raise ScheduleError(f"t must be in [0, {self.T}), not {t:g}")
        # Not t*n//T, which is wrong where n does not divide T (n = 7, t = 142).
        return bisect.bisect_right(self.edges, math.floor(t)) - 1

    def indices_of(self, t: Tensor) -> Tensor:
        """Return `index_of` of every time in `t` [...]: int64 [...], on its device.

        Raises
        ------
        ScheduleError
            If a time is not in [0, T).
        """
        if not isinstance(t, Tensor) or t.is_complex():
            raise ScheduleError(f"times are a tensor of real numbers, not {t!r}")
        if t.numel() and not bool(((t >= 0) & (t < self.T)).all()):
            raise ScheduleError(
                f"t must be in [0, {self.T}), not [{t.min():g}, {t.max():g}]: levels are those of "
                f"a schedule with T = {self.T}, as the intervals are"
            )
        edges = torch.tensor(self.edges[1:-1], device=t.device, dtype=torch.float64)
        return torch.searchsorted(edges, t.double().floor(), right=True)
