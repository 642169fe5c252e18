"""How well a model reads noisy images, timestep by timestep."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ppap_lib import weights
from ppap_lib.distill.losses import DistillError
from ppap_lib.experts import Experts
from ppap_lib.guidance import Model, NoiseAware
from ppap_lib.schedule import Schedule
from ppap_lib.seeds import Noise


@dataclass(frozen=True)
class Reading:
    """How `n` images noised to `t` are read, on average.

    `accuracy`, and `confidence` (the largest probability), in [0, 1]; `entropy` of the
    probabilities in nats. A model can be confident and wrong.
    """

    t: float
    n: int
    accuracy: float
    confidence: float
    entropy: float


@torch.no_grad()
def accuracy_by_t(
    model: Model,
    images: Tensor,
    labels: Tensor,
    schedule: Schedule,
    times: Sequence[float],
    seeds: Sequence[int] | None = None,
    batch: int = 250,
) -> list[Reading]:
    """Readings of `images` [N, C, H, W] in [-1, 1] with `labels` [N] at the `times`, in order.

    `model` returns logits: a plain classifier, or a set of experts. Image i keeps the noise of
    `seeds[i]` (default: i) at every timestep, so that timesteps and models are paired. The model
    is on the images' device, in eval mode.
    """
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        raise DistillError("the model is in train mode: call model.eval() before it is measured")
    seeds = range(len(images)) if seeds is None else seeds
    if not len(images) == len(labels) == len(seeds) or not len(images):
        raise DistillError(
            f"expected one label and one seed per image, not {len(labels)} and {len(seeds)} for "
            f"{len(images)} images"
        )
    levels = [schedule.at(t) for t in times]
    sums = torch.zeros(len(levels), 3, dtype=torch.float64)
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        x0, target = images[part], labels[part].to(images.device)
        eps = Noise(seeds[part], x0.shape[1:], x0.dtype, x0.device)()
        for row, level in zip(sums, levels, strict=True):
            read = model.at(level) if isinstance(model, NoiseAware) else model
            log_p = read(level.noised(x0, eps)).double().log_softmax(1)
            p = log_p.exp()
            correct = (log_p.argmax(1) == target).double()
            terms = (correct, p.amax(1), -(p * log_p).sum(1))
            row += torch.stack([term.sum() for term in terms]).cpu()
    means = (sums / len(images)).tolist()
    return [Reading(float(t), len(images), *row) for t, row in zip(times, means, strict=True)]


def snapshots(experts: Experts, folder: str | Path) -> Iterator[tuple[int, Experts]]:
    """(images seen, experts as they then were), in order, of the run that `fit` left in `folder`.

    `experts` is a set of the run's architecture and stays as it is; each snapshot is loaded into
    one copy of it, over the one before.
    """
    paths = sorted(Path(folder, "snapshots").glob("*.safetensors"))
    if not paths:
        raise DistillError(f"no snapshots in {folder}: give Settings(snapshots=...) to the run")
    copy = deepcopy(experts).eval().requires_grad_(False)
    for path in paths:
        weights.load(copy, weights.read(path), str(path))
        yield int(path.stem), copy
