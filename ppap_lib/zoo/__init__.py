"""Networks by name: verified weights, and cards that say what they are.

`load("fashion/resnet18")` gives a module in evaluation mode. Classifiers come as `Vision`,
which eats images of the pixel contract at any size and channel count; denoisers, upsamplers and
noisy classifiers come as the bare network, and `denoiser(name)` gives the `Denoise` function
around one. `table()` lists everything; `publish` installs trained weights, `verify` recomputes
what a card says, and `python -m ppap_lib.studies.cards` does both from the shell.
"""

from ppap_lib.zoo.cards import Card, ZooError, card, guides, names
from ppap_lib.zoo.loading import denoiser, load, obtainable, schedule, table
from ppap_lib.zoo.publishing import Check, Skipped, publish, verify
from ppap_lib.zoo.vision import Vision

__all__ = [
    "Card",
    "Check",
    "Skipped",
    "Vision",
    "ZooError",
    "card",
    "denoiser",
    "guides",
    "load",
    "names",
    "obtainable",
    "publish",
    "schedule",
    "table",
    "verify",
]
