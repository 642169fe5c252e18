"""Class names, wnids and indices."""

import pytest

from ppap_lib.data.imagenet_classes import Synsets, imagenet
from ppap_lib.errors import InputError
from ppap_lib.zoo.tiers import tier


def test_chihuahua_is_151():
    known = imagenet()
    assert len(known) == 1000
    for name in ("Chihuahua", "chihuahua", "  CHIHUAHUA ", "n02085620"):
        assert known.index(name) == 151
    assert known.names[151] == "Chihuahua" and known.wnids[151] == "n02085620"


def test_every_class_is_found_by_its_wnid_and_unless_ambiguous_by_its_name():
    known = imagenet()
    for index, (wnid, name) in enumerate(zip(known.wnids, known.names, strict=True)):
        assert known.index(wnid) == index
        if known.names.count(name) == 1:
            assert known.index(name) == index
    assert {n for n in known.names if known.names.count(n) > 1} == {"crane", "maillot"}


def test_the_tiers_names_and_wnids_agree_with_imagenet():
    ten = tier("tin10")
    indices = [imagenet().index(name) for name in ten.classes]
    assert indices == [imagenet().index(wnid) for wnid in ten.wnids]
    assert indices == [1, 145, 151, 283, 301, 323, 779, 950, 963, 970]


def test_synonyms_and_underscores_are_understood():
    assert imagenet().index("school_bus") == 779
    assert imagenet().index("lady beetle") == imagenet().index("ladybug")


def test_a_misspelling_gets_a_suggestion():
    with pytest.raises(InputError, match="no class named 'chihauhua'.*did you mean Chihuahua"):
        imagenet().index("chihauhua")
    with pytest.raises(InputError, match="no class named 'qqqqzzzz' among these 1000$"):
        imagenet().index("qqqqzzzz")
    with pytest.raises(InputError, match="no class with wnid 'n00000000'"):
        imagenet().index("n00000000")


def test_an_ambiguous_name_lists_the_wnids():
    with pytest.raises(InputError, match=r"n02012849 \(crane, index 134\), n03126707"):
        imagenet().index("crane")


def test_the_exact_spelling_decides_between_names_that_differ_by_case():
    assert imagenet().index("Cardigan") == 264 and imagenet().index("cardigan") == 474
    with pytest.raises(InputError, match="several classes"):
        imagenet().index("CARDIGAN")


def test_a_first_name_wins_over_another_class_s_synonym():
    synsets = Synsets([("n00000001", "big cat, lion"), ("n00000002", "lion, king of beasts")])
    assert synsets.index("lion") == 1
