"""A scene: everything that is true of a clip, at any size, length and sample rate.

T times, N bodies. Positions are fractions of width and height from the upper left; radii are fractions of the
shorter side. The first body acts and sounds; a second one only stands by.
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
MARGIN = 0.04  # of the shorter side; the floor is this far above the lower edge
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
"""Where bodies stand: a bounce stays in a column and a slide at a height, the rest where the two cross.

Anywhere and at any size, the tiny network still drew shapes in several places at once after 4,000 steps.
"""
RADIUS, RADIUS_IN_COMPANY, RADIUS_ASIDE = 0.19, 0.15, 0.125
T = TypeVar("T")


class Extent(NamedTuple):
    """How far a shape of radius 1 reaches from its centroid; all shapes have the area of the unit circle."""

    side: float
    up: float
    down: float


_SQUARE = math.sqrt(math.pi) / 2
_TRIANGLE = math.sqrt(4 * math.pi / (3 * math.sqrt(3)))  # circumradius
EXTENTS: dict[Kind, Extent] = {
    "circle": Extent(1.0, 1.0, 1.0),
    "square": Extent(_SQUARE, _SQUARE, _SQUARE),
    "triangle": Extent(_TRIANGLE * math.sqrt(3) / 2, _TRIANGLE, _TRIANGLE / 2),
}


class Placement(NamedTuple):
    """Centroid (T, 2) as (x, y) fractions of the picture and radius (T,) as one of the shorter side."""

    centre: Tensor
    radius: Tensor


@dataclass(frozen=True, kw_only=True)
class Body:
    """One coloured shape; ``radius`` is that of the circle of equal area, before the path scales it."""

    kind: Kind
    colour: Colour
    radius: float
    path: Path

    def place(self, times: Tensor, width: int, height: int) -> Placement:
        """times (T,) in seconds -> placement in a picture of that size; it never leaves the margins."""
        pose = self.path.pose(times)
        shorter = min(width, height)
        reach = self.radius * self.path.max_scale
        extent = EXTENTS[self.kind]
        left = (MARGIN + reach * extent.side) * shorter / width
        upper = (MARGIN + reach * extent.up) * shorter / height
        lower = 1 - (MARGIN + reach * extent.down) * shorter / height
        x = left + pose.across * (1 - 2 * left)
        y = lower - pose.lift * (lower - upper)
        return Placement(torch.stack([x, y], dim=-1), self.radius * pose.scale)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth. ``seed`` also fixes the noise floor of the sound."""

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
        """The pitch of the knock or swell; a glide has it at the middle of the picture."""
        return PITCH_HZ[self.actor.kind]

    def times(self, frames: int) -> Tensor:
        """Seconds at which the frames are seen, (frames,) float64."""
        return torch.arange(frames, dtype=torch.float64) / self.fps

    def contacts(self, seconds: float) -> tuple[float, ...]:
        """When the actor hits the floor, and so when it knocks: seconds, in [0, seconds)."""
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
    """A scene from a seed; what is given is taken, and the rest stays what the seed says where it can.

    ``seed`` is at least 0; ``kind`` and ``colour`` are the actor's; ``company`` says whether a second body
    stands by. Raises ValueError for words that the world lacks and for a colour too near the background's.
    """
    for name, given, allowed in (
        ("motion", motion, tuple(_SHARES)),
        ("kind", kind, KINDS),
        ("colour", colour, COLOURS),
        ("background", background, COLOURS),
    ):
        if given is not None and given not in allowed:
            raise ValueError(f"{name}={given!r} is not in the world; choose one of {', '.join(allowed)}")
    if colour and background and confusable(colour, background):
        raise ValueError(f"{colour} on {background} cannot be told apart; choose another background")
    # Always the same number of draws in the same order: giving one thing does not change the others.
    pick, place, colours = np.random.default_rng([seed, 0x17C2]).random((3, 8))
    motion = motion or _pick_share(pick[0])
    shape = _pick(KINDS, pick[1]) if kind is None else kind
    grounds = [c for c in COLOURS if colour is None or not confusable(c, colour)]
    ground = _pick(grounds, colours[0]) if background is None else background
    paint = _pick([c for c in COLOURS if not confusable(c, ground)], colours[1]) if colour is None else colour
    company = pick[2] < _COMPANY_SHARE if company is None else company
    radius = RADIUS_IN_COMPANY if company else RADIUS
    actor = Body(kind=shape, colour=paint, radius=radius, path=_path(motion, place[1:], company))
    bodies = [actor]
    if company:
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
    """The actor's path from 5 draws; in company it keeps to one side, or below, clear of the other body."""
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
    # Two seconds at the highest speed do not reach the other wall.
    start, speed = 0.2 * u[0], _between(0.36, 0.4, u[2])
    lift = HEIGHTS[0] if company else lift
    return (
        Slide(start=start, speed=speed, lift=lift)
        if motion == "slide_right"
        else Slide(start=1 - start, speed=-speed, lift=lift)
    )


def _aside(path: Path, u: float) -> Still:
    """Where a companion stands: above a slide, else at the wall away from the actor."""
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
