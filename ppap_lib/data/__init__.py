"""Data: the pixel contract, image sets, and where real images are read from.

>>> from ppap_lib.data.fashion import shipped
>>> images = shipped()
>>> images.source
'Fashion-MNIST, the 1,000 test images that ship with ppap_lib (100 per class)'
>>> boots = images.subset((images.labels == 9).nonzero().flatten())
>>> images.classes[9], len(boots), boots.pixels.dtype
('ankle boot', 100, torch.uint8)
>>> pixels = boots.images()
>>> pixels.shape, pixels.aminmax()
(torch.Size([100, 1, 32, 32]), torch.return_types.aminmax(
min=tensor(-1.),
max=tensor(1.)))
"""

from ppap_lib.data.imageset import ImageSet as ImageSet
