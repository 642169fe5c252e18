"""Explorers: drawings with sliders that are live in JupyterLab and play in the built page.

`Explorer` is the general one; `timestep_explorer` and `guidance_explorer` are built on it.
"""

from ppap_book.widgets.explorer import FRAME_LIMIT, Explorer, encode
from ppap_book.widgets.precomputed import Precomputed
from ppap_book.widgets.steering import guidance_explorer
from ppap_book.widgets.timesteps import ModelView, timestep_explorer, view_of

__all__ = [
    "FRAME_LIMIT",
    "Explorer",
    "ModelView",
    "Precomputed",
    "encode",
    "guidance_explorer",
    "timestep_explorer",
    "view_of",
]
