"""Which images and which noise a step sees: both are functions of the step's number alone."""

import torch
from torch import Tensor

ORDER, NOISE, DROPOUT, TIMES = 1, 2, 3, 4
"""Part of a key: what the numbers are drawn for. `TIMES` are the noise levels of experts."""


def seed_of(*key: int) -> int:
    """One 63-bit seed from a short tuple of integers."""
    seed = 0
    for part in key:
        seed = (seed * 0x9E3779B1 + part + 1) & 0x7FFFFFFFFFFFFFFF
    return seed


class Epochs:
    """The order in which `count` images are seen in batches of `batch`.

    Each epoch is a permutation seeded by its number, the same for every `device` that it is kept
    on; batches run across the ends of epochs, so every image is seen equally often.
    """

    def __init__(self, count: int, batch: int, seed: int, device: torch.device | str = "cpu"):
        self.count, self.batch, self.seed = count, batch, seed
        self.device = device
        self._generator = torch.Generator()
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """The indices [batch] of the images of step 0, 1, ..."""
        first, end = step * self.batch, (step + 1) * self.batch
        parts = []
        while first < end:
            epoch, offset = divmod(first, self.count)
            parts.append(self._permutation(epoch)[offset : offset + end - first])
            first += len(parts[-1])
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = self._generator.manual_seed(seed_of(self.seed, ORDER, epoch))
            self._order = torch.randperm(self.count, generator=generator).to(self.device)
            self._epoch = epoch
        return self._order
