"""Explorers: drawings with sliders that are live in JupyterLab and play in the built page.

`Explorer` is the general one; `timestep_explorer` and `guidance_explorer` are built on it.
"""

from ppap_lib.widgets.explorer import FRAME_LIMIT, Explorer, WidgetError, encode
from ppap_lib.widgets.prepared import Prepared
from ppap_lib.widgets.steering import guidance_explorer
from ppap_lib.widgets.timesteps import Seen, see, timestep_explorer

__all__ = [
    "FRAME_LIMIT",
    "Explorer",
    "Prepared",
    "Seen",
    "WidgetError",
    "encode",
    "guidance_explorer",
    "see",
    "timestep_explorer",
]
