"""Tasks: the likelihood of a target given an output, and how two outputs differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ppap_lib.diffusion.denoisers import shown
from ppap_lib.diffusion.noise import check_labels
from ppap_lib.errors import GuidanceError, InputError
from ppap_lib.parameters import real

_NO_LABEL = torch.iinfo(torch.int64).min
"""What cross-entropy passes over in silence: by default -100, which a target may be by mistake."""

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
        try:
            positive = real("temperature", self.temperature) > 0
        except InputError:
            positive = False
        if not positive:
            raise GuidanceError(f"temperature must be positive and finite, not {self.temperature}")

    def log_prob(self, output: Tensor, target: Tensor | Sequence[int] | int) -> Tensor:
        """Return log softmax(output) at the target, [B], in nats.

        Parameters
        ----------
        output
            Logits [B, K].
        target
            Class indices, int64 [B] or a list of them, or one for all samples; see
            `ppap_lib.diffusion.noise.check_labels`.

        Raises
        ------
        GuidanceError
            If the output is not logits of two classes or more, or the target not such indices in
            [0, K).
        """
        output = _logits(output)
        target = check_labels(target, *output.shape, GuidanceError).to(output.device)
        loss = F.cross_entropy(output, target, ignore_index=_NO_LABEL, reduction="none")
        return -loss

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return KL(softmax(teacher / temperature) || softmax(student)), [B], in nats (PPAP).

        Parameters
        ----------
        student, teacher
            Logits [B, K].

        Raises
        ------
        GuidanceError
            If they are not logits of two classes or more, or their shapes differ.
        """
        student, teacher = _logits(student), _logits(teacher)
        if student.shape != teacher.shape:
            raise GuidanceError(
                f"student {list(student.shape)} and teacher {list(teacher.shape)} must match"
            )
        soft = (teacher / self.temperature).log_softmax(1)
        gap = F.kl_div(student.log_softmax(1), soft, reduction="none", log_target=True)
        return gap.sum(1)


def _logits(output: Any) -> Tensor:
    """The output, in float32 at least, if it is logits of two classes or more."""
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise GuidanceError(
            f"a classifier returns logits [B, K], not {shown(output)}: guide by a function "
            f"that does, such as lambda x: model(x).logits"
        )
    if output.shape[1] < 2:
        raise GuidanceError(
            f"a classifier returns logits [B, K] of at least 2 classes, not {shown(output)}, whose "
            f"softmax is constant: for z, the one logit of a yes or no, return "
            f"torch.cat([-z / 2, z / 2], 1)"
        )
    return output.to(torch.promote_types(output.dtype, torch.float32))
