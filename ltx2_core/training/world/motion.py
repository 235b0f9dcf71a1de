"""How bodies move, in units that no picture size changes.

A pose is (across, lift, scale): ``across`` 0..1 from touching the left margin to touching the right one,
``lift`` 0..1 from standing on the floor to touching the upper margin, ``scale`` the factor on the radius.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

LONGEST_PERIOD_S = 0.8  # a bounce that reaches the upper margin; gravity follows from it


class Pose(NamedTuple):
    """Each (T,)."""

    across: Tensor
    lift: Tensor
    scale: Tensor


@dataclass(frozen=True, kw_only=True)
class Still:
    """Nothing moves."""

    across: float
    lift: float
    max_scale = 1.0

    def pose(self, times: Tensor) -> Pose:
        one = torch.ones_like(times)
        return Pose(self.across * one, self.lift * one, one)


@dataclass(frozen=True, kw_only=True)
class Bounce:
    """A ball that loses nothing, under one gravity for all: a higher bounce takes longer."""

    across: float
    first_contact_s: float
    period_s: float
    max_scale = 1.0

    def pose(self, times: Tensor) -> Pose:
        phase = torch.remainder((times - self.first_contact_s) / self.period_s, 1.0)
        height = (self.period_s / LONGEST_PERIOD_S) ** 2
        lift = height * 4 * phase * (1 - phase)
        return Pose(self.across * torch.ones_like(times), lift, torch.ones_like(times))

    def contacts(self, seconds: float) -> tuple[float, ...]:
        """When it hits the floor, in [0, seconds)."""
        count = max(0, math.ceil((seconds - self.first_contact_s) / self.period_s))
        return tuple(self.first_contact_s + n * self.period_s for n in range(count))


@dataclass(frozen=True, kw_only=True)
class Slide:
    """Even speed from wall to wall; ``speed`` is in free runs per second, negative to the left."""

    start: float
    speed: float
    lift: float
    max_scale = 1.0

    def pose(self, times: Tensor) -> Pose:
        folded = torch.remainder(self.start + self.speed * times, 2.0)
        across = torch.where(folded > 1, 2 - folded, folded)
        return Pose(across, self.lift * torch.ones_like(times), torch.ones_like(times))


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """Grows and shrinks around its place by the factor 1 +- depth."""

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
        """(T,) in [0, 1]: smallest to largest."""
        return 0.5 + 0.5 * torch.sin(2 * math.pi * (times / self.period_s + self.phase))


Path: TypeAlias = Still | Bounce | Slide | Pulse
