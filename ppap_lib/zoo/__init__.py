"""Networks by name: verified weights, and cards that say what they are.

`load("fashion/resnet18")` gives a model in evaluation mode: a `Diffusion`, a `Vision` or `Experts`,
by what its card says. `table()` lists everything, `presets` say how networks are trained.

>>> card("fashion/resnet18").parameters
701178
>>> guides("fashion")
['resnet18', 'vit']
>>> schedule("fashion/denoiser").T
1000
>>> load("fashion/resnet18").classes[9]
'ankle boot'
"""

from ppap_lib.zoo.cards import Card, card, guides, names
from ppap_lib.zoo.loading import (
    diffusion,
    expert_backbone,
    find,
    load,
    load_network,
    obtainable,
    schedule,
    table,
)

__all__ = [
    "Card",
    "card",
    "diffusion",
    "expert_backbone",
    "find",
    "guides",
    "load",
    "load_network",
    "names",
    "obtainable",
    "schedule",
    "table",
]
