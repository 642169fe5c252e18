"""Pictures of rooms, with everything that is true of them: depth, semantic map, boxes.

A small ray caster: every pixel is the mean of a square of rays, and each ray looks at a point of
the lamp of its own, which gives shadows soft edges. See `room_scenes` for what stands in a room.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppap_lib.data.room_scenes import (
    COLOURS,
    FLOORS,
    MOST,
    SHAPES,
    WALL_AT,
    WALLS,
    Scene,
    draw_scenes,
)
from ppap_lib.errors import InputError

CLASSES = ("floor", "wall", *SHAPES)
"""Of the semantic map, in its order."""

_EYE = (0.0, 1.35, 0.0)
_ZOOM = math.tan(math.radians(23))  # half the picture, at a distance of one
_LAMP = 0.45  # half its width
_AMBIENT = 0.36
_FAR = 1e4
_LIFT = 1e-3  # of shadow rays above what they start from


@dataclass(frozen=True, eq=False)
class Rooms:
    """Pictures of N rooms and their truth.

    Parameters
    ----------
    images
        float32 [N, 3, S, S] in [-1, 1].
    inverse_depth
        1 / distance along the optical axis, in 1/m: float32 [N, S, S].
    semantic
        Indices into `CLASSES`: int64 [N, S, S].
    boxes
        Left, top, right, bottom edges of each solid's visible part in pixels, the nearer first:
        float32 [N, 2, 4]; nan where there is no second solid or nothing of it is seen.
    labels
        Shape of the nearer solid, an index into `SHAPES`: int64 [N].
    scene
        What was drawn.
    """

    images: Tensor
    inverse_depth: Tensor
    semantic: Tensor
    boxes: Tensor
    labels: Tensor
    scene: Scene


def render(
    scene: Scene, size: int, samples: int = 4, device: torch.device | str = "cpu", batch: int = 32
) -> Rooms:
    """Render rooms.

    Parameters
    ----------
    scene
        N rooms.
    size
        Side of the pictures in pixels.
    samples
        Rays along the side of a pixel.
    device
        Where to compute; what is returned lies on the CPU.
    batch
        Rooms at a time.

    Raises
    ------
    InputError
        If `size` or `samples` is below 1.
    """
    if min(size, samples) < 1:
        raise InputError(f"pictures have pixels, and pixels rays: not {size}, {samples}")
    parts = [
        _render(scene[start : start + batch], size, samples, device)
        for start in range(0, len(scene), batch)
    ]
    columns = (torch.cat(column) for column in zip(*parts, strict=True))
    return Rooms(*columns, labels=scene.shape[:, 0].clone(), scene=scene)


def rooms(seeds: Sequence[int], size: int = 32, samples: int = 4) -> Rooms:
    """Render the rooms of the `seeds`; `size` and `samples` are those of `render`."""
    return render(draw_scenes(seeds), size, samples)


def _render(scene: Scene, size: int, samples: int, device) -> tuple[Tensor, ...]:
    solids = _Solids(scene, device)
    origin, rays, axis = _camera(scene, size * samples, device)
    t, normal, what = solids.first_hit(origin, rays)
    point = origin + t[..., None] * rays
    lamp = _lamp(scene, size, samples, device) - (point + _LIFT * normal)
    lit = (normal * lamp).sum(-1) / lamp.norm(dim=-1)
    lit = lit.clamp(min=0) * ~solids.hides(point + _LIFT * normal, lamp)
    colour = solids.colours(what)
    image = colour * (_AMBIENT + (1 - _AMBIENT) * lit[..., None])
    shape = (len(scene), size, samples, size, samples)
    image = image.view(*shape, 3).mean((2, 4)).permute(0, 3, 1, 2)
    inverse = 1 / (t * (rays * axis).sum(-1))
    kinds = solids.kinds(what)
    votes = torch.nn.functional.one_hot(kinds, len(CLASSES)).view(*shape, -1).sum((2, 4))
    return (
        (2 * image - 1).float().cpu(),
        inverse.view(shape).mean((2, 4)).float().cpu(),
        votes.argmax(-1).cpu(),
        torch.stack([_box((what == 2 + k).view(shape), samples) for k in range(MOST)], 1).cpu(),
    )


def _camera(scene: Scene, side: int, device) -> tuple[Tensor, Tensor, Tensor]:
    """The eye [3], rays [N, side * side, 3] and the optical axis [N, 1, 3], of length one."""
    at = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(-at * _ZOOM, at * _ZOOM, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
    axis = torch.tensor([0.0, 0.0, 1.0], device=device)
    yaw, pitch = scene.yaw.float().to(device), scene.pitch.float().to(device)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def turned(*rows: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    down = turned(
        (one, zero, zero),
        (zero, pitch.cos(), -pitch.sin()),
        (zero, pitch.sin(), pitch.cos()),
    )
    right = turned((yaw.cos(), zero, yaw.sin()), (zero, one, zero), (-yaw.sin(), zero, yaw.cos()))
    matrix = right @ down
    eye = torch.tensor(_EYE, device=device)
    return eye, torch.einsum("nij,rj->nri", matrix, rays), (matrix @ axis)[:, None]


def _lamp(scene: Scene, size: int, samples: int, device) -> Tensor:
    """A point of the lamp for every ray, [N, rays, 3]: each ray of a pixel sees another."""
    at = ((torch.arange(samples, device=device) + 0.5) / samples * 2 - 1) * _LAMP
    across, along = at.flip(0)[:, None].expand(-1, samples), at.expand(samples, -1)
    spread = torch.stack([along, torch.zeros_like(along), across], -1)
    spread = spread[None, :, None].expand(size, -1, size, -1, -1).reshape(-1, 3)
    return scene.light.float().to(device)[:, None] + spread


class _Solids:
    """What rays meet in a batch of rooms: 0 the floor, 1 the wall, 2 and 3 the solids."""

    def __init__(self, scene: Scene, device):
        self.shape = scene.shape.to(device)
        self.height = scene.height.float().to(device)
        self.place = scene.place.float().to(device)
        self.turn = scene.turn.float().to(device)
        palette = [list(table.values()) for table in (FLOORS, WALLS, COLOURS)]
        floor, wall, solid = (torch.tensor(rows, device=device) for rows in palette)
        self.palette = torch.cat(
            [
                floor[scene.floor.to(device)][:, None],
                wall[scene.wall.to(device)][:, None],
                solid[scene.colour.to(device).clamp(min=0)],
            ],
            1,
        )

    def colours(self, what: Tensor) -> Tensor:
        """[N, rays] to [N, rays, 3] in [0, 1]."""
        return self.palette.gather(1, what[..., None].expand(-1, -1, 3))

    def kinds(self, what: Tensor) -> Tensor:
        """[N, rays] to indices into `CLASSES`."""
        table = torch.cat(
            [torch.tensor([[0, 1]], device=what.device).expand(len(what), -1), 2 + self.shape], 1
        )
        return table.gather(1, what)

    def first_hit(self, origin: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance [N, rays] in lengths of the ray, normal [N, rays, 3], and what was hit."""
        falling = rays[..., 1] < 0
        floor = torch.where(falling, -origin[1] / rays[..., 1], _FAR)
        wall = (WALL_AT - origin[2]) / rays[..., 2]
        t = torch.minimum(floor, wall)
        what = (wall < floor).long()
        up, back = (torch.tensor(v, device=rays.device) for v in ([0.0, 1, 0], [0.0, 0, -1]))
        normal = torch.where(what[..., None] == 0, up, back)
        for slot, index, (reached, outward) in self._each(origin.expand(rays.shape), rays):
            nearer = reached < t[index]
            t[index] = torch.where(nearer, reached, t[index])
            normal[index] = torch.where(nearer[..., None], outward, normal[index])
            what[index] = torch.where(nearer, 2 + slot, what[index])
        return t, normal, what

    def hides(self, origins: Tensor, rays: Tensor) -> Tensor:
        """Whether a solid lies between the origins and the ends of the rays: bool [N, rays]."""
        hidden = torch.zeros(rays.shape[:2], dtype=torch.bool, device=rays.device)
        for _, index, (reached, _) in self._each(origins, rays):
            hidden[index] |= reached < 1
        return hidden

    def _each(self, origins: Tensor, rays: Tensor) -> Iterator[tuple]:
        """Every kind of solid in every slot: the rooms that have it, and what their rays meet."""
        for slot in range(MOST):
            for kind, meet in enumerate((_ball, _cube, _cylinder, _cone)):
                index = (self.shape[:, slot] == kind).nonzero().flatten()
                if len(index):
                    x, z = self.place[index, slot].unbind(1)
                    foot = torch.stack([x, torch.zeros_like(x), z], -1)[:, None]
                    height = self.height[index, slot][:, None]
                    turn = self.turn[index, slot][:, None]
                    yield slot, index, meet(origins[index] - foot, rays[index], height, turn)


def _nearest(*candidates: Tensor) -> Tensor:
    """The smallest of the distances ahead; `_FAR` where there is none."""
    ahead = [torch.where(c > 1e-4, c, _FAR) for c in candidates]
    return torch.stack(ahead).amin(0)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots of a t^2 + 2 b t + c; `_FAR` where there are none."""
    inside = b * b - a * c
    root = inside.clamp(min=0).sqrt()
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    return tuple(
        torch.where(inside > 0, value, _FAR) for value in ((-b - root) / a, (-b + root) / a)
    )


def _standing(t: Tensor, o: Tensor, d: Tensor, height: Tensor) -> Tensor:
    """The distances `t` where the ray is above the floor and below the solid's top, or `_FAR`."""
    y = o[..., 1] + t * d[..., 1]
    return torch.where((y >= 0) & (y <= height), t, _FAR)


def _ball(o: Tensor, d: Tensor, height: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    radius = height / 2
    o = o - torch.stack([torch.zeros_like(radius), radius, torch.zeros_like(radius)], -1)
    t = _nearest(*_roots((d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - radius**2))
    return t, (o + t[..., None] * d) / radius[..., None]


def _about_axis(v: Tensor, turn: Tensor) -> Tensor:
    c, s = turn.cos(), turn.sin()
    return torch.stack(
        [
            c * v[..., 0] + s * v[..., 2],
            v[..., 1].expand_as(c * v[..., 0]),
            -s * v[..., 0] + c * v[..., 2],
        ],
        -1,
    )


def _cube(o: Tensor, d: Tensor, height: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    half = 0.42 * height
    o = o - torch.stack([torch.zeros_like(half), half, torch.zeros_like(half)], -1)
    o, d = _about_axis(o, turn), _about_axis(d, turn)
    d = torch.where(d.abs() < 1e-9, 1e-9, d)
    one, other = (-half[..., None] - o) / d, (half[..., None] - o) / d
    enter, leave = torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)
    t = torch.where((enter < leave) & (enter > 1e-4), enter, _FAR)
    p = o + t[..., None] * d
    side = torch.nn.functional.one_hot(p.abs().argmax(-1), 3)
    return t, _about_axis(side * p.sign(), -turn)


def _cylinder(o: Tensor, d: Tensor, height: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    radius = 0.40 * height
    flat = torch.tensor([1.0, 0.0, 1.0], device=o.device)
    of, df = o * flat, d * flat
    sides = _roots((df * df).sum(-1), (of * df).sum(-1), (of * of).sum(-1) - radius**2)

    top = (height - o[..., 1]) / torch.where(d[..., 1].abs() < 1e-9, 1e-9, d[..., 1])
    p = of + top[..., None] * df
    top = torch.where((p * p).sum(-1) <= radius**2, top, _FAR)
    side = _nearest(*(_standing(t, o, d, height) for t in sides))
    t = torch.minimum(side, _nearest(top))
    outward = (of + t[..., None] * df) / radius[..., None]
    up = torch.tensor([0.0, 1.0, 0.0], device=o.device)
    return t, torch.where((side < _nearest(top))[..., None], outward, up)


def _cone(o: Tensor, d: Tensor, height: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    height = 1.1 * height
    slope = 0.48  # radius over height
    flat = torch.tensor([1.0, 0.0, 1.0], device=o.device)
    of, df = o * flat, d * flat
    above = height - o[..., 1]
    k = slope**2
    roots = _roots(
        (df * df).sum(-1) - k * d[..., 1] ** 2,
        (of * df).sum(-1) + k * above * d[..., 1],
        (of * of).sum(-1) - k * above**2,
    )

    t = _nearest(*(_standing(t, o, d, height) for t in roots))
    p = of + t[..., None] * df
    outward = p / p.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    outward = outward + torch.tensor([0.0, slope, 0.0], device=o.device)
    return t, outward / outward.norm(dim=-1, keepdim=True)


def _box(mask: Tensor, samples: int) -> Tensor:
    """Edges in pixels [N, 4] of what a mask [N, S, s, S, s] covers; nan where nothing."""
    n, size = mask.shape[:2]
    fine = mask.reshape(n, size * samples, size * samples)
    at = torch.arange(size * samples, device=mask.device)
    edges = []
    for seen in (fine.any(1), fine.any(2)):  # columns, rows
        first = torch.where(seen, at, at.numel()).amin(1)
        last = torch.where(seen, at, -1).amax(1) + 1
        edges.append((first / samples, last / samples))
    box = torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], 1)
    return torch.where(fine.flatten(1).any(1)[:, None], box, torch.nan)
