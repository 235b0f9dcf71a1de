"""Measures bodies, motion and audio of a clip from frames and waveform alone, to judge what was generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .measured_audio import MeasuredAudio, measure_audio
from .measured_video import OUTLINES, MeasuredBody, MeasuredVideo, Outline, measure_video
from .palette import Colour, Motion
from .scene import FPS


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured in a clip: colours, shapes, motion in ``video``, kind and pitch in ``audio``.

    ``audio`` is None for a clip without audio; ``fps`` is the frame rate.
    """

    video: MeasuredVideo
    audio: MeasuredAudio | None
    fps: float

    @property
    def background(self) -> Colour:
        return self.video.background

    @property
    def actor(self) -> MeasuredBody | None:
        """The body that moves most, among the shapes of the clip; None if there is only background."""
        return self.video.bodies[0] if self.video.bodies else None

    @property
    def colours(self) -> tuple[Colour, ...]:
        return tuple(body.colour for body in self.video.bodies)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(body.kind for body in self.video.bodies)

    @property
    def motion(self) -> Motion:
        return self.video.motion

    @property
    def contacts_s(self) -> tuple[float, ...]:
        """Seconds at which the actor, the body that moves most, touches the floor."""
        return tuple(frame / self.fps for frame in self.video.contacts)

    @property
    def onsets_s(self) -> tuple[float, ...]:
        """Seconds at which knocks start in the audio; none without audio."""
        return self.audio.onsets_s if self.audio else ()


def measure(
    frames: Tensor,
    waveform: Tensor | None,
    sample_rate: int = 0,
    fps: float = FPS,
    outlines: Mapping[str, Outline] = OUTLINES,
) -> Measured:
    """Measure frames (F, 3, H, W) in [-1, 1] and a waveform (2, S) in [-1, 1] at ``sample_rate`` Hz.

    Measured are colours, shapes, positions and motion of up to two bodies, and kind of audio, onsets, pitch,
    loudness and panning. ``waveform`` is None for a clip without audio, and ``sample_rate`` then not read.
    ``fps`` is the frame rate, ``outlines`` are the shapes that bodies may have.
    """
    audio = None if waveform is None else measure_audio(waveform, sample_rate, len(frames), fps)
    return Measured(video=measure_video(frames, outlines), audio=audio, fps=fps)
