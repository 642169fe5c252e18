"""Accuracy, entropy, calibration and separation of any model's predictions on noisy images.

`log_probabilities` are all of a model's predictions, timestep by timestep; `reading` makes the
numbers of one timestep of them, and `accuracy_by_t` does both.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppap_book.errors import StudyError
from ppap_lib.arguments import checked
from ppap_lib.diffusion.denoisers import in_train_mode
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.guidance import Model, model_at


@dataclass(frozen=True)
class Reading:
    """Averages over a model's predictions on `n` images noised to `t`.

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
        raise StudyError("the model is in train mode: call model.eval() before it is measured")
    seeds = range(len(images)) if seeds is None else seeds
    if len(images) != len(seeds) or not len(images):
        raise StudyError(f"expected one seed per image, not {len(seeds)} for {len(images)}")
    levels = [schedule.at(t) for t in times]
    parts = []
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        x0 = images[part]
        eps = Noise(seeds[part], x0.shape[1:], x0.dtype, x0.device)()
        read = [model_at(model, level)(level.noised(x0, eps)) for level in levels]
        parts.append(torch.stack(read).double().log_softmax(2).cpu())
    return torch.cat(parts, 1)


@checked
def reading(log_p: Tensor, labels: Tensor, t: float) -> Reading:
    """Return the averages over log-probabilities [N, K] of images noised to `t`."""
    p = _checked(log_p, labels).exp()
    return Reading(
        t=float(t),
        n=len(log_p),
        accuracy=float((p.argmax(1) == labels).double().mean()),
        confidence=float(p.amax(1).mean()),
        entropy=float(entropy(log_p).mean()),
        ece=calibration_error(log_p, labels),
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
    """Return readings of `images` with `labels` [N] at the `times`, in order.

    Images, seeds and batches are those of `log_probabilities`.
    """
    if len(images) != len(labels):
        raise StudyError(f"expected one label per image, not {len(labels)} for {len(images)}")
    predictions = log_probabilities(model, images, schedule, times, seeds, batch)
    return [reading(log_p, labels.cpu(), t) for log_p, t in zip(predictions, times, strict=True)]


BINS = 15
"""Bins of confidence of the calibration error (Guo et al. 2017)."""


def _checked(log_p: Tensor, labels: Tensor | None = None) -> Tensor:
    if log_p.ndim != 2 or not len(log_p):
        raise StudyError(f"predictions are log p [N, K], N > 0, not {list(log_p.shape)}")
    total = log_p.logsumexp(1)
    if not bool((total.abs() < 1e-3).all()):
        raise StudyError("these are no log-probabilities: apply log_softmax to logits first")
    if labels is not None:
        _check_labels(labels, *log_p.shape)
    return log_p.double()


def _check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Refuse labels without a class: they would count as mistakes of the model."""
    if labels.shape != (count,):
        raise StudyError(f"{list(labels.shape)} labels for {count} predictions")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise StudyError(f"labels are whole numbers, not {labels.dtype}")
    if bool((wrong := (labels < 0) | (labels >= classes)).any()):
        raise StudyError(f"there are {classes} classes, from 0: not {int(labels[wrong][0])}")


@checked
def entropy(log_p: Tensor) -> Tensor:
    """Entropy of each prediction: [N], from 0 (certain) to log K (uniform)."""
    return torch.special.entr(_checked(log_p).exp()).sum(1)


@checked
def mutual_information(log_p: Tensor) -> float:
    """Mutual information of image and answer, in nats: H(mean p) - mean H(p).

    From 0, when every image gets the same answer, however sure it sounds, to log N.
    """
    p = _checked(log_p).exp()
    gap = torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean()
    return max(float(gap), 0.0)  # rounding may leave -1e-17


@checked
def calibration_error(log_p: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error, in [0, 1] (Naeini et al. 2015; Guo et al. 2017).

    Predictions are sorted into `bins` equal intervals of their confidence (the largest
    probability); the error is the mean distance of a bin's confidence from its accuracy,
    weighted by its images. With few images it is biased upwards: compare at equal N.
    """
    if bins < 1:
        raise StudyError(f"at least one bin, not {bins}")
    confidence, answer = _checked(log_p, labels).exp().max(1)
    gap = confidence - (answer == labels).double()
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    # Bins' signed sums: |conf - acc| of a bin times its count.
    sums = torch.zeros(bins, dtype=torch.float64, device=gap.device).index_add(0, bin_of, gap)
    return float(sums.abs().sum() / len(gap))


@checked
def auroc(log_p: Tensor, labels: Tensor, a: Collection[int], b: Collection[int]) -> float:
    """Area under the ROC curve of the classes `a` against the classes `b`, in [0, 1].

    The chance that an image of `a` scores higher in log p(a)/p(b) than an image of `b`: 1 if they
    are separated, 1/2 if not at all. A bias towards one side changes nothing: the area measures
    what predictions still know, not whether they are right.
    """
    first, second = set(a), set(b)
    if not first or not second or first & second:
        raise StudyError(f"two classes, or groups of them, without overlap: not {a} and {b}")
    if not first | second <= set(range(log_p.shape[-1])):
        raise StudyError(f"there are {log_p.shape[-1]} classes, from 0: not {a} and {b}")
    log_p = _checked(log_p, labels)
    odds = log_p[:, sorted(first)].logsumexp(1) - log_p[:, sorted(second)].logsumexp(1)
    of_a, of_b = (
        odds[torch.isin(labels, torch.tensor(sorted(group), device=labels.device))]
        for group in (first, second)
    )
    if not len(of_a) or not len(of_b):
        raise StudyError(f"no image of {a if not len(of_a) else b}")
    of_b = of_b.sort().values
    below = torch.searchsorted(of_b, of_a) + torch.searchsorted(of_b, of_a, right=True)
    return float(below.double().mean() / (2 * len(of_b)))  # a tie counts one half


@checked
def pairwise_auroc(log_p: Tensor, labels: Tensor) -> Tensor:
    """`auroc` for every two classes: float64 [K, K], symmetric, 1 on the diagonal."""
    classes = _checked(log_p, labels).shape[1]
    table = torch.eye(classes, dtype=torch.float64)
    for a in range(classes):
        for b in range(a):
            table[a, b] = table[b, a] = auroc(log_p, labels, (a,), (b,))
    return table


@checked
def last_time_above(times: Tensor, values: Tensor, level: float) -> float:
    """Largest time up to which `values` [M] stay at or above `level`, linear between the `times`.

    The times [M] rise. -inf if the first value is below already, the last time if none ever is.
    """
    if times.shape != values.shape or times.ndim != 1 or not len(times):
        raise StudyError(f"one value per time: {list(values.shape)}, {list(times.shape)}")
    if not bool((times.diff() > 0).all()):
        raise StudyError(f"times rise: not {times.tolist()}")
    if not bool(values.isfinite().all()):
        raise StudyError(f"values at {times[~values.isfinite()].tolist()} are not finite")
    under = (values < level).nonzero().flatten()
    if not len(under):
        return float(times[-1])
    if (i := int(under[0])) == 0:
        return -math.inf
    fraction = (values[i - 1] - level) / (values[i - 1] - values[i])
    return float(times[i - 1] + fraction * (times[i] - times[i - 1]))
