"""Banks of experts, and which expert reads which sample: the owner of its timestep.

>>> from ppap_lib.diffusion.schedules import Schedule
>>> experts = full_copies(nn.Linear(4, 3), Intervals(1000, 5))
>>> x_t, level = torch.zeros(2, 4), Schedule.linear().at(torch.tensor([17, 999]))
>>> experts(x_t, level).shape  # the first sample is read by expert 0, the second by expert 4
torch.Size([2, 3])
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ppap_lib.diffusion.denoisers import as_computed, shown
from ppap_lib.diffusion.levels import Level, check_state
from ppap_lib.errors import InputError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.experts.lora import LoraConfig, LoraUpdate, merge


class ExpertBank(Protocol):
    """N models by index, however they are held: a module, and a sequence of what is trained.

    `bank[k]` is the module whose parameters are those of expert k: an update, or a whole network.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> nn.Module: ...

    def __iter__(self) -> Iterator[nn.Module]: ...

    def run(self, index: int, x: Tensor) -> Any:
        """Return model `index`'s output for `x` [B, ...], differentiable in its parameters."""

    def merged(self, index: int) -> nn.Module:
        """Return model `index` as a plain network, to be used until the next call."""


class FullCopies(nn.Module):
    """Whole networks, one for each expert, as an `ExpertBank`.

    Parameters
    ----------
    networks
        The experts' own, cleanest interval first.
    """

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
        """Return network `index`'s output for `x` [B, ...], differentiable in its parameters."""
        return self.networks[index](x)

    def merged(self, index: int) -> nn.Module:
        """Return network `index` itself."""
        return self.networks[index]


class _Merged(NamedTuple):
    """A merged network, and the tensors that it was made of, with their versions then."""

    index: int
    network: nn.Module
    parts: tuple[nn.Module, LoraUpdate]
    state: list[tuple[Tensor, int]]

    @property
    def current(self) -> bool:
        """Whether none of these tensors was written to, or replaced, since."""
        now = _state(*self.parts)
        return len(now) == len(self.state) and all(
            old is new and before == after
            for (old, before), (new, after) in zip(self.state, now, strict=True)
        )


def _state(*modules: nn.Module) -> list[tuple[Tensor, int]]:
    """Tensors and versions; inference tensors, written to in inference mode only, count none."""
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    return [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


class LoraBank(nn.Module):
    """A frozen backbone and the updates of it, as an `ExpertBank`.

    Parameters
    ----------
    backbone
        The network that all updates share; it is frozen.
    updates
        One for each expert, cleanest interval first.
    """

    def __init__(self, backbone: nn.Module, updates: Iterable[LoraUpdate] = ()):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.updates = nn.ModuleList(updates)
        self._merged: _Merged | None = None

    def __len__(self) -> int:
        return len(self.updates)

    def __getitem__(self, index: int) -> LoraUpdate:
        return self.updates[index]

    def __iter__(self) -> Iterator[LoraUpdate]:
        return iter(self.updates)

    def run(self, index: int, x: Tensor) -> Any:
        """Return the backbone's output for `x` [B, ...] with update `index`, differentiable."""
        return self.updates[index](self.backbone, x)

    def merged(self, index: int) -> nn.Module:
        """Return a plain network with update `index` folded in, in eval mode.

        One is kept at a time: use it until the next call. It is made when the index, the update or
        the backbone has changed since the last call, or between train and eval mode. Call `unmerge`
        after writing to their `.data` or stepping a fused optimiser otherwise, which leave no
        trace.
        """
        last = self._merged
        if last is None or last.index != index or not last.current:
            self.unmerge()  # before the next is made, so that there are never two
            parts = (self.backbone, self.updates[index])
            self._merged = last = _Merged(index, merge(*parts), parts, _state(*parts))
        return last.network

    def unmerge(self) -> None:
        """Forget the merged network, which leaves the backbone and the updates."""
        self._merged = None

    def train(self, mode: bool = True) -> "LoraBank":
        self.unmerge()  # training by a fused optimiser leaves no trace
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.unmerge()  # its tensors would stay behind on the old device
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        # A copy's tensors count their versions anew: they could pass for those of the network.
        return {**self.__dict__, "_merged": None}


class Experts(nn.Module):
    """Models for the intervals of timesteps, each of which reads the samples of its own.

    `experts(x_t, level)` reads every sample with its own expert and trains in train mode;
    `experts.at(level)` is that function for guidance: where the batch is in one interval it is one
    plain network, made when the interval changes. Levels are those of a schedule with the T of
    `intervals`: a level does not know its T, and that of a shorter schedule has another owner.

    Parameters
    ----------
    bank
        One model for each interval, cleanest first.
    intervals
        The intervals that they own.

    Raises
    ------
    InputError
        If there are not as many models as intervals.
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
        """Return the function of x_t [B, ...] at this level ([] or [B]), for `guidance.at_xt`.

        In train mode, and for samples of several intervals, it is `experts(x_t, level)`.

        Raises
        ------
        ScheduleError
            If a level's timestep is in no interval.
        """
        owners = self.intervals.indices_of(level.t)
        present = _present(owners)

        def read(x: Tensor) -> Any:
            x = as_computed(x, self)  # the state may be float64, networks seldom are
            if self.training or len(present) > 1:
                return self(x, level)
            _one_each(owners, x)
            # Merged when called, not before: meanwhile another level may have had its turn.
            return self.bank.merged(present[0])(x)

        return read

    def forward(self, x: Tensor, level: Level) -> Any:
        """Return the experts' outputs for samples at their levels, in the samples' order.

        Differentiable in x and in the experts' parameters. In train mode batch norms see the
        samples of one expert at a time, as they would were it trained alone.

        Parameters
        ----------
        x
            Samples [B, ...].
        level
            One for all, or one for each.

        Returns
        -------
        Any
            Whatever the models return: a tensor [B, ...], or a tuple, list or dict of such.

        Raises
        ------
        InputError
            If there are several levels, but not one for each sample; or if outputs of several
            experts cannot be joined, for want of an entry for each sample.
        ScheduleError
            If a level's timestep is in no interval.
        """
        check_state(x, level)
        owners = self.intervals.indices_of(level.t)
        _one_each(owners, x)
        present = _present(owners)
        if len(present) == 1:
            return self.bank.run(present[0], x)
        groups = [(owners == k).nonzero().squeeze(1).to(x.device) for k in present]
        outputs = [self.bank.run(k, x[group]) for k, group in zip(present, groups, strict=True)]
        order = torch.cat(groups).argsort()

        def joined(*parts: Any) -> Any:
            if all(part is None for part in parts):
                return None
            for part, group in zip(parts, groups, strict=True):
                if not isinstance(part, Tensor) or part.shape[:1] != group.shape:
                    raise InputError(
                        f"experts return tensors with an entry for each of {len(group)} samples, "
                        f"not {list(part.shape) if isinstance(part, Tensor) else part!r}"
                    )
            return torch.cat(parts)[order]

        return tree_map(joined, *outputs)


def _present(owners: Tensor) -> list[int]:
    """The experts that read any sample, or one of them where there is no sample."""
    return owners.unique().tolist() or [0]


def _one_each(owners: Tensor, x: Tensor) -> None:
    if owners.ndim and owners.shape != x.shape[:1]:
        raise InputError(f"{len(owners)} levels for {len(x)} images: give one, or one each")


def _check_made_of(network: nn.Module, intervals: Intervals) -> None:
    if not isinstance(network, nn.Module) or not isinstance(intervals, Intervals):
        raise InputError(
            f"experts are made of a module and Intervals, not of {shown(network)} and "
            f"{shown(intervals)}"
        )


def low_rank(backbone: nn.Module, config: LoraConfig, intervals: Intervals) -> Experts:
    """Make PPAP's experts: for each interval a fresh update of the backbone, which is frozen.

    Parameters
    ----------
    backbone
        The network that all experts share.
    config
        What of it an update changes; see `lora_config`.
    intervals
        One expert is made for each.
    """
    _check_made_of(backbone, intervals)
    updates = [LoraUpdate(backbone, config) for _ in range(len(intervals))]
    return Experts(LoraBank(backbone, updates), intervals)


def full_copies(network: nn.Module, intervals: Intervals) -> Experts:
    """Make multi-experts: for each interval a copy of the network, with all parameters trained.

    Parameters
    ----------
    network
        The network that is copied, and stays as it is.
    intervals
        One expert is made for each; with one interval this is the single noise-aware model.
    """
    _check_made_of(network, intervals)
    copies = [copy.deepcopy(network).requires_grad_(True) for _ in range(len(intervals))]
    return Experts(FullCopies(copies), intervals)
