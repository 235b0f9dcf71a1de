"""A clip's content recovered from the clip alone: the judge of all that is generated."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .listen import Heard, listen
from .look import Look, SeenBody, look
from .palette import Colour, Kind, Motion
from .scene import FPS


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is seen and heard. ``heard`` is None for a clip without sound."""

    seen: Look
    heard: Heard | None
    fps: float

    @property
    def background(self) -> Colour:
        return self.seen.background

    @property
    def actor(self) -> SeenBody | None:
        """The body that moves most; None if the picture holds nothing but background."""
        return self.seen.bodies[0] if self.seen.bodies else None

    @property
    def colours(self) -> tuple[Colour, ...]:
        return tuple(body.colour for body in self.seen.bodies)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(body.kind for body in self.seen.bodies)

    @property
    def motion(self) -> Motion:
        return self.seen.motion

    @property
    def contacts_s(self) -> tuple[float, ...]:
        """Seconds at which the actor turns upwards at its lowest."""
        return tuple(frame / self.fps for frame in self.seen.contacts)

    @property
    def onsets_s(self) -> tuple[float, ...]:
        """Seconds at which something is struck; frames are ``onset * fps``."""
        return self.heard.onsets_s if self.heard else ()


def measure(frames: Tensor, waveform: Tensor | None, sample_rate: int = 0, fps: float = FPS) -> Measured:
    """frames (F, 3, H, W) in [-1, 1] and waveform (2, S) at ``sample_rate`` Hz, or None."""
    heard = None if waveform is None else listen(waveform, sample_rate, len(frames), fps)
    return Measured(seen=look(frames), heard=heard, fps=fps)
