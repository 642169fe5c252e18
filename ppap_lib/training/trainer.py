"""One training loop for every network: EMA, mixed precision, time budgets, crash-safe resume.

A step is a function of its number: batches, noise and dropout come from generators seeded by
it, so that a run that is killed and resumed passes through the losses of one that was not (as
long as the budget is in steps: a budget in minutes fits the learning rate to the clock).

The host reads no value back from the device inside a step. It waits once in `log_every` steps,
to read the losses, and when a checkpoint or snapshot is written.
"""

import copy
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ppap_lib.data.pixels import from_bytes
from ppap_lib.errors import TrainingError
from ppap_lib.files import weights
from ppap_lib.training.checkpoints import (
    DROPOUT,
    NOISE,
    Epochs,
    Log,
    crc32,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    seed_of,
    snapshot_file,
    snapshots,
)
from ppap_lib.training.objectives import Objective
from ppap_lib.training.settings import Settings


@dataclass
class Progress:
    """How far a run is: `step` optimiser steps, `seconds` of training."""

    step: int = 0
    seconds: float = 0.0


class Trainer:
    """A run that trains a network by an objective on samples and their labels, in a folder.

    Call `resume` to continue from the folder's checkpoint, then `run`, which returns the averaged
    network. Samples are held on the device, or on the CPU where they are too large for that.

    Parameters
    ----------
    network : nn.Module
        The network, which is trained in place.
    objective : Objective
        `(network, samples [B, ...], labels, generator) -> loss []`.
    data : Tensor
        Samples [N, ...]: uint8 pixels [N, C, H, W], which are read in [-1, 1], or floating numbers
        of any shape, which are read in float32.
    labels : tree of Tensor
        What the objective is told of each sample, such as a class index or a teacher's output: a
        tensor [N, ...], or lists, tuples and dictionaries of such.
    settings : Settings
        Budget, batch size, learning rate and the like.
    folder : str or Path
        Where checkpoint, log and snapshots are kept.
    device : torch.device or str
        Where to train.
    clock : callable
        Counts seconds.
    about : mapping of str to str
        Says by name what else makes this run another than others: a checkpoint of which it is not
        true is not resumed.

    Raises
    ------
    TrainingError
        If samples or labels are of another kind or number, or in one of several processes.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        data: Tensor,
        labels: Any,
        settings: Settings,
        folder: str | Path,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.monotonic,
        about: Mapping[str, str] = MappingProxyType({}),
    ):
        refuse_torchrun()
        _check(data, labels)
        self.device, self.clock = torch.device(device), clock
        self.objective, self.settings = objective, settings
        self.identity = {
            "seed": settings.seed,
            "batch": settings.batch,
            "objective": re.sub(r" at 0x[0-9a-f]+", "", repr(objective)),  # of this process only
            "schedule": _schedule(objective),
            "data": fingerprint(data, labels),
            **about,
        }
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.network = network.to(self.device, memory_format=layout)
        self.layout = layout if data.ndim == 4 else torch.contiguous_format  # of the samples
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.data = _held(data, self.device)
        self.labels = tree_map(lambda label: label.to(self.device), labels)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "checkpoint.pt"
        self.log = Log(self.folder / "log.jsonl")
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, settings.weight_decay),
            lr=settings.lr,
            fused=self.device.type == "cuda",
        )
        self.progress = Progress()
        self._epochs = Epochs(len(data), settings.batch, settings.seed, self.data.device)
        self._generator = torch.Generator(self.device)
        self._forward = torch.compile(self.network) if settings.compile else self.network
        self._averages, self._own, self._counters = _averaged(self.ema, self.network)
        self._pending: list[Tensor] = []  # (loss, gradient norm) of the steps not yet logged
        self._now = clock()
        self._logged = self._now, 0

    @property
    def images_seen(self) -> int:
        """Samples that the steps so far were taken on."""
        return self.progress.step * self.settings.batch

    @property
    def fraction(self) -> float:
        """The share of the budget that is used up, in [0, 1]."""
        return self.settings.fraction(self.progress.step, self.progress.seconds)

    def batch(self) -> tuple[Tensor, Any]:
        """Return the samples [B, ...] of the present step, float32, and their labels."""
        chosen = self._epochs(self.progress.step)
        samples = self.data[chosen].to(self.device)
        samples = from_bytes(samples) if samples.dtype == torch.uint8 else samples.float()
        chosen = chosen.to(self.device)
        labels = tree_map(lambda label: label[chosen], self.labels)
        return samples.contiguous(memory_format=self.layout), labels

    def step(self) -> Tensor:
        """Take one optimiser step, and return (loss, gradient norm) [2], still on the device."""
        s, number = self.settings, self.progress.step
        samples, labels = self.batch()
        generator = self._generator.manual_seed(seed_of(s.seed, NOISE, number))
        # Dropout and the like draw from the global generator, which `run` puts back.
        torch.manual_seed(seed_of(s.seed, DROPOUT, number))
        rate = s.learning_rate(number, self.progress.seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16) if s.bf16 else nullcontext():
            loss = self.objective(self._forward, samples, labels, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), s.clip or math.inf)
        self.optimizer.step()
        self.progress.step += 1
        self._average()
        return torch.stack((loss.detach().float(), norm.detach().float()))

    @torch.no_grad()
    def _average(self) -> None:
        """Move the EMA towards the network: weights and batch-norm statistics alike."""
        decay = self.settings.ema_decay(self.progress.step)
        torch._foreach_lerp_(self._averages, self._own, 1 - decay)
        for average, own in self._counters:
            average.copy_(own)

    def save(self) -> None:
        """Write the checkpoint; a diverged network is refused, so that the last one stays good."""
        self._mean_of_pending()
        state = {
            "run": self.identity,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "pending": list(self._pending),
        }
        save_checkpoint(state, self.checkpoint)

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, and return whether there is one.

        Raises `TrainingError` for a checkpoint of other data, batch size, seed, objective or
        `about`. The budget, the learning rate and the like may change.
        """
        if not self.checkpoint.exists():
            return False
        state = load_checkpoint(self.checkpoint, self.device)
        recorded, own = state.get("run", {}), self.identity
        if differing := [k for k in own | recorded if recorded.get(k) != own.get(k)]:
            raise TrainingError(
                f"{self.checkpoint} is another run's: "
                + "; ".join(f"{k} {recorded.get(k)} there, {own.get(k)} here" for k in differing)
                + ". Use another folder, or the same settings"
            )
        for module, part in ((self.network, "network"), (self.ema, "ema")):
            weights.load(module, state[part], str(self.checkpoint))
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.settings.weight_decay if group["decayed"] else 0.0
        self.progress = Progress(**state["progress"])
        self._pending = list(state["pending"])
        self._forget_what_follows()
        return True

    def _forget_what_follows(self) -> None:
        """Drop what a killed run left of steps that are about to be taken again."""
        self.log.forget_after(self.progress.step)
        for images, path in snapshots(self.folder):
            if images > self.images_seen:
                path.unlink()

    def snapshot(self) -> Path:
        """Keep the present EMA weights in float16, and return the file, named by images seen.

        A diverged network is refused, as in `save`.
        """
        self._mean_of_pending()
        path = snapshot_file(self.folder, self.images_seen)
        weights.save(self.ema.state_dict(), path, torch.float16)
        return path

    def run(self, on_log: Callable[[dict[str, Any]], None] = lambda row: None) -> nn.Module:
        """Train to the end of the budget, telling `on_log` each logged row; return the average.

        Raises `TrainingError` when the loss diverges, and instead of writing over an earlier
        run that was not resumed.
        """
        if self.progress.step == 0:
            if self.checkpoint.exists():
                raise TrainingError(
                    f"{self.folder} holds an earlier run's checkpoint: resume it (--resume), or "
                    f"use another folder"
                )
            self._forget_what_follows()  # of a run that was killed before its first checkpoint
        self.network.train()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self._run(on_log)
        return self.ema

    def _run(self, on_log: Callable[[dict[str, Any]], None]) -> None:
        s = self.settings
        due = [n for n in sorted(s.snapshots) if n > self.images_seen]
        self._now = saved = self.clock()
        self._logged = self._now, self.progress.step
        while self.fraction < 1:
            self._pending.append(self.step())
            self._tick()
            if self.progress.step % s.log_every == 0:
                on_log(self._record())
            if due and self.images_seen >= due[0]:
                self.snapshot()
                due = [n for n in due if n > self.images_seen]
            if self._now - saved >= s.checkpoint_every:
                self.save()
                saved = self._tick()
        if self._pending:
            on_log(self._record())
        self.save()

    def _tick(self) -> float:
        """Count the time since the last tick as training time; the time now."""
        now = self.clock()
        self.progress.seconds += now - self._now
        self._now = now
        return now

    def _mean_of_pending(self) -> tuple[float, float]:
        """Mean loss and gradient norm of the steps not yet logged; waits for the device."""
        if not self._pending:
            return 0.0, 0.0
        loss, norm = torch.stack(self._pending).mean(0).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            s = self.settings
            raise TrainingError(
                f"training diverged before step {self.progress.step} (loss {loss}, gradient norm "
                f"{norm}): resume from the last checkpoint with a smaller lr (now {s.lr}) or "
                f"clip (now {s.clip})"
            )
        return loss, norm

    def _record(self) -> dict[str, Any]:
        """Log the pending steps and forget them."""
        loss, norm = self._mean_of_pending()
        self._pending = []
        since, step = self._logged
        elapsed = max(self._tick() - since, 1e-9)
        done = self.progress.step - step
        row = {
            "step": self.progress.step,
            "images": self.images_seen,
            "loss": loss,
            "gradient_norm": norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.progress.seconds, 2),
            "images_per_second": round(done * self.settings.batch / elapsed, 2),
        }
        self._logged = self._now, self.progress.step
        self.log.append(row)
        return row


def refuse_torchrun() -> None:
    """Raise `TrainingError` in one of several processes, before anything is computed in each."""
    if (world := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise TrainingError(
            f"training runs in one process and torchrun started {world}: start it with plain "
            f"python (what divides is sampling: ppap generate)"
        )


def _check(data: Tensor, labels: Any) -> None:
    """Raise `TrainingError` unless there are samples, of a kind that is read, and a label each."""
    pixels = data.dtype == torch.uint8 and data.ndim == 4
    counts = {len(label) for label in tree_leaves(labels)}
    if not len(data) or not (pixels or data.is_floating_point()) or counts != {len(data)}:
        raise TrainingError(
            f"expected uint8 pixels [N, C, H, W] or floating samples [N, ...], and one label "
            f"each, not {data.dtype} {list(data.shape)} and {sorted(counts)} labels"
        )


def _held(data: Tensor, device: torch.device) -> Tensor:
    """The samples on the device, or on the CPU if they would take half of a GPU's free memory."""
    if device.type == "cuda" and data.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return data.cpu()
    return data.to(device)


def _schedule(objective: Objective) -> str:
    """The checksum of the objective's noise levels: its `schedule` is no part of what it prints."""
    schedule = getattr(objective, "schedule", None)
    return "none" if schedule is None else f"crc32 {crc32(schedule.alphas_cumprod):08x}"


def _averaged(
    ema: nn.Module, network: nn.Module
) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The tensors an EMA averages, the network's own of them, and the pairs it copies.

    A frozen parameter is its own average.
    """
    frozen = {n for n, p in network.named_parameters(remove_duplicate=False) if not p.requires_grad}
    averages, own = ema.state_dict(), network.state_dict()
    pairs = [(averages[name], own[name]) for name in own if name not in frozen]
    floating = [(a, b) for a, b in pairs if a.is_floating_point()]
    counters = [(a, b) for a, b in pairs if not a.is_floating_point()]
    return [a for a, _ in floating], [b for _, b in floating], counters


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups for AdamW: `weight_decay` for matrices and kernels, none for biases and norms.

    Position and class embeddings that a timm network excludes by name are not decayed either.
    """
    excluded = {
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if p.ndim > 1 and name not in excluded]
    rest = [p for name, p in trained if p.ndim <= 1 or name in excluded]
    return [
        {"params": decayed, "weight_decay": weight_decay, "decayed": True},
        {"params": rest, "weight_decay": 0.0, "decayed": False},
    ]
