"""What a vision model's output means: its likelihood of a target, and how two outputs differ.

Guidance climbs `log_prob`; distillation descends `divergence`. A new task is one class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ppap_lib.errors import GuidanceError

Target = TypeVar("Target", contravariant=True)


class Task(Protocol[Target]):
    """`log_prob` and `divergence` per image, [B]; both differentiable in their first argument."""

    def log_prob(self, output: Tensor, target: Target) -> Tensor: ...

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Classification:
    """Logits [B, K] against class indices: int64 [B] or a list of them, or one for all images.

    Indices are checked where they lie on the CPU: reading a GPU's would wait for it.
    The divergence is KL(softmax(teacher / temperature) || softmax(student)) in nats (PPAP).
    """

    temperature: float = 0.25

    def __post_init__(self):
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise GuidanceError(f"temperature must be positive and finite, not {self.temperature}")

    def log_prob(self, output: Tensor, target: Tensor | Sequence[int] | int) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise GuidanceError(
                f"a classifier returns logits [B, K], not {_called(output)}: guide by a function "
                f"that does, such as lambda x: model(x).logits"
            )
        batch, classes = output.shape
        target = _indices(target, batch)
        if target.shape != (batch,) or target.dtype != torch.int64:
            raise GuidanceError(
                f"expected one class index per image, int64 [{batch}], not {target.dtype} "
                f"{list(target.shape)}"
            )
        here = target.device.type == "cpu" and target.numel()
        if here and not (target.min() >= 0 and target.max() < classes):
            raise GuidanceError(
                f"class indices must be in [0, {classes}), not "
                f"[{int(target.min())}, {int(target.max())}]"
            )
        return -F.cross_entropy(output, target.to(output.device), reduction="none")

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise GuidanceError(
                f"student {list(student.shape)} and teacher {list(teacher.shape)} must match"
            )
        soft = (teacher / self.temperature).log_softmax(1)
        gap = F.kl_div(student.log_softmax(1), soft, reduction="none", log_target=True)
        return gap.sum(1)


def _indices(target: Tensor | Sequence[int] | int, batch: int) -> Tensor:
    """`target` as a tensor; one index is every image's."""
    try:
        target = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GuidanceError(
            f"expected class indices, such as 9 or torch.tensor([9, 0]), not {target!r}"
        ) from error
    return target if target.ndim else target.expand(batch)


def _called(output: object) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"
