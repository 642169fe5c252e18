"""The protocol's columns: which there are at how many images, and what images contribute."""

import pytest
import torch

from ppap_book.errors import StudyError
from ppap_book.measures import distances, protocol


def features(count, seed=0):
    """Features of images, and logits, as an extractor would have them."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 80, generator=generator)
    return distances.Features(vectors, "lite2", vectors[:, :10])


@pytest.mark.parametrize(
    ("n", "absent"), [(60, {"fd64", "fd64_real", "fd"}), (65, {"fd"}), (2000, set())]
)
def test_a_column_is_there_only_where_so_many_images_can_tell(n, absent):
    names = {"kid", "kid_real", "precision", "recall", "inception_score"}
    found = protocol.columns(features(n), features(2 * n, seed=1))
    assert set(found) == names | {"fd64", "fd64_real", "fd"} - absent


def test_few_images_have_no_distances_and_too_many_are_refused_before_they_are_drawn():
    few = torch.zeros(protocol.DISTANCES_FROM - 1, 1, 32, 32)
    assert protocol.measured(few, "fashion") == {}
    with pytest.raises(StudyError, match="balanced images need"):
        protocol.reference(50_000, "fashion")


def test_what_images_contribute_averages_to_precision_and_recall():
    found, real = features(70), features(140, seed=1)
    table, each = protocol.columns(found, real), protocol.by_image(found, real)
    assert table["precision"] == pytest.approx(sum(each["precise"]) / 70)
    assert table["recall"] == pytest.approx(sum(each["covered"]) / 70)
