"""Images: Fashion-MNIST, Tiny-ImageNet, image folders, photographs and drawn stand-ins.

Every source yields an `ImageSet`: uint8 pixels in one tensor, labels, class names, and a
sentence saying where the images came from. `load` is the call for pages, `require` the strict
one, `test_images` and `reference_images` are those of measurements.
"""

from ppap_lib.data.imageset import DataError, ImageSet, MissingData
from ppap_lib.data.sources import load, reference_images, require, test_images

__all__ = [
    "DataError",
    "ImageSet",
    "MissingData",
    "load",
    "reference_images",
    "require",
    "test_images",
]
