"""Training experts on noisy samples: data-free transfer from a clean teacher, or with labels.

`distil` trains experts of any network, task and samples; `ExpertTraining` names those of a tier,
and `train_experts` trains them. Below, `Transfer` and `Supervised` are what is minimised, `updates`
makes fresh low-rank experts, and `fit_experts` trains a set. How well the result reads noisy images
is for the book to measure.

>>> import tempfile, torch
>>> from torch import nn
>>> from ppap_lib import experts
>>> from ppap_lib.diffusion.schedules import Schedule
>>> from ppap_lib.training.settings import Settings
>>> guide = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).eval()  # reads series [B, 6, 4]
>>> settings = Settings(steps=2, batch=4, clip=0.0)
>>> with tempfile.TemporaryDirectory() as folder:
...     made = distil(guide, torch.randn(8, 6, 4), Schedule.linear(), settings, folder)
...     trained = experts.read(f"{folder}/{made['file']}", guide)
>>> len(trained), made["images_seen"]
(5, 8)
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
