"""A clip to work on, and the clip that comes out of it.

Letters: N pictures, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..audio import resample
from ..media import VideoWriter, fit_image, read_video
from ..run.generation import METADATA_KEY, playable
from ..shapes import ClipPlan, Snap, plan_clip
from ..types import Numerics


@dataclass(frozen=True, kw_only=True, eq=False)
class Footage:
    """Pictures (N, 3, H, W) in [0, 1] with their rate, and the sound ((C, S), Hz) if there is one."""

    frames: Tensor
    fps: float
    sound: tuple[Tensor, int] | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or not len(self.frames):
            raise ValueError(f"frames must be (N, 3, H, W), at least one; got {tuple(self.frames.shape)}")

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], *, start_s: float = 0.0, max_frames: int | None = None
    ) -> Footage:
        """A video file, or a part of it. Raises what ``read_video`` raises."""
        clip = read_video(path, start_s=start_s, max_frames=max_frames)
        return cls(frames=clip.read(), fps=clip.fps, sound=clip.audio())

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.frames.shape[3], self.frames.shape[2]

    def plan(self, frames: int, *, stages: int = 1, numerics: Numerics = Numerics.OFFICIAL) -> ClipPlan:
        """The shortest plan that holds ``frames`` pictures, at the size on the grid nearest to its own."""
        how: dict[str, Any] = {"fps": self.fps, "stages": stages, "numerics": numerics}
        longer = plan_clip(*self.size, frames=frames, snap=Snap.CEIL, **how)
        return plan_clip(*self.size, frames=longer.frames, **how)

    def fitted(self, clip: ClipPlan) -> Footage:
        """Cut around the centre to the size of a plan."""
        return replace(self, frames=fit_image(self.frames, clip.width, clip.height))

    def track(self, channels: int, rate: int, seconds: float) -> Tensor:
        """The sound (channels, S) at ``rate``, exactly ``seconds`` long: cut, or followed by silence."""
        samples = round(seconds * rate)
        if self.sound is None:
            return torch.zeros(channels, samples)
        waveform, own = self.sound
        waveform = waveform if own == rate else resample(waveform, own, rate)
        return functional.pad(waveform, (0, samples - waveform.shape[1])).expand(channels, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """A finished clip: pictures are made when they are asked for, the sound is there.

    ``pictures()`` gives chunks (N, 3, H, W) in [-1, 1], ``frame_count`` in all; ``sounds()`` gives chunks
    (C, S) at ``rate`` Hz.
    """

    pictures: Callable[[], Iterator[Tensor]]
    sounds: Callable[[], Iterable[Tensor]]
    frame_count: int
    width: int
    height: int
    fps: float
    rate: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    byte_pictures: Callable[[], Iterator[Tensor]] | None = None
    """``pictures`` in uint8 for a file, where they can be had so from the device."""

    def frames(self) -> Tensor:
        """All pictures at once, (N, 3, H, W) in [-1, 1]."""
        return torch.cat(list(self.pictures()))

    def sound(self) -> tuple[Tensor, int]:
        """All of the sound at once, ((C, S), Hz)."""
        return torch.cat(list(self.sounds()), dim=1), self.rate

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        crf: int = 18,
        on_frames: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write an MP4 (H.264, AAC), pictures and sound side by side as they come.

        Raises what :class:`~ltx2_core.media.VideoWriter` raises.
        """
        sounds = iter(self.sounds())
        _, rate = playable(torch.zeros(2, 64), self.rate)
        written = 0
        with VideoWriter(
            path,
            width=self.width,
            height=self.height,
            fps=self.fps,
            sample_rate=rate,
            metadata={METADATA_KEY: json.dumps(dict(self.settings))},
            crf=crf,
        ) as writer:
            for chunk in (self.byte_pictures or self.pictures)():
                writer.write_frames(chunk)
                while written < (writer.frame_count / self.fps) * self.rate:
                    piece = next(sounds, None)
                    if piece is None:
                        break
                    written += piece.shape[1]
                    writer.write_audio(playable(piece, self.rate)[0])
                if on_frames is not None:
                    on_frames(writer.frame_count, self.frame_count)


def cross_fade(before: Tensor, after: Tensor, at: int, length: int) -> Tensor:
    """``before`` until ``at`` and ``after`` from there, along the last axis, both aligned to the same zero.

    The ``length`` samples before ``at`` go over linearly; what lies earlier is bit for bit ``before``.
    """
    length = min(length, at)
    weight = torch.arange(1, length + 1, dtype=before.dtype, device=before.device) / (length + 1)
    start = at - length
    mixed = torch.lerp(before[..., start:at], after[..., start:at].to(before), weight)
    return torch.cat((before[..., :start], mixed, after[..., at:].to(before)), dim=-1)


def take(chunks: Iterator[Tensor], first: int, count: int) -> Iterator[Tensor]:
    """The pictures ``first`` to ``first + count - 1`` of a stream of chunks."""
    position, stop = 0, first + count
    for chunk in chunks:
        low, high = max(first - position, 0), min(stop - position, len(chunk))
        position += len(chunk)
        if high > low:
            yield chunk[low:high]
        if position >= stop:
            return
