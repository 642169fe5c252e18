"""Rooms: a seed is a picture, and what is said of it is true."""

import math

import pytest
import torch
import torch.nn.functional as F

from ppap_lib.data import room_captions, room_scenes, rooms
from ppap_lib.errors import InputError


@pytest.fixture(scope="module")
def drawn():
    return rooms.rooms(range(40), size=32)


def test_a_seed_is_a_room_whatever_is_drawn_beside_it(drawn):
    alone = rooms.rooms([7], size=32)
    among = rooms.rooms([30, 7, 2], size=32)
    for one in (alone.images[0], among.images[1]):
        torch.testing.assert_close(one, drawn.images[7], rtol=0, atol=1e-5)
    assert torch.equal(alone.semantic[0], drawn.semantic[7])


def test_pictures_are_within_the_pixel_contract_and_truth_has_their_size(drawn):
    assert drawn.images.shape == (40, 3, 32, 32) and drawn.images.abs().max() <= 1
    assert drawn.inverse_depth.shape == drawn.semantic.shape == (40, 32, 32)
    assert set(drawn.semantic.unique().tolist()) == set(range(6))
    assert torch.equal(drawn.labels, drawn.scene.shape[:, 0])


def test_a_room_is_the_same_at_every_size(drawn):
    large = rooms.rooms(range(8), size=64)
    shrunk = F.avg_pool2d(large.images, 2)
    assert (shrunk - drawn.images[:8]).abs().mean() < 0.01
    coarse = F.avg_pool2d(large.inverse_depth, 2)
    assert (coarse - drawn.inverse_depth[:8]).abs().mean() < 0.002
    boxes = large.boxes / 2
    there = boxes.isfinite()
    assert torch.equal(there, drawn.boxes[:8].isfinite())
    assert (boxes - drawn.boxes[:8])[there].abs().max() <= 0.5


def test_depth_is_that_of_the_geometry():
    """Looking straight ahead, the wall is everywhere as far as it is."""
    scene = room_scenes.draw_scenes(range(6))
    level = room_scenes.Scene(
        **{
            **vars(scene),
            "yaw": torch.zeros(6, dtype=torch.float64),
            "pitch": torch.zeros(6, dtype=torch.float64),
        }
    )
    found = rooms.render(level, 32)
    wall = found.inverse_depth[found.semantic == rooms.CLASSES.index("wall")]
    # Pixels on the wall's edges hold something of the solid or the floor before it.
    assert wall.median() == pytest.approx(1 / room_scenes.WALL_AT, rel=1e-4)
    assert wall.min() == pytest.approx(1 / room_scenes.WALL_AT, rel=1e-4)
    floor = found.inverse_depth[0, -1][found.semantic[0, -1] == 0]
    down = math.tan(math.radians(23)) * (1 - 1 / 32)  # of the lowest pixels' middle
    assert floor.median() == pytest.approx(down / 1.35, rel=0.01)


def test_solids_are_nearer_than_what_they_hide(drawn):
    solid = drawn.semantic >= 2
    assert (drawn.inverse_depth[solid] > 1 / room_scenes.WALL_AT).all()
    first = drawn.scene.place[:, 0, 1]
    second = drawn.scene.place[:, 1, 1]
    two = drawn.scene.count == 2
    assert two.any() and bool((first < second)[two].all())


def test_boxes_hold_what_is_seen_of_their_solid(drawn):
    for i in range(len(drawn.labels)):
        if drawn.scene.count[i] == 2:
            continue
        left, top, right, bottom = drawn.boxes[i, 0].tolist()
        rows, columns = (drawn.semantic[i] >= 2).nonzero().T
        assert top - 1 <= rows.min() and rows.max() < bottom + 1
        assert left - 1 <= columns.min() and columns.max() < right + 1
        assert drawn.boxes[i, 1].isnan().all()


def test_a_quarter_of_the_rooms_have_two_solids_and_all_kinds_are_as_common():
    scene = room_scenes.draw_scenes(range(4000))
    assert (scene.count == 2).double().mean() == pytest.approx(0.25, abs=0.03)
    for values, kinds in ((scene.shape[:, 0], 4), (scene.colour[:, 0], 6), (scene.wall, 4)):
        shares = values.bincount(minlength=kinds) / len(values)
        assert (shares - 1 / kinds).abs().max() < 0.03
    assert torch.equal(scene.there.sum(1), scene.count)


def test_captions_say_what_is_in_the_room(drawn):
    scene = drawn.scene
    for i, caption in enumerate(room_captions.captions(scene)):
        words = caption.split()
        shape = room_scenes.SHAPES[scene.shape[i, 0]]
        assert any(word in words for word in room_captions.SHAPE_WORDS[shape])
        assert list(room_scenes.COLOURS)[scene.colour[i, 0]] in words
        assert (scene.count[i] == 2) == ("left" in words or "right" in words)
        if "left" in words:
            assert drawn.boxes[i, 0, 0] < drawn.boxes[i, 1, 0]


def test_every_caption_has_numbers_and_no_two_words_share_one():
    texts = room_captions.captions(room_scenes.draw_scenes(range(3000)))
    found = room_captions.tokens(texts)
    assert found.shape == (3000, room_captions.LONGEST)
    assert found.max() == len(room_captions.WORDS)
    assert (found > 0).sum(1).max() == room_captions.LONGEST
    assert set(found.unique().tolist()) == set(range(len(room_captions.WORDS) + 1))
    assert not room_captions.tokens([""]).any()


def test_what_cannot_be_drawn_or_read_is_refused():
    with pytest.raises(InputError, match="'sphare' is not of the grammar.*'sphere'"):
        room_captions.tokens(["a red sphare"])
    with pytest.raises(InputError, match="23 words: at most 22"):
        room_captions.tokens(["red " * 23])
    with pytest.raises(InputError, match="twice"):
        room_scenes.draw_scenes([1, 1])
    with pytest.raises(InputError, match="not 0, 4"):
        rooms.rooms([1], size=0)
