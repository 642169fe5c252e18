"""One training loop for every network: EMA, mixed precision, time budgets, crash-safe resume.

A step is a function of its number: batches, noise and dropout come from generators seeded by
it, so that a run that is killed and resumed passes through the losses of one that was not (as
long as the budget is in steps: a budget in minutes fits the learning rate to the clock).

The host reads no value back from the device inside a step. It waits once in `log_every` steps,
to read the losses, and when a checkpoint or snapshot is written.
"""

import copy
import math
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
from torch.utils._pytree import tree_map

from ppap_lib.data.pixels import from_bytes
from ppap_lib.errors import TrainingError, WeightsError
from ppap_lib.files import weights
from ppap_lib.files.atomic import sweep
from ppap_lib.files.locks import hold
from ppap_lib.parameters import whole
from ppap_lib.training.checkpoints import (
    CHECKPOINT,
    DROPOUT,
    LOG,
    NOISE,
    Epochs,
    Log,
    fingerprint,
    load_checkpoint,
    make_room,
    not_a_checkpoint,
    save_checkpoint,
    seed_of,
    snapshot_file,
    snapshots,
)
from ppap_lib.training.objectives import Objective
from ppap_lib.training.preparation import (
    averaged,
    check_samples,
    held,
    levels_of,
    parameter_groups,
    refuse_torchrun,
)
from ppap_lib.training.settings import Settings
from ppap_lib.training.signals import Signals


@dataclass
class Progress:
    """How far a run is: `step` optimiser steps, `seconds` and `cpu_seconds` of training."""

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __post_init__(self):
        whole("step", self.step, low=0)
        self.seconds, self.cpu_seconds = float(self.seconds), float(self.cpu_seconds)


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
        check_samples(data, labels)
        self.device, self.clock = torch.device(device), clock
        self.objective, self.settings = objective, settings
        self.identity = {
            "seed": settings.seed,
            "batch": settings.batch,
            "objective": re.sub(r" at 0x[0-9a-f]+", "", repr(objective)),  # of this process only
            "schedule": levels_of(objective),
            "data": fingerprint(data, labels),
            **about,
        }
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.network = network.to(self.device, memory_format=layout)
        self.layout = layout if data.ndim == 4 else torch.contiguous_format  # of the samples
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.data = held(data, self.device)
        self.labels = tree_map(lambda label: label.to(self.device), labels)
        self.folder = Path(folder)
        self.checkpoint = self.folder / CHECKPOINT
        self.log = Log(self.folder / LOG)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, settings.weight_decay),
            lr=settings.lr,
            fused=self.device.type == "cuda",
        )
        self.progress = Progress()
        self._epochs = Epochs(len(data), settings.batch, settings.seed, self.data.device)
        self._generator = torch.Generator(self.device)
        self._forward = torch.compile(self.network) if settings.compile else self.network
        self._averages, self._own, self._counters = averaged(self.ema, self.network)
        self._pending: list[Tensor] = []  # (loss, gradient norm) of the steps not yet logged
        self._resumed: bool | None = None  # None where nobody asked
        self._signals = Signals()
        self._now, self._cpu = clock(), time.process_time()
        self._logged = 0.0, 0  # seconds and steps until the last row

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
        with hold(self.folder):
            self._resumed = self.checkpoint.exists()
            if not self._resumed:
                return False
            state = load_checkpoint(self.checkpoint, self.device)
            try:
                self._continue(state)
            except (TrainingError, WeightsError):
                raise
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
                raise not_a_checkpoint(self.checkpoint, error) from error
            self._forget_what_follows()
        return True

    def _continue(self, state: dict[str, Any]) -> None:
        """Take everything over from a checkpoint's `state`."""
        recorded, own = state["run"], self.identity
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
        self._pending = [figures.reshape(2) for figures in state["pending"]]

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

    def run(
        self, on_log: Callable[[dict[str, Any]], None] = lambda row: None, fresh: bool = False
    ) -> nn.Module:
        """Train to the end of the budget, telling `on_log` each logged row; return the average.

        SIGINT, SIGTERM and SIGHUP end it after the present step, with a checkpoint.

        Parameters
        ----------
        on_log : callable
            Is told each logged row.
        fresh : bool
            Whether to remove what an earlier run left, if this one was not resumed.

        Raises
        ------
        TrainingError
            When the loss diverges, where another process writes in the folder, and instead of
            writing over an earlier run that was not resumed.
        KeyboardInterrupt, SystemExit
            After SIGINT, and after another signal, of which it has the usual exit status.
        """
        with hold(self.folder):
            if self.progress.step == 0 and not self._resumed:
                make_room(self.folder, fresh, anew=self._resumed is False)
                self._forget_what_follows()  # what is left of a run without a checkpoint
            for folder in (self.folder, snapshot_file(self.folder, 0).parent):
                sweep(folder)
            self.network.train()
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices), self._signals.heard():
                self._run(on_log)
        return self.ema

    def _run(self, on_log: Callable[[dict[str, Any]], None]) -> None:
        s = self.settings
        due = [n for n in sorted(s.snapshots) if n > self.images_seen]
        self._now, self._cpu = self.clock(), time.process_time()
        self._logged, saved = (self.progress.seconds, self.progress.step), self._now
        while self.fraction < 1 and self._signals.ended_by is None:
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
        if self._pending and self.fraction == 1:
            on_log(self._record())
        self.save()
        self._signals.end(
            f"{self.progress.step} steps are in {self.checkpoint}: --resume goes on from there"
        )

    def _tick(self) -> float:
        """Count the time since the last tick as training time; return the time now.

        While the process was stopped (SIGSTOP, ctrl-Z) it did not train: what the step took then
        is not known, and the time that the last step took by the CPUs tells it.
        """
        now, cpu = self.clock(), time.process_time()
        passed, worked = now - self._now, cpu - self._cpu
        self.progress.seconds += min(passed, worked) if self._signals.stopped else passed
        self.progress.cpu_seconds += worked
        self._signals.stopped = False
        self._now, self._cpu = now, cpu
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
        self._tick()
        since, step = self._logged
        elapsed = max(self.progress.seconds - since, 1e-9)
        done = self.progress.step - step
        row = {
            "step": self.progress.step,
            "images": self.images_seen,
            "loss": loss,
            "gradient_norm": norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.progress.seconds, 2),
            "cpu_seconds": round(self.progress.cpu_seconds, 2),
            "images_per_second": round(done * self.settings.batch / elapsed, 2),
        }
        self._logged = self.progress.seconds, self.progress.step
        self.log.append(row)
        return row
