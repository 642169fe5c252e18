"""Rooms: scenes of a floor, a wall and one or two solids, decided by a seed alone.

A `Scene` is a batch of rooms as tensors, `draw_scenes(seeds)` makes it; `ppap_lib.data.rooms` turns
it into pictures, and `ppap_lib.data.room_captions` into sentences. Coordinates are in metres, x to
the right, y up, z into the picture; the floor is y = 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ppap_lib.diffusion.noise import check_seeds

SHAPES = ("ball", "cube", "cylinder", "cone")
SIZES = {"small": 1.05, "large": 1.65}
"""Heights of solids in metres: the larger is about half of the picture high."""

COLOURS = {
    "red": (0.80, 0.12, 0.12),
    "green": (0.12, 0.60, 0.20),
    "blue": (0.14, 0.28, 0.82),
    "yellow": (0.92, 0.78, 0.10),
    "purple": (0.55, 0.18, 0.65),
    "orange": (0.95, 0.48, 0.08),
}
FLOORS = {
    "grey": (0.50, 0.50, 0.50),
    "brown": (0.42, 0.29, 0.20),
    "beige": (0.80, 0.72, 0.58),
    "black": (0.16, 0.16, 0.17),
}
WALLS = {
    "white": (0.90, 0.90, 0.88),
    "blue": (0.55, 0.68, 0.84),
    "pink": (0.88, 0.66, 0.70),
    "green": (0.62, 0.78, 0.62),
}
TWO_SOLIDS = 0.25
"""The share of rooms with a second solid."""

MOST = 2  # solids in a room
WALL_AT = 6.0  # z of the wall
_DRAWS = 27  # uniform numbers that a room is made of


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of N rooms.

    Parameters
    ----------
    count
        Solids in each room, 1 or 2: int64 [N].
    shape, colour, size
        Of each solid, indices into `SHAPES`, `COLOURS` and `SIZES`: int64 [N, 2], the nearer solid
        first; where there is one solid, the second entry is -1.
    place
        Where solids stand on the floor, x and z: float64 [N, 2, 2].
    turn
        By how much each solid is turned about its vertical axis, in radians: float64 [N, 2].
    floor, wall
        Indices into `FLOORS` and `WALLS`: int64 [N].
    light
        Centre of the lamp: float64 [N, 3].
    yaw, pitch
        Of the camera, in radians, to the right and down: float64 [N].
    words
        Uniform draws that choose among synonyms: float64 [N, 6].
    """

    count: Tensor
    shape: Tensor
    colour: Tensor
    size: Tensor
    place: Tensor
    turn: Tensor
    floor: Tensor
    wall: Tensor
    light: Tensor
    yaw: Tensor
    pitch: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, index) -> "Scene":
        return Scene(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def height(self) -> Tensor:
        """Height of each solid in metres: float64 [N, 2]."""
        return torch.tensor(list(SIZES.values()), dtype=torch.float64)[self.size.clamp(min=0)]

    @property
    def there(self) -> Tensor:
        """Whether a solid is in the room: bool [N, 2]."""
        return self.shape >= 0


def _uniform(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(_DRAWS, generator=generator, dtype=torch.float64)


def draw_scenes(seeds: Sequence[int]) -> Scene:
    """Return the rooms of the seeds, each decided by its own seed alone.

    Parameters
    ----------
    seeds
        Whole numbers in [0, 2^32), each once.

    Raises
    ------
    InputError
        If there is no seed, one occurs twice, or one is out of range.
    """
    u = torch.stack([_uniform(seed) for seed in check_seeds(seeds)])
    two = u[:, 0] < TWO_SOLIDS
    shape, colour, size = (
        (u[:, first : first + MOST] * count).long()
        for first, count in ((1, len(SHAPES)), (3, len(COLOURS)), (5, len(SIZES)))
    )
    # Two solids stand side by side, the nearer one on either side; a single one near the middle.
    side = torch.where(u[:, 7] < 0.5, -1.0, 1.0)
    alone = torch.stack([0.9 * (u[:, 8] - 0.5), 3.3 + 0.7 * u[:, 9]], 1)
    near = torch.stack([side * (0.56 + 0.16 * u[:, 8]), 3.1 + 0.4 * u[:, 9]], 1)
    far = torch.stack([-side * (0.74 + 0.24 * u[:, 10]), 4.1 + 0.6 * u[:, 11]], 1)
    place = torch.stack([torch.where(two[:, None], near, alone), far], 1)
    lamp = torch.stack([6 * (u[:, 12] - 0.5), 4.2 + u[:, 13], 0.6 + 1.2 * u[:, 14]], 1)
    one = torch.tensor([False, True]) & ~two[:, None]
    return Scene(
        count=1 + two.long(),
        shape=shape.masked_fill(one, -1),
        colour=colour.masked_fill(one, -1),
        size=size.masked_fill(one, -1),
        place=place,
        turn=math.pi / 2 * u[:, 15:17],
        floor=(u[:, 17] * len(FLOORS)).long(),
        wall=(u[:, 18] * len(WALLS)).long(),
        light=lamp,
        yaw=0.14 * (u[:, 19] - 0.5),
        pitch=0.17 + 0.06 * (u[:, 20] - 0.5),
        words=u[:, 21:27],
    )
