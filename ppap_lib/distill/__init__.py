"""Training experts on noisy images: data-free transfer from a clean teacher, or with labels.

`Transfer` and `Supervised` are objectives of `ppap_lib.train`, `fit` trains a set of experts by
one of them, `train_experts` does all that an `ExpertTraining` asks for, and `accuracy_by_t` says
how well any model reads x_t (`log_probabilities` holds all that it said).

`python -m ppap_lib.distill transfer --guide resnet18 --experts 5 --data runs/generated/fashion`
`python -m ppap_lib.distill supervised --guide vit --experts 1 --minutes 20`
"""

from ppap_lib.distill.fitting import fit, settings, updates
from ppap_lib.distill.losses import DistillError, NoisyLoss, Supervised, Transfer, teacher_logits
from ppap_lib.distill.quality import (
    Reading,
    accuracy_by_t,
    log_probabilities,
    reading,
    snapshots,
)
from ppap_lib.distill.training import ExpertTraining, train_experts

__all__ = [
    "DistillError",
    "ExpertTraining",
    "NoisyLoss",
    "Reading",
    "Supervised",
    "Transfer",
    "accuracy_by_t",
    "fit",
    "log_probabilities",
    "reading",
    "settings",
    "snapshots",
    "teacher_logits",
    "train_experts",
    "updates",
]
