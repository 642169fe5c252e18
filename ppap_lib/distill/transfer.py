"""What experts are trained by: how far their reading of x_t is from a teacher's, or from labels.

All experts are trained in one pass. Every sample gets a timestep, its expert reads it, and no
expert notices the others: see `NoisyLoss`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    tree_flatten,
    tree_map,
    tree_unflatten,
    treespec_dumps,
    treespec_loads,
)

from ppap_lib.data.pixels import from_bytes
from ppap_lib.diffusion.denoisers import in_train_mode
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import TrainingError
from ppap_lib.experts import Experts
from ppap_lib.experts.intervals import Intervals
from ppap_lib.files import weights
from ppap_lib.guidance.tasks import Task
from ppap_lib.training.checkpoints import TIMES, crc32, seed_of
from ppap_lib.training.objectives import stratified_times

TEACHER = "teacher.safetensors"

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, repr=False)
class NoisyLoss:
    """Base of the objectives of experts: `(experts, samples, targets, generator) -> loss []`.

    Each sample is noised to a timestep of its own, uniform in [0, T) and stratified over the
    batch. The value is the mean over the batch. The gradient is the sum of the experts' own
    means, so that each one's is as if it were trained alone on its samples: with Adam, whose
    state is per parameter and which passes over parameters without a gradient, no expert then
    notices the others.

    Parameters
    ----------
    schedule : Schedule
        The noise levels.
    intervals : Intervals
        The timesteps of each expert; their T is the schedule's.
    task : Task
        What an output means.
    only : int, optional
        The one interval to keep to.
    shared_time : bool
        Whether one timestep is drawn for the whole batch, so that a step trains one expert: an
        ablation.
    augment : callable, optional
        `(samples, generator) -> samples`: the views, such as `training.objectives.Augmentation`,
        that are noised in place of the clean samples.

    Raises
    ------
    TrainingError
        If schedule and intervals differ in T, or there is no interval `only`; when called, if the
        task does not return one loss for each sample.
    """

    schedule: Schedule = field(repr=False)
    intervals: Intervals
    task: Task
    only: int | None = None
    shared_time: bool = False
    augment: Augment | None = None

    def __post_init__(self):
        if self.schedule.T != self.intervals.T:
            raise TrainingError(
                f"the schedule has {self.schedule.T} timesteps, and the intervals cut "
                f"{self.intervals.T}: they must be the same"
            )
        if self.only is not None and not 0 <= self.only < len(self.intervals):
            raise TrainingError(f"there is no interval {self.only} of {len(self.intervals)}")

    def __repr__(self) -> str:
        # By this a checkpoint knows its run: older ones do not name what they do not do.
        shown = [f.name for f in fields(self) if f.repr and f.name != "augment"]
        shown += ["augment"] if self.augment is not None else []
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in shown)})"

    def per_sample(self, output: Any, target: Any) -> Tensor:
        """Return the loss [B] of the experts' `output`, given the `target` of each sample."""
        raise NotImplementedError

    def targets_of(self, views: Tensor, targets: Any) -> Any:
        """Return the targets of augmented `views` [B, ...], given the samples' own."""
        return targets

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the samples' timesteps, int64 [count], rising, as the generator's seed decides.

        They are drawn on the CPU, where samples are routed: reading them back from a GPU would
        wait for it.
        """
        host = torch.Generator().manual_seed(seed_of(generator.initial_seed(), TIMES))
        steps = range(self.intervals.T) if self.only is None else self.intervals[self.only]
        if self.shared_time:
            return torch.randint(steps.start, steps.stop, (1,), generator=host).expand(count)
        return steps.start + stratified_times(count, len(steps), host)

    def __call__(
        self, network: Experts, samples: Tensor, targets: Any, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of samples [B, ...] and their targets."""
        if self.augment is not None:
            samples = self.augment(samples, generator)
            targets = self.targets_of(samples, targets)
        t = self.times(len(samples), generator)
        level = self.schedule.at(t)
        eps = torch.randn(samples.shape, device=samples.device, generator=generator)
        output = tree_map(_in_float32, network(level.noised(samples, eps), level))
        losses = self.per_sample(output, targets)
        if losses.shape != (len(samples),):
            raise TrainingError(
                f"the task returned {list(losses.shape)} for {len(samples)} samples, expected one "
                f"loss each"
            )
        owners = self.intervals.indices_of(t)
        share = 1 / owners.bincount()[owners]  # of each sample in its expert's mean
        own_means = (losses * share.to(losses)).sum()
        return own_means + (losses.mean() - own_means).detach()


@dataclass(frozen=True, repr=False)
class Transfer(NoisyLoss):
    """The task's divergence of the student at x_t from the teacher's output on the clean sample.

    Targets are the teacher's outputs, one a sample, from `teacher_outputs`: no labels. Of augmented
    samples the teacher is asked in every step: its answer belongs to the image that the student is
    to read, and keeping one for every view would take as many outputs as there are views. That
    costs a forward pass beside the student's three.

    Parameters
    ----------
    schedule, intervals, task, only, shared_time, augment
        As for `NoisyLoss`.
    teacher : nn.Module, optional
        The clean network in evaluation mode, no part of what is trained; needed with `augment`.

    Raises
    ------
    TrainingError
        As `NoisyLoss` does, and if samples are augmented without a teacher.
    """

    teacher: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self):
        super().__post_init__()
        if self.augment is not None and self.teacher is None:
            raise TrainingError(
                "a transfer of augmented samples asks the teacher about every view: give it"
            )

    @torch.no_grad()
    def targets_of(self, views: Tensor, targets: Any) -> Any:
        """Return what the teacher says of `views` [B, ...], in place of the samples' `targets`."""
        return tree_map(_in_float32, self.teacher(views))

    def per_sample(self, output: Any, target: Any) -> Tensor:
        """Return the task's divergence [B] of the `output` from the `target`."""
        return self.task.divergence(output, target)


@dataclass(frozen=True, repr=False)
class Supervised(NoisyLoss):
    """The task's -log p(label | x_t): for a classifier, the cross-entropy. Targets are labels.

    With one interval this trains the single noise-aware model, with N the multi-experts.

    Parameters
    ----------
    schedule, intervals, task, only, shared_time, augment
        As for `NoisyLoss`.
    """

    def per_sample(self, output: Any, target: Any) -> Tensor:
        """Return -log p [B] of the labels, `target`, by the `output`."""
        return -self.task.log_prob(output, target)


@torch.no_grad()
def teacher_outputs(teacher: nn.Module, samples: Tensor, batch: int = 250) -> Any:
    """Return what the teacher says of clean samples: floating tensors in float32, on the CPU.

    Parameters
    ----------
    teacher : nn.Module
        A network in evaluation mode, which stays as it is. It reads on its own device.
    samples : Tensor
        uint8 pixels [N, C, H, W], which are read in [-1, 1], or floating samples [N, ...].
    batch : int
        Samples that are read at a time.

    Returns
    -------
    tree of Tensor
        One output [N, ...] of the teacher's kind: a tensor, or lists, tuples and dictionaries of
        tensors.

    Raises
    ------
    TrainingError
        If a part of the teacher is in train mode, or it returns something else than tensors.

    Examples
    --------
    >>> teacher = nn.Flatten().eval()
    >>> teacher_outputs(teacher, torch.full((3, 1, 1, 2), 255, dtype=torch.uint8)).tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    if in_train_mode(teacher):
        raise TrainingError(
            "the teacher is in train mode, where it would move: call teacher.eval()"
        )
    device = next(teacher.parameters(), samples).device
    parts = []
    for part in samples.split(batch):
        part = part.to(device)
        output = teacher(from_bytes(part) if part.dtype == torch.uint8 else part.float())
        parts.append(tree_map(lambda value: _in_float32(value).cpu(), output))
    return tree_map(lambda *values: torch.cat(values), *parts)


def cached_outputs(
    teacher: Callable[[], nn.Module], samples: Tensor, folder: Path, name: str, digest: str | None
) -> Any:
    """Return the teacher's outputs, which `folder` keeps: a resumed run reads the very same ones.

    `teacher` is asked only where they are not there. `name` and `digest` say which it is. Raises
    `TrainingError` if the outputs in the folder are another teacher's, or on other samples.
    """
    path = folder / TEACHER
    source = {
        "teacher": f"{name} {digest}",
        "images": f"{len(samples)}, crc32 {crc32(samples):08x}",
    }
    if not path.is_file():
        outputs = teacher_outputs(teacher(), samples)
        leaves, structure = tree_flatten(outputs)
        state = {f"{number}": leaf for number, leaf in enumerate(leaves)}
        about = {"structure": treespec_dumps(structure)}
        if isinstance(outputs, Tensor):
            state, about = {"logits": outputs}, {}
        weights.save(state, path, metadata=source | about, seal=True)
    facts = weights.metadata(path)
    structure = facts.pop("structure", None)
    if facts != source:
        raise TrainingError(
            f"{folder} is another run's, by its {path.name}: made from {facts}, not {source}. "
            f"Use another folder"
        )
    state = weights.read(path)
    try:
        if structure is None:
            return state["logits"]
        leaves = [state[f"{i}"] for i in range(len(state))]
        return tree_unflatten(leaves, treespec_loads(structure))
    except (AttributeError, LookupError, TypeError, ValueError, NotImplementedError) as error:
        raise TrainingError(
            f"{path} does not hold a teacher's outputs ({type(error).__name__}: {error}): remove "
            f"it, and the teacher is asked again"
        ) from error


def _in_float32(value: Any) -> Tensor:
    """A tensor of the output as the loss reads it."""
    if not isinstance(value, Tensor):
        raise TrainingError(
            f"the network returns a {type(value).__name__} where a tensor was expected: wrap it "
            f"in a module that returns tensors, in lists, tuples or dictionaries"
        )
    return value.float() if value.is_floating_point() else value
