"""Data: the pixel contract, image sets, and where real images are read from."""

from ppap_lib.data.imageset import ImageSet

__all__ = ["ImageSet"]
