"""Experts: one model per interval of timesteps, behind one interface.

`low_rank(trunk, plan, intervals)` gives every interval an update of one shared trunk (PPAP),
`full_copies(network, intervals)` a network of its own (multi-experts; with one interval, the
single noise-aware model). `experts.at(level)` is a function of x_t, as `guidance.at_xt` asks.
`load("fashion/ppap5-resnet18")` gives a set that ships with this package, `model` that or any
other network of the zoo; `save` and `read` keep your own, and `released` reads the checkpoints of
PPAP's authors. `publish` and `verify` are the zoo's, for sets of experts.
"""

from ppap_lib.experts.files import load, model, read, save, trunk
from ppap_lib.experts.publishing import publish, verify
from ppap_lib.experts.released import released
from ppap_lib.experts.routing import (
    Bank,
    Copies,
    Experts,
    ExpertsError,
    full_copies,
    low_rank,
)

__all__ = [
    "Bank",
    "Copies",
    "Experts",
    "ExpertsError",
    "full_copies",
    "load",
    "low_rank",
    "model",
    "publish",
    "read",
    "released",
    "save",
    "trunk",
    "verify",
]
