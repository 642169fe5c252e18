"""Training experts on noisy images: data-free transfer from a clean teacher, or with labels.

`Transfer` and `Supervised` are objectives of `ppap_lib.training`, `fit` trains a set of experts by
one of them, and `train_experts` does all that an `ExpertTraining` asks for. How well the result
reads noisy images is for `ppap_book.measures.noisy_accuracy` to say.

`python -m ppap_lib distill transfer --guide resnet18 --experts 5 --data runs/generated/fashion`
`python -m ppap_lib distill supervised --guide vit --experts 1 --minutes 20`
"""

from ppap_lib.distill.experts import ExpertTraining, train_experts
from ppap_lib.distill.fitting import fit, settings, snapshots, updates
from ppap_lib.distill.transfer import NoisyLoss, Supervised, Transfer, teacher_logits

__all__ = [
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
