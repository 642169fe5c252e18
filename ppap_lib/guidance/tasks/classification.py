"""Tasks: the likelihood of a target given an output, and how two outputs differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ppap_lib.errors import GuidanceError

Target = TypeVar("Target", contravariant=True)


class Task(Protocol[Target]):
    """The meaning of a model's output: guidance climbs `log_prob`, transfer lowers `divergence`.

    Any class with these two methods is a task. An output is whatever a model returns: a tensor
    [B, ...], or a tuple or dict of such.
    """

    def log_prob(self, output: Any, target: Target) -> Tensor:
        """Return log p(target | output) of each sample, [B], differentiable in `output`.

        A constant may be left out: guidance reads the gradient alone.
        """

    def divergence(self, student: Any, teacher: Any) -> Tensor:
        """Return how far `student` is from `teacher`, [B], differentiable in `student`."""


@dataclass(frozen=True)
class Classification:
    """The task of logits [B, K], whose targets are class indices.

    Parameters
    ----------
    temperature
        Positive; softens or, below 1, sharpens the teacher in `divergence`. PPAP's is 0.25.

    Raises
    ------
    GuidanceError
        For another temperature.
    """

    temperature: float = 0.25

    def __post_init__(self):
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise GuidanceError(f"temperature must be positive and finite, not {self.temperature}")

    def log_prob(self, output: Tensor, target: Tensor | Sequence[int] | int) -> Tensor:
        """Return log softmax(output) at the target, [B], in nats.

        Parameters
        ----------
        output
            Logits [B, K].
        target
            Class indices, int64 [B] or a list of them, or one for all samples. They are checked
            where they lie on the CPU: reading a GPU's would wait for it.

        Raises
        ------
        GuidanceError
            If the output is not logits, or the target not such indices in [0, K).
        """
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise GuidanceError(
                f"a classifier returns logits [B, K], not {_shown(output)}: guide by a function "
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
        """Return KL(softmax(teacher / temperature) || softmax(student)), [B], in nats (PPAP).

        Parameters
        ----------
        student, teacher
            Logits [B, K].

        Raises
        ------
        GuidanceError
            If their shapes differ.
        """
        if student.shape != teacher.shape:
            raise GuidanceError(
                f"student {list(student.shape)} and teacher {list(teacher.shape)} must match"
            )
        soft = (teacher / self.temperature).log_softmax(1)
        gap = F.kl_div(student.log_softmax(1), soft, reduction="none", log_target=True)
        return gap.sum(1)


def _indices(target: Tensor | Sequence[int] | int, batch: int) -> Tensor:
    """`target` as a tensor; one index is every sample's."""
    try:
        target = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GuidanceError(
            f"expected class indices, such as 9 or torch.tensor([9, 0]), not {target!r}"
        ) from error
    return target if target.ndim else target.expand(batch)


def _shown(output: object) -> str:
    """A tensor's shape, or else the name of the type."""
    return str(list(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"
