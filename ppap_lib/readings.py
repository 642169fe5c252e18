"""How well any model reads noisy images, timestep by timestep.

`accuracy_by_t` says it in numbers; `log_probabilities` holds all that the model said, of which
`reading` makes the numbers of one timestep.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppap_lib import uncertainty
from ppap_lib.denoise import in_train_mode
from ppap_lib.errors import PpapError
from ppap_lib.guidance import Model, read_at
from ppap_lib.schedule import Schedule
from ppap_lib.seeds import Noise


class ReadingError(PpapError, ValueError):
    """A model, images, labels or seeds that cannot be read together."""


@dataclass(frozen=True)
class Reading:
    """How `n` images noised to `t` are read, on average.

    `accuracy`, and `confidence` (the largest probability), in [0, 1]; `entropy` of the
    probabilities in nats; `ece`, the expected calibration error, in [0, 1]. A model can be
    confident and wrong.
    """

    t: float
    n: int
    accuracy: float
    confidence: float
    entropy: float
    ece: float


@torch.no_grad()
def log_probabilities(
    model: Model,
    images: Tensor,
    schedule: Schedule,
    times: Sequence[float],
    seeds: Sequence[int] | None = None,
    batch: int = 250,
) -> Tensor:
    """log p(class | x_t) of `images` [N, C, H, W] in [-1, 1] at the `times`: float64 [T, N, K].

    `model` returns logits: a plain classifier, or a set of experts. Image i keeps the noise of
    `seeds[i]` (default: i) at every timestep, so that timesteps and models are paired. The model
    is on the images' device, in eval mode; the result is on the CPU.
    """
    if in_train_mode(model):
        raise ReadingError("the model is in train mode: call model.eval() before it is measured")
    seeds = range(len(images)) if seeds is None else seeds
    if len(images) != len(seeds) or not len(images):
        raise ReadingError(f"expected one seed per image, not {len(seeds)} for {len(images)}")
    levels = [schedule.at(t) for t in times]
    parts = []
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        x0 = images[part]
        eps = Noise(seeds[part], x0.shape[1:], x0.dtype, x0.device)()
        read = [read_at(model, level)(level.noised(x0, eps)) for level in levels]
        parts.append(torch.stack(read).double().log_softmax(2).cpu())
    return torch.cat(parts, 1)


def reading(log_p: Tensor, labels: Tensor, t: float) -> Reading:
    """What log-probabilities [N, K] of images noised to `t` come to, on average."""
    p = log_p.exp()
    return Reading(
        t=float(t),
        n=len(log_p),
        accuracy=float((p.argmax(1) == labels).double().mean()),
        confidence=float(p.amax(1).mean()),
        entropy=float(uncertainty.entropy(log_p).mean()),
        ece=uncertainty.calibration_error(log_p, labels),
    )


def accuracy_by_t(
    model: Model,
    images: Tensor,
    labels: Tensor,
    schedule: Schedule,
    times: Sequence[float],
    seeds: Sequence[int] | None = None,
    batch: int = 250,
) -> list[Reading]:
    """Readings of `images` with `labels` [N] at the `times`, in order; see `log_probabilities`."""
    if len(images) != len(labels):
        raise ReadingError(f"expected one label per image, not {len(labels)} for {len(images)}")
    found = log_probabilities(model, images, schedule, times, seeds, batch)
    return [reading(log_p, labels.cpu(), t) for log_p, t in zip(found, times, strict=True)]
