"""Training experts on noisy samples: data-free transfer from a clean teacher, or with labels.

`distil` trains experts of any network, task and samples; `ExpertTraining` names those of a tier,
and `train_experts` trains them. Below, `Transfer` and `Supervised` are what is minimised, `updates`
makes fresh low-rank experts, and `fit_experts` trains a set. How well the result reads noisy images
is for the book to measure.
"""

from ppap_lib.distill.experts import ExpertTraining, train_experts
from ppap_lib.distill.fit import distil, fit_experts, snapshots, updates
from ppap_lib.distill.transfer import NoisyLoss, Supervised, Transfer, teacher_outputs

__all__ = [
    "ExpertTraining",
    "NoisyLoss",
    "Supervised",
    "Transfer",
    "distil",
    "fit_experts",
    "snapshots",
    "teacher_outputs",
    "train_experts",
    "updates",
]
