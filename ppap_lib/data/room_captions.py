"""Sentences about rooms: a small grammar with synonyms, and the numbers of its words.

    "a large red ball left of a small green cube on a grey floor in front of a blue wall"

Which synonyms a room's caption takes is decided by its seed, as the room is.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from ppap_lib.data.room_scenes import COLOURS, FLOORS, SHAPES, SIZES, WALLS, Scene
from ppap_lib.errors import InputError

SHAPE_WORDS = {
    "ball": ("ball", "sphere"),
    "cube": ("cube", "block"),
    "cylinder": ("cylinder", "drum"),
    "cone": ("cone", "cone"),
}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
FLOOR_WORDS = ("on a {} floor", "on {} ground")
WALL_WORDS = ("in front of a {} wall", "before a {} wall")
SIDE_WORDS = (("left of", "to the left of"), ("right of", "to the right of"))

_PHRASES = (*FLOOR_WORDS, *WALL_WORDS, *SIDE_WORDS[0], *SIDE_WORDS[1], "a")
WORDS = tuple(
    sorted(
        {word for phrase in _PHRASES for word in phrase.replace("{}", "").split()}
        | {word for words in (*SHAPE_WORDS.values(), *SIZE_WORDS.values()) for word in words}
        | {*COLOURS, *FLOORS, *WALLS}
    )
)
"""The vocabulary. Token 0 is no word: it fills short captions, and is all of the empty one."""

LONGEST = 22
"""Words in the longest caption."""

_NUMBERS = {word: number for number, word in enumerate(WORDS, 1)}


def captions(scene: Scene) -> list[str]:
    """Return one sentence for each room of `scene`."""
    return [_caption(scene, i) for i in range(len(scene))]


def _caption(scene: Scene, i: int) -> str:
    chosen = (scene.words[i] < 0.5).long().tolist()
    solids = [_noun(scene, i, slot, chosen[slot], chosen[2]) for slot in range(int(scene.count[i]))]
    first = solids[0]
    if len(solids) == 2:
        right = bool(scene.place[i, 0, 0] > scene.place[i, 1, 0])
        first = f"{first} {SIDE_WORDS[right][chosen[3]]} {solids[1]}"
    floor = FLOOR_WORDS[chosen[4]].format(list(FLOORS)[scene.floor[i]])
    wall = WALL_WORDS[chosen[5]].format(list(WALLS)[scene.wall[i]])
    return f"{first} {floor} {wall}"


def _noun(scene: Scene, i: int, slot: int, shape_word: int, size_word: int) -> str:
    size = SIZE_WORDS[list(SIZES)[scene.size[i, slot]]][size_word]
    colour = list(COLOURS)[scene.colour[i, slot]]
    shape = SHAPE_WORDS[SHAPES[scene.shape[i, slot]]][shape_word]
    return f"a {size} {colour} {shape}"


def tokens(texts: Sequence[str], length: int = LONGEST) -> Tensor:
    """Return the numbers of the words of each text, 0 behind the last one.

    Parameters
    ----------
    texts
        N sentences of the grammar; "" is the empty caption.
    length
        Numbers in a row.

    Returns
    -------
    Tensor
        int64 [N, length], indices into `WORDS` plus 1.

    Raises
    ------
    InputError
        For a text that is too long, and for a word that is not of the grammar.
    """
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        words = text.lower().split()
        if len(words) > length:
            raise InputError(f"{text!r} has {len(words)} words: at most {length} are read")
        for place, word in enumerate(words):
            if word not in _NUMBERS:
                near = difflib.get_close_matches(word, WORDS, n=1, cutoff=0)[0]
                raise InputError(
                    f"the word {word!r} is not of the grammar of rooms: the nearest one is {near!r}"
                )
            row[place] = _NUMBERS[word]
    return rows
