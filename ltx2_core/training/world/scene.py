"""A scene: what a clip contains, independent of its size, length and sample rate.

Positions are fractions of width and height from the upper left, radii fractions of the shorter side. The
first body (shape), the actor, moves and makes the audio; a second body, if there is one, stands still.
Letters: T times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .motion import Bounce, Path, Pulse, Slide, Still
from .palette import COLOURS, KINDS, PITCH_HZ, SOUND_OF, Colour, Kind, Motion, Sound, confusable

FPS = 25.0
MARGIN = 0.04
"""Distance of the margins from the border, relative to the shorter side; the lower one is the floor."""
_SHARES: dict[Motion, float] = {
    "bounce": 0.35,
    "slide_left": 0.15,
    "slide_right": 0.15,
    "pulse": 0.2,
    "still": 0.15,
}
_COMPANY_SHARE = 0.2
COLUMNS = (0.0, 0.25, 0.5, 0.75, 1.0)
HEIGHTS = (0.0, 0.5, 1.0)
"""Positions of bodies: a bounce stays in a column, a slide at a height, and all else where the two cross.

With free positions and sizes the tiny network draws shapes in several places at once.
"""
RADIUS, RADIUS_IN_COMPANY, RADIUS_ASIDE = 0.19, 0.15, 0.125
T = TypeVar("T")


class Extent(NamedTuple):
    """How far a shape of radius 1 reaches from its centroid to the side, up and down.

    All shapes of radius 1 have the area of the unit circle.
    """

    side: float
    up: float
    down: float


_SQUARE = math.sqrt(math.pi) / 2
_TRIANGLE = math.sqrt(4 * math.pi / (3 * math.sqrt(3)))
"""Circumradius of the triangle."""
# Equal areas, so that the size of a shape says nothing about its kind.
EXTENTS: dict[Kind, Extent] = {
    "circle": Extent(1.0, 1.0, 1.0),
    "square": Extent(_SQUARE, _SQUARE, _SQUARE),
    "triangle": Extent(_TRIANGLE * math.sqrt(3) / 2, _TRIANGLE, _TRIANGLE / 2),
}


class Placement(NamedTuple):
    """Where a body is at T times: ``centre`` (T, 2), x and y as fractions of width and height.

    ``radius`` (T,) is a fraction of the shorter side.
    """

    centre: Tensor
    radius: Tensor


@dataclass(frozen=True, kw_only=True)
class Body:
    """One coloured shape that moves on a path.

    ``kind`` is its shape. ``radius`` is that of the circle of equal area, as a fraction of the shorter side;
    the path may scale it.
    """

    kind: Kind
    colour: Colour
    radius: float
    path: Path

    @property
    def extent(self) -> Extent:
        """How far its shape reaches, if its radius is 1."""
        return EXTENTS[self.kind]

    def place(self, times: Tensor, width: int, height: int) -> Placement:
        """Where the body is at ``times`` (T,) in seconds, in frames of ``width`` x ``height`` pixels.

        The body stays within the margins of the frame.
        """
        pose = self.path.pose(times)
        shorter = min(width, height)
        # With the largest radius of the path, so that a pulse stays within the margins too.
        reach = self.radius * self.path.max_scale
        extent = self.extent
        left = (MARGIN + reach * extent.side) * shorter / width
        upper = (MARGIN + reach * extent.up) * shorter / height
        lower = 1 - (MARGIN + reach * extent.down) * shorter / height
        x = left + pose.across * (1 - 2 * left)
        y = lower - pose.lift * (lower - upper)
        return Placement(torch.stack([x, y], dim=-1), self.radius * pose.scale)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a clip: background, motion, and bodies (coloured shapes), of which the first moves.

    ``seed`` determines the noise floor of its audio.
    """

    seed: int
    background: Colour
    motion: Motion
    bodies: tuple[Body, ...]
    fps: float = FPS

    @property
    def actor(self) -> Body:
        return self.bodies[0]

    @property
    def sound(self) -> Sound:
        return SOUND_OF[self.motion]

    @property
    def pitch_hz(self) -> float:
        """Pitch in Hz of the knocks or the swell; of a glide, the pitch at the centre of the frame."""
        return PITCH_HZ[self.actor.kind]

    def times(self, frames: int) -> Tensor:
        """Times in seconds of the first ``frames`` frames, (frames,) float64."""
        return torch.arange(frames, dtype=torch.float64) / self.fps

    def contacts(self, seconds: float) -> tuple[float, ...]:
        """Times in [0, seconds) at which the first body hits the floor, each the start of a knock."""
        path = self.actor.path
        return path.contacts(seconds) if isinstance(path, Bounce) else ()


def sample_scene(
    seed: int,
    *,
    motion: Motion | None = None,
    kind: Kind | None = None,
    colour: Colour | None = None,
    background: Colour | None = None,
    company: bool | None = None,
) -> Scene:
    """Draw a scene from ``seed``, at least 0; each argument that is not None fixes its part of the scene.

    The other parts are those that the seed gives. ``kind`` (shape) and ``colour`` are those of the actor, the
    body that moves; ``company`` says whether there is a second body. A colour may differ from what the seed
    alone gives where it would be confused with one that was fixed.

    Raises ValueError for a word that is not in the world's vocabulary, and for a colour that is confusable
    with the background.
    """
    for name, value, allowed in (
        ("motion", motion, tuple(_SHARES)),
        ("kind", kind, KINDS),
        ("colour", colour, COLOURS),
        ("background", background, COLOURS),
    ):
        if value is not None and value not in allowed:
            raise ValueError(f"{name}={value!r} is not in the world; choose one of {', '.join(allowed)}")
    if colour and background and confusable(colour, background):
        raise ValueError(f"{colour} on {background} cannot be told apart; choose another background")
    # All numbers are drawn at once, so that fixing one part does not change the others.
    pick, place, colours = np.random.default_rng([seed, 0x17C2]).random((3, 8))
    motion = motion or _pick_share(pick[0])
    shape = _pick(KINDS, pick[1]) if kind is None else kind
    # The background is drawn first and excludes colours from the body, unless the colour of the body is
    # fixed.
    grounds = [c for c in COLOURS if colour is None or not confusable(c, colour)]
    ground = _pick(grounds, colours[0]) if background is None else background
    paint = _pick([c for c in COLOURS if not confusable(c, ground)], colours[1]) if colour is None else colour
    company = pick[2] < _COMPANY_SHARE if company is None else company
    radius = RADIUS_IN_COMPANY if company else RADIUS
    actor = Body(kind=shape, colour=paint, radius=radius, path=_path(motion, place[1:], company))
    bodies = [actor]
    if company:
        # Two bodies of confusable colours could not be told apart either.
        others = [c for c in COLOURS if not confusable(c, ground) and not confusable(c, paint)]
        bodies.append(
            Body(
                kind=_pick(KINDS, pick[3]),
                colour=_pick(others, colours[2]),
                radius=RADIUS_ASIDE,
                path=_aside(actor.path, place[7]),
            )
        )
    return Scene(seed=seed, background=ground, motion=motion, bodies=tuple(bodies))


def _path(motion: Motion, u: np.ndarray, company: bool) -> Path:
    """The path of the actor, the body that moves, for ``motion``, from 5 uniform random numbers ``u``.

    With ``company`` it stays clear of the place of a second body: at a side or below that one.
    """
    # Next to a second body only the outermost columns, so that the two never overlap.
    across = _pick(COLUMNS[:: len(COLUMNS) - 1] if company else COLUMNS, u[0])
    lift = _pick(HEIGHTS, u[1])
    if motion == "bounce":
        period = _between(0.5, 0.8, u[2])
        return Bounce(
            across=across, period_s=period, first_contact_s=_between(0.12, min(period - 0.1, 0.44), u[3])
        )
    if motion == "pulse":
        return Pulse(across=across, lift=lift, period_s=_between(0.7, 1.0, u[3]), phase=u[4], depth=0.35)
    if motion == "still":
        return Still(across=across, lift=lift)
    # Two seconds at the highest speed do not reach the other margin.
    start, speed = 0.2 * u[0], _between(0.36, 0.4, u[2])
    # The second body is above a slide, which therefore runs on the floor.
    lift = HEIGHTS[0] if company else lift
    return (
        Slide(start=start, speed=speed, lift=lift)
        if motion == "slide_right"
        else Slide(start=1 - start, speed=-speed, lift=lift)
    )


def _aside(path: Path, u: float) -> Still:
    """The place of a second body that stands still: above a slide, else at the margin away from the actor.

    ``u`` is a uniform random number.
    """
    # A slide passes every column, and the floor is its own.
    if isinstance(path, Slide):
        return Still(across=_pick(COLUMNS, u), lift=HEIGHTS[-1])
    return Still(across=1.0 if path.across < 0.5 else 0.0, lift=_pick(HEIGHTS, u))


def _between(low: float, high: float, u: float) -> float:
    return float(low + (high - low) * u)


def _pick(options: Sequence[T], u: float) -> T:
    return options[int(u * len(options))]


def _pick_share(u: float) -> Motion:
    for motion, share in _SHARES.items():
        u -= share
        if u < 0:
            return motion
    return "still"
