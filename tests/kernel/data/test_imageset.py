"""`ImageSet`: the pixel contract, choosing by position and class, refused tensors."""

import pytest
import torch

from ppap_lib.data import ImageSet
from ppap_lib.errors import DataError


def numbered(count: int = 6, classes=("a", "b", "c")) -> ImageSet:
    """Image i is filled with the byte i; labels go round."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    boxes = torch.arange(count).float().view(-1, 1).expand(-1, 4)
    return ImageSet(pixels, torch.arange(count) % len(classes), classes, "numbers", boxes)


def test_images_come_in_the_pixel_contract():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    images = ImageSet(pixels, torch.zeros(2).long(), ("a",), "extremes").images()
    assert images.dtype == torch.float32 and images.flatten().tolist() == [-1, 1]


@pytest.mark.parametrize("index", [[4], torch.tensor([4]), slice(4, 5), 4, -2])
def test_every_kind_of_index_gives_a_batch(index):
    assert numbered().images(index).shape == (1, 1, 2, 2)
    assert numbered().subset(index).pixels.unique().tolist() == [4]


def test_subsets_carry_labels_and_boxes():
    chosen = numbered().subset([5, 1])
    assert chosen.labels.tolist() == [2, 1] and chosen.boxes[:, 0].tolist() == [5, 1]
    assert chosen.classes == ("a", "b", "c")


def test_per_class_takes_the_first_of_each():
    assert numbered(8).per_class(2).pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DataError, match=r"c \(2\)"):
        numbered(8).per_class(3)


def test_batches_cover_the_set_in_order():
    parts = list(numbered(5).batches(2))
    assert [len(images) for images, _ in parts] == [2, 2, 1]
    assert torch.cat([images for images, _ in parts]).equal(numbered(5).images())
    assert torch.cat([labels for _, labels in parts]).equal(numbered(5).labels)


def test_bad_sets_and_indices_are_refused():
    good = numbered()
    with pytest.raises(DataError, match="uint8"):
        ImageSet(good.images(), good.labels, good.classes, "")
    with pytest.raises(DataError, match=r"int64 labels \[6\]"):
        ImageSet(good.pixels, good.labels[:5], good.classes, "")
    with pytest.raises(DataError, match="there are 2 classes"):
        ImageSet(good.pixels, good.labels, ("a", "b"), "")
    with pytest.raises(DataError, match="boxes"):
        ImageSet(good.pixels, good.labels, good.classes, "", good.boxes[:, :2])
    with pytest.raises(DataError, match="within the 6"):
        good.images([6])
    with pytest.raises(DataError, match="mask"):
        good.images(good.labels == 1)
