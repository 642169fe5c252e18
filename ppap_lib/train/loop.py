"""One training loop for every network: EMA, mixed precision, time budgets, crash-safe resume.

A step is a function of its number: batches and noise come from generators seeded by it, so a
run that is killed and resumed passes through the same losses as one that was not.
"""

import copy
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ppap_lib import images as pixels
from ppap_lib import weights
from ppap_lib.train.objectives import Objective


class TrainingError(RuntimeError):
    """Training cannot go on: a diverged loss, or a checkpoint of another run."""


@dataclass(frozen=True)
class Settings:
    """How long and how a network is trained.

    The budget is `steps`, or `minutes` of training time (whichever is given; the learning
    rate's cosine fits it). `checkpoint_every` is in seconds. `snapshots` are numbers of images
    seen after which the EMA weights are kept, for quality curves.
    """

    batch: int = 64
    lr: float = 5e-4
    weight_decay: float = 0.0
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    bf16: bool = False
    channels_last: bool = True
    compile: bool = False
    checkpoint_every: float = 180.0
    log_every: int = 50
    snapshots: tuple[int, ...] = ()

    def __post_init__(self):
        if (self.steps is None) == (self.minutes is None):
            raise TrainingError("give either steps or minutes, not both and not neither")
        if (self.steps or self.minutes) <= 0:
            raise TrainingError("the budget must be positive")
        if self.batch < 1 or self.lr <= 0 or not 0 <= self.ema < 1:
            raise TrainingError(
                f"expected batch >= 1, lr > 0, 0 <= ema < 1; got {self.batch}, {self.lr}, {self.ema}"
            )


@dataclass
class Progress:
    """Where a run stands: optimiser steps taken, seconds of training behind them."""

    step: int = 0
    seconds: float = 0.0


def _generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator seeded by a short tuple of integers."""
    seed = 0
    for part in key:
        seed = (seed * 0x9E3779B1 + part + 1) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator(device).manual_seed(seed)


class Trainer:
    """Trains `network` by `objective` on uint8 `data` [N, C, H, W] and `labels` [N] in `folder`.

    `data` lives on the network's device. Call `run`; `ema` then holds the averaged network.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        data: Tensor,
        labels: Tensor,
        settings: Settings,
        folder: str | Path,
        device: torch.device | str = "cpu",
    ):
        if data.dtype != torch.uint8 or len(data) != len(labels):
            raise TrainingError(
                f"expected uint8 images and one label each, not {data.dtype}, "
                f"{len(data)} and {len(labels)}"
            )
        self.device = torch.device(device)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.network = network.to(self.device, memory_format=layout)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.objective, self.settings, self.layout = objective, settings, layout
        self.data, self.labels = data.to(self.device), labels.to(self.device)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.optimizer = torch.optim.AdamW(
            _decayed(self.network, settings.weight_decay),
            lr=settings.lr,
            fused=self.device.type == "cuda",
        )
        self.progress = Progress()
        self._permutation: tuple[int, Tensor] | None = None
        self._compiled = torch.compile(self.network) if settings.compile else self.network

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def images_seen(self) -> int:
        return self.progress.step * self.settings.batch

    def fraction(self) -> float:
        """The share of the budget that is used up, in [0, 1]."""
        s = self.settings
        used = (
            self.progress.step / s.steps
            if s.steps is not None
            else self.progress.seconds / (60 * s.minutes)
        )
        return min(used, 1.0)

    def learning_rate(self) -> float:
        """Linear warm-up over steps, then a cosine to zero over the budget."""
        warm = min(1.0, (self.progress.step + 1) / max(self.settings.warmup, 1))
        return self.settings.lr * warm * 0.5 * (1 + math.cos(math.pi * self.fraction()))

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Images and labels of the present step: epochs are permutations seeded by number."""
        batch, total = self.settings.batch, len(self.data)
        start = self.progress.step * batch
        index = []
        while len(index) == 0 or sum(map(len, index)) < batch:
            epoch, offset = divmod(start, total)
            if self._permutation is None or self._permutation[0] != epoch:
                order = torch.randperm(
                    total,
                    generator=_generator(self.device, self.settings.seed, 1, epoch),
                    device=self.device,
                )
                self._permutation = epoch, order
            taken = self._permutation[1][offset : offset + batch - sum(map(len, index))]
            index.append(taken)
            start += len(taken)
        chosen = torch.cat(index)
        batch_images = pixels.from_bytes(self.data[chosen])
        return batch_images.contiguous(memory_format=self.layout), self.labels[chosen]

    def step(self) -> Tensor:
        """One optimiser step; returns the loss, still on the device."""
        s = self.settings
        self.network.train()
        images, labels = self._batch()
        generator = _generator(self.device, s.seed, 2, self.progress.step)
        # Dropout and the like draw from the global generator: seed that by step as well.
        torch.manual_seed(generator.initial_seed())
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        cast = torch.autocast(self.device.type, torch.bfloat16) if s.bf16 else nullcontext()
        with cast:
            loss = self.objective(self._compiled, images, labels, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if s.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        self.optimizer.step()
        self.progress.step += 1
        self._average()
        return loss.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """EMA with the usual ramp, so that short runs are not dominated by the initial weights."""
        step = self.progress.step
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        own = [p for p in self.network.parameters()]
        torch._foreach_lerp_(list(self.ema.parameters()), own, 1 - decay)
        for average, buffer in zip(self.ema.buffers(), self.network.buffers(), strict=True):
            average.copy_(buffer)

    def save(self) -> None:
        """Write the checkpoint so that a kill leaves either the old one or the new one."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "seed": self.settings.seed,
            "batch": self.settings.batch,
        }
        part = self.checkpoint.with_suffix(".part")
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.checkpoint)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; whether there was."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for name in ("seed", "batch"):
            if state[name] != getattr(self.settings, name):
                raise TrainingError(
                    f"the checkpoint in {self.folder} was made with {name} {state[name]}, this "
                    f"run has {getattr(self.settings, name)}: use another folder or the same {name}"
                )
        weights.load(self.network, state["network"], "checkpoint")
        weights.load(self.ema, state["ema"], "checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self._forget_later_lines()
        return True

    def _forget_later_lines(self) -> None:
        """Drop log lines past the checkpoint: their steps are about to be taken again."""
        if not self.log.exists():
            return
        kept = []
        for line in self.log.read_text("utf8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the kill fell into a write
                break
            if row["step"] > self.progress.step:
                break
            kept.append(line)
        self.log.write_text("".join(line + "\n" for line in kept), "utf8")

    def _record(self, losses: list[Tensor], seconds: float) -> dict:
        mean = torch.stack(losses).mean().item()
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} near step {self.progress.step}: lower lr ({self.settings.lr})"
                f" or clip ({self.settings.clip}), then --resume from the last checkpoint"
            )
        row = {
            "step": self.progress.step,
            "images": self.images_seen,
            "loss": mean,
            "lr": self.learning_rate(),
            "seconds": round(self.progress.seconds, 2),
            "images_per_second": round(len(losses) * self.settings.batch / seconds, 2),
        }
        with open(self.log, "a", encoding="utf8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def snapshot(self) -> Path:
        """Keep the present EMA weights (float16) under the number of images seen."""
        path = self.folder / "snapshots" / f"{self.images_seen:09d}.safetensors"
        weights.save(self.ema.state_dict(), path, torch.float16)
        return path

    def run(self, on_log: Callable[[dict], None] = lambda row: None) -> nn.Module:
        """Train to the end of the budget; returns the EMA network."""
        due = [n for n in sorted(self.settings.snapshots) if n > self.images_seen]
        losses: list[Tensor] = []
        saved = logged = last = time.monotonic()
        while self.fraction() < 1:
            losses.append(self.step())
            now = time.monotonic()
            self.progress.seconds += now - last
            last = now
            # Reading a loss waits for the device: done once in `log_every` steps only.
            if len(losses) == self.settings.log_every or self.fraction() >= 1:
                on_log(self._record(losses, max(now - logged, 1e-9)))
                losses, logged = [], time.monotonic()
            if due and self.images_seen >= due[0]:
                self.snapshot()
                due = [n for n in due if n > self.images_seen]
            if now - saved >= self.settings.checkpoint_every:
                self.save()
                saved = time.monotonic()
        self.save()
        return self.ema


def _decayed(network: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and kernels; none for biases, norms and embeddings of rank 1."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
