"""How bodies (the moving shapes of a scene) move, in units that do not depend on the size of the frame.

A pose is (across, lift, scale): ``across`` goes from 0, where the body touches the left margin, to 1 at the
right one, ``lift`` from 0 on the floor to 1 at the upper margin, and ``scale`` multiplies the radius.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

LONGEST_PERIOD_S = 0.8
"""Period of a bounce that reaches the upper margin; the gravity of all bounces follows from it."""


class Pose(NamedTuple):
    """Place and size of a body at T times, each (T,).

    ``across`` goes from 0 at the left margin to 1 at the right one, ``lift`` from 0 on the floor to 1 at the
    upper margin; ``scale`` multiplies the radius.
    """

    across: Tensor
    lift: Tensor
    scale: Tensor


@dataclass(frozen=True, kw_only=True)
class Still:
    """The path of a body at rest.

    It stands at ``across`` from 0 (left margin) to 1 (right margin), and ``lift`` from 0 (floor) to 1 (upper
    margin).
    """

    across: float
    lift: float
    max_scale = 1.0

    def pose(self, times: Tensor) -> Pose:
        one = torch.ones_like(times)
        return Pose(self.across * one, self.lift * one, one)


@dataclass(frozen=True, kw_only=True)
class Bounce:
    """The path of a body that bounces without loss of height.

    ``across`` is its place from 0 (left margin) to 1 (right). It first touches the floor at
    ``first_contact_s`` seconds, then every ``period_s`` seconds. Gravity is the same for all bodies, so a
    higher bounce takes longer.
    """

    across: float
    first_contact_s: float
    period_s: float
    max_scale = 1.0

    def pose(self, times: Tensor) -> Pose:
        phase = torch.remainder((times - self.first_contact_s) / self.period_s, 1.0)
        # Free fall: the height of a bounce grows with the square of its period.
        height = (self.period_s / LONGEST_PERIOD_S) ** 2
        # A parabola that is 0 at both contacts and reaches its height half-way between them.
        lift = height * 4 * phase * (1 - phase)
        return Pose(self.across * torch.ones_like(times), lift, torch.ones_like(times))

    def contacts(self, seconds: float) -> tuple[float, ...]:
        """Times in [0, seconds) at which the body hits the floor, in seconds."""
        # The end is excluded, since a knock at the last sample could not be heard.
        count = max(0, math.ceil((seconds - self.first_contact_s) / self.period_s))
        return tuple(self.first_contact_s + n * self.period_s for n in range(count))


@dataclass(frozen=True, kw_only=True)
class Slide:
    """The path of a body that moves to and fro between the left and the right margin at constant speed.

    It begins at ``start`` from 0 (left margin) to 1 (right). ``speed`` is in widths of this path per second,
    negative to the left. ``lift`` is its height from 0 (floor) to 1.
    """

    start: float
    speed: float
    lift: float
    max_scale = 1.0

    def pose(self, times: Tensor) -> Pose:
        # The position is reflected at the margins: over two path widths it goes there and back.
        folded = torch.remainder(self.start + self.speed * times, 2.0)
        across = torch.where(folded > 1, 2 - folded, folded)
        return Pose(across, self.lift * torch.ones_like(times), torch.ones_like(times))


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """The path of a body at a fixed place; its radius oscillates between factors 1 - depth and 1 + depth.

    ``across`` is its place from 0 (left margin) to 1 (right), ``lift`` its height from 0 (floor) to 1,
    ``period_s`` the seconds of an oscillation, ``phase`` the share of it, from 0 to 1, that has passed at the
    start.
    """

    across: float
    lift: float
    period_s: float
    phase: float
    depth: float

    @property
    def max_scale(self) -> float:
        return 1 + self.depth

    def pose(self, times: Tensor) -> Pose:
        one = torch.ones_like(times)
        return Pose(self.across * one, self.lift * one, 1 + self.depth * (2 * self.fullness(times) - 1))

    def fullness(self, times: Tensor) -> Tensor:
        """Size (T,) of the body at ``times`` (T,) in seconds, from 0, the smallest, to 1, the largest."""
        return 0.5 + 0.5 * torch.sin(2 * math.pi * (times / self.period_s + self.phase))


Path: TypeAlias = Still | Bounce | Slide | Pulse
