"""Experts: one model per interval of timesteps, behind one interface.

`low_rank(backbone, config, intervals)` gives every interval an update of one shared network (PPAP),
`full_copies(network, intervals)` a network of its own (multi-experts; with one interval, the
single noise-aware model). `experts.at(level)` is a function of x_t, as `guidance.at_xt` asks.
`save` and `read` keep sets of your own, and `released` reads the checkpoints of PPAP's authors.

Five updates of a linear layer, and two samples that the first and the last of them read:

>>> import torch
>>> from ppap_lib.diffusion.schedules import Schedule
>>> from ppap_lib.experts import Intervals, lora_config, low_rank
>>> backbone = torch.nn.Sequential(torch.nn.Linear(4, 3))
>>> experts = low_rank(backbone, lora_config(backbone, "0", rank=1, alpha=1.0), Intervals(1000, 5))
>>> level = Schedule.linear().at(torch.tensor([17, 999]))
>>> experts.intervals.indices_of(level.t).tolist()
[0, 4]
>>> experts(torch.zeros(2, 4), level).shape
torch.Size([2, 3])
>>> [parameter.numel() for parameter in experts.bank[0].parameters()]  # A and B
[4, 3]
"""

from ppap_lib.experts.bank import (
    ExpertBank,
    Experts,
    FullCopies,
    LoraBank,
    full_copies,
    low_rank,
)
from ppap_lib.experts.files import describe, read, save
from ppap_lib.experts.intervals import Intervals
from ppap_lib.experts.lora import (
    LoraConfig,
    LoraUpdate,
    efficientnet_lora,
    lora_config,
    merge,
    resnet_lora,
    vit_lora,
)
from ppap_lib.experts.released import released

__all__ = [
    "ExpertBank",
    "Experts",
    "FullCopies",
    "Intervals",
    "LoraBank",
    "LoraConfig",
    "LoraUpdate",
    "describe",
    "efficientnet_lora",
    "full_copies",
    "lora_config",
    "low_rank",
    "merge",
    "read",
    "released",
    "resnet_lora",
    "save",
    "vit_lora",
]
