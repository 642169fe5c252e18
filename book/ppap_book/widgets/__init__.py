"""Explorers: drawings with sliders that are live in JupyterLab and play in the built page.

`Explorer` is the general one; `timestep_explorer` and `guidance_explorer` are built on it.
"""

from ppap_book.widgets.explorer import FRAME_LIMIT, Explorer, encode
from ppap_book.widgets.prepared import Precomputed
from ppap_book.widgets.steering import guidance_explorer
from ppap_book.widgets.timesteps import ModelView, timestep_explorer, view_of

__all__ = [
    "FRAME_LIMIT",
    "Explorer",
    "Precomputed",
    "ModelView",
    "encode",
    "guidance_explorer",
    "view_of",
    "timestep_explorer",
]
