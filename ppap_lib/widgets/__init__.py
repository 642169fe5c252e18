"""Explorers: drawings with sliders that are live in JupyterLab and play in the built page."""

from ppap_lib.widgets.explorer import FRAME_LIMIT, Explorer, WidgetError, encode

__all__ = ["FRAME_LIMIT", "Explorer", "WidgetError", "encode"]
