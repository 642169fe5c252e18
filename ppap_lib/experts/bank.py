"""Which expert reads which image: the one whose interval holds its timestep."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ppap_lib.diffusion.denoisers import as_computed
from ppap_lib.diffusion.levels import Level
from ppap_lib.errors import InputError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.experts.lora import LoraBank, LoraConfig, LoraUpdate


class ExpertBank(Protocol):
    """N models by index, however they are held: a module, and a sequence of what is trained.

    `bank[k]` is the module whose parameters are those of expert k: an update, or a whole network.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> nn.Module: ...

    def __iter__(self) -> Iterator[nn.Module]: ...

    def run(self, index: int, x: Tensor) -> Any:
        """The output of one model, differentiable in its parameters."""

    def merged(self, index: int) -> nn.Module:
        """One model as a plain network, to be used until the next call."""


class FullCopies(nn.Module):
    """Whole networks, one per expert, as an `ExpertBank`."""

    def __init__(self, networks: Iterable[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, index: int) -> nn.Module:
        return self.networks[index]

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.networks)

    def run(self, index: int, x: Tensor) -> Any:
        return self.networks[index](x)

    def merged(self, index: int) -> nn.Module:
        return self.networks[index]


class Experts(nn.Module):
    """A bank of models, one per interval (index 0 reads the cleanest images).

    `experts(x, level)` reads every image with its own expert and trains in train mode;
    `experts.at(level)` is the same for guidance: where the batch is in one interval it is one
    plain network, made when the interval changes. Levels are those of a schedule with the T of
    `intervals`: a level does not know its T, and that of a shorter schedule has another owner.
    """

    def __init__(self, bank: ExpertBank, intervals: Intervals):
        super().__init__()
        if len(bank) != len(intervals):
            raise InputError(
                f"{len(bank)} experts for {len(intervals)} intervals: expected one each"
            )
        self.bank, self.intervals = bank, intervals

    def __len__(self) -> int:
        return len(self.intervals)

    def at(self, level: Level) -> Callable[[Tensor], Any]:
        """The function of x_t at this level ([] or one per image), for `guidance.at_xt`.

        In train mode, and for images of several intervals, it is `experts(x_t, level)`.
        """
        owners = self.intervals.indices_of(level.t)
        present = owners.unique().tolist()

        def read(x: Tensor) -> Any:
            x = as_computed(x, self)  # the state may be float64, networks seldom are
            if self.training or len(present) > 1:
                return self(x, level)
            _one_each(owners, x)
            # Merged when called, not before: meanwhile another level may have had its turn.
            return self.bank.merged(present[0])(x)

        return read

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """The outputs [B, ...] for images [B, C, H, W], grouped by expert and put back in order.

        Differentiable in x and in the experts' parameters. In train mode batch norms see the
        images of one expert at a time, as they would were it trained alone.
        """
        owners = self.intervals.indices_of(level.t)
        _one_each(owners, x)
        present = owners.unique().tolist()
        if len(present) == 1:
            return self.bank.run(present[0], x)
        groups = [(owners == k).nonzero().squeeze(1).to(x.device) for k in present]
        outputs = [self.bank.run(k, x[group]) for k, group in zip(present, groups, strict=True)]
        return torch.cat(outputs)[torch.cat(groups).argsort()]


def _one_each(owners: Tensor, x: Tensor) -> None:
    if owners.ndim and len(owners) != len(x):
        raise InputError(f"{len(owners)} levels for {len(x)} images: give one, or one each")


def low_rank(backbone: nn.Module, config: LoraConfig, intervals: Intervals) -> Experts:
    """PPAP: one fresh update of the shared backbone per interval. Freezes the backbone."""
    return Experts(
        LoraBank(backbone, [LoraUpdate(backbone, config) for _ in range(len(intervals))]), intervals
    )


def full_copies(network: nn.Module, intervals: Intervals) -> Experts:
    """Multi-experts: one copy of the network per interval, with all parameters trained."""
    copies = [copy.deepcopy(network).requires_grad_(True) for _ in range(len(intervals))]
    return Experts(FullCopies(copies), intervals)
