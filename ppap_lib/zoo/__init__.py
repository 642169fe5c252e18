"""Networks by name: verified weights, and cards that say what they are.

`load("fashion/resnet18")` gives a module in evaluation mode. Classifiers come as `Vision`,
which eats images of the pixel contract at any size and channel count; denoisers, upsamplers and
noisy classifiers come as the bare network, and `denoiser(name)` gives the `Denoise` function
around one. `table()` lists everything; `python -m ppap_lib.zoo` installs and verifies.
"""

from ppap_lib.zoo.cards import Card, ZooError, card, names
from ppap_lib.zoo.load import denoiser, load, schedule, table
from ppap_lib.zoo.vision import Vision

__all__ = [
    "Card",
    "Vision",
    "ZooError",
    "card",
    "denoiser",
    "load",
    "names",
    "schedule",
    "table",
]
