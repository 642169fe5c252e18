"""What experts are trained by: how far their reading of x_t is from a teacher's, or from labels.

All experts are trained in one pass. Every image gets a timestep, its expert reads it, and the
experts stay strangers to each other: see `NoisyLoss`.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.data.pixels import from_bytes
from ppap_lib.diffusion.denoisers import in_train_mode
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import TrainingError
from ppap_lib.experts import Experts
from ppap_lib.experts.intervals import Intervals
from ppap_lib.guidance.tasks import Task
from ppap_lib.training.checkpoints import TIMES, seed_of
from ppap_lib.training.objectives import stratified_times


@dataclass(frozen=True)
class NoisyLoss:
    """An objective of `train.loop.Trainer`: (experts, images, targets, generator) -> loss [].

    Each image is noised to a timestep of its own, uniform in [0, T) and stratified over the
    batch. The value is the mean over the batch. The gradient is the sum of the experts' own
    means, so that each one's is as if it were trained alone on its images: with Adam, whose
    state is per parameter and which passes over parameters without a gradient, no expert then
    notices the others.

    `only` keeps to one interval. `shared_time` draws one timestep for the whole batch, so that
    a step trains one expert: an ablation.
    """

    schedule: Schedule = field(repr=False)
    intervals: Intervals
    task: Task
    only: int | None = None
    shared_time: bool = False

    def __post_init__(self):
        if self.schedule.T != self.intervals.T:
            raise TrainingError(
                f"the schedule has {self.schedule.T} timesteps, and the intervals cut "
                f"{self.intervals.T}: they must be the same"
            )
        if self.only is not None and not 0 <= self.only < len(self.intervals):
            raise TrainingError(f"there is no interval {self.only} of {len(self.intervals)}")

    def per_image(self, output: Tensor, target: Any) -> Tensor:
        """The loss [B] of the experts' output."""
        raise NotImplementedError

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """The images' timesteps: int64 [count], rising, decided by the generator's seed alone.

        Drawn on the CPU, where images are routed: reading them back from a GPU would wait for it.
        """
        host = torch.Generator().manual_seed(seed_of(generator.initial_seed(), TIMES))
        steps = range(self.intervals.T) if self.only is None else self.intervals[self.only]
        if self.shared_time:
            return torch.randint(steps.start, steps.stop, (1,), generator=host).expand(count)
        return steps.start + stratified_times(count, len(steps), host)

    def __call__(
        self, network: Experts, images: Tensor, targets: Tensor, generator: torch.Generator
    ) -> Tensor:
        t = self.times(len(images), generator)
        level = self.schedule.at(t)
        eps = torch.randn(images.shape, device=images.device, generator=generator)
        output = network(level.noised(images, eps), level).float()
        losses = self.per_image(output, targets)
        if losses.shape != (len(images),):
            raise TrainingError(
                f"the task returned {list(losses.shape)} for {len(images)} images, expected one "
                f"loss each"
            )
        owners = self.intervals.indices_of(t)
        share = 1 / owners.bincount()[owners]  # of each image in its expert's mean
        own_means = (losses * share.to(losses)).sum()
        return own_means + (losses.mean() - own_means).detach()


@dataclass(frozen=True)
class Transfer(NoisyLoss):
    """The task's divergence of the student at x_t from the teacher's output on the clean image.

    Targets are the teacher's outputs, one per image, from `teacher_logits`: no labels.
    """

    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        return self.task.divergence(output, target)


@dataclass(frozen=True)
class Supervised(NoisyLoss):
    """-log p(label | x_t) by the task: for a classifier, the cross-entropy. Targets are labels.

    With one interval this trains the single noise-aware model, with N the multi-experts.
    """

    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        return -self.task.log_prob(output, target)


@torch.no_grad()
def teacher_logits(teacher: nn.Module, pixels: Tensor, batch: int = 250) -> Tensor:
    """The teacher's outputs [N, ...] for clean uint8 `pixels` [N, C, H, W]: float32, on the CPU.

    The teacher must be in eval mode, and stays as it is. It reads on its own device.
    """
    if in_train_mode(teacher):
        raise TrainingError(
            "the teacher is in train mode, where it would move: call teacher.eval()"
        )
    parameter = next(teacher.parameters(), pixels)
    parts = [
        teacher(from_bytes(part.to(parameter.device))).float().cpu() for part in pixels.split(batch)
    ]
    return torch.cat(parts)
