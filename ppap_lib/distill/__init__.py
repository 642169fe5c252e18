"""Training experts on noisy images: data-free transfer from a clean teacher, or with labels.

`Transfer` and `Supervised` are objectives of `ppap_lib.train`, `fit` trains a set of experts by
one of them, and `train_experts` does all that an `ExpertTraining` asks for. How well the result
reads noisy images is for `ppap_lib.readings` to say.

`python -m ppap_lib.distill transfer --guide resnet18 --experts 5 --data runs/generated/fashion`
`python -m ppap_lib.distill supervised --guide vit --experts 1 --minutes 20`
"""

from ppap_lib.distill.fitting import fit, settings, snapshots, updates
from ppap_lib.distill.losses import DistillError, NoisyLoss, Supervised, Transfer, teacher_logits
from ppap_lib.distill.training import ExpertTraining, train_experts

__all__ = [
    "DistillError",
    "ExpertTraining",
    "NoisyLoss",
    "Supervised",
    "Transfer",
    "fit",
    "settings",
    "snapshots",
    "teacher_logits",
    "train_experts",
    "updates",
]
