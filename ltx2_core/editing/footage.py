"""The source of an edit, and the clip that comes out of it.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..audio import resample
from ..media import Destination, Encoding, VideoClip, fit_image, read_video
from ..media.clip_frames import ClipFrames, Frames
from ..media.images import FitMode
from ..media.remux import CannotCopy, check_copy, copy_with_audio
from ..media.save import Clip, Timed, save_clip
from ..run.generation import METADATA_KEY
from ..shapes import ClipPlan, Snap, plan_clip
from ..types import Numerics
from .protocols import Waveform
from .renamed import renamed

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..media.encoding import EncodingOptions

log = logging.getLogger(__name__)

CHUNK_FRAMES = 32
"""Source frames that are converted at a time."""


@renamed(sound="audio")
@dataclass(frozen=True, kw_only=True, eq=False)
class Footage:
    """The source of an edit: frames (N, 3, H, W) in [0, 1], their rate, and the audio ((C, S), Hz) if any.

    The frames are in memory, or those of a file, which are decoded as they are needed. ``notes`` say what was
    changed when the file was read, for a report. ``fit`` says how frames of another size are cut to the grid,
    see :func:`~ltx2_core.media.fit_image`.
    """

    frames: Frames
    fps: float
    audio: Waveform | None = None
    fit: FitMode = "official"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or not len(self.frames):
            raise ValueError(f"frames must be (N, 3, H, W), at least one; got {tuple(self.frames.shape)}")

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], *, start_s: float = 0.0, max_frames: int | None = None
    ) -> Footage:
        """Open a video file, or a part of it; only its audio is read. Raises what ``read_video`` raises."""
        clip = read_video(path, start_s=start_s, max_frames=max_frames)
        return cls(frames=ClipFrames.of(clip), fps=clip.fps, audio=clip.audio(), notes=clip.notes)

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.frames.shape[3], self.frames.shape[2]

    @property
    def file(self) -> VideoClip | None:
        """The video file whose frames these are, all of them and unchanged; None for any other source."""
        whole = isinstance(self.frames, ClipFrames) and self.frames.is_whole_file
        return self.frames.clip if whole and isinstance(self.frames, ClipFrames) else None

    def plan(
        self,
        frames: int,
        *,
        stages: int = 1,
        numerics: Numerics = Numerics.OFFICIAL,
        max_pixels: int | None = None,
    ) -> ClipPlan:
        """The shortest plan of at least ``frames`` frames, at the size on the grid nearest to its own.

        With ``max_pixels`` a source of larger frames is planned at the same proportions with about as many.
        """
        width, height = self.size
        if max_pixels is not None and width * height > max_pixels:
            scale = math.sqrt(max_pixels / (width * height))
            width, height = round(width * scale), round(height * scale)
        longer = plan_clip(
            width, height, frames=frames, fps=self.fps, snap=Snap.CEIL, stages=stages, numerics=numerics
        )
        return plan_clip(width, height, frames=longer.frames, fps=self.fps, stages=stages, numerics=numerics)

    def part(self, first: int, stop: int | None = None) -> Footage:
        """The frames ``first`` to ``stop - 1``, counted as in a slice, without audio."""
        frames = self.frames
        part = frames.part(first, stop) if isinstance(frames, ClipFrames) else frames[first:stop]
        return replace(self, frames=part, audio=None)

    def chunks(self) -> Iterator[Tensor]:
        """The frames, ``CHUNK_FRAMES`` at a time."""
        return iter(self.frames.split(CHUNK_FRAMES))

    def fitted(self, clip: ClipPlan) -> Footage:
        """The source cut around its centre to the size of a plan."""
        if isinstance(self.frames, ClipFrames):
            return replace(self, frames=self.frames.fitted(clip.width, clip.height, self.fit))
        return replace(self, frames=fit_image(self.frames, clip.width, clip.height, mode=self.fit))

    def track(self, channels: int, rate: int, seconds: float) -> Tensor:
        """The audio (channels, S) at ``rate`` Hz, exactly ``seconds`` long: cut, or padded with silence."""
        samples = round(seconds * rate)
        if self.audio is None:
            return torch.zeros(channels, samples)
        waveform, own = self.audio
        waveform = waveform if own == rate else resample(waveform, own, rate)
        return functional.pad(waveform, (0, samples - waveform.shape[1])).expand(channels, -1)


@renamed(pictures="frame_chunks", sounds="audio_chunks", byte_pictures="byte_chunks", sound="audio")
@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """A finished clip, decoded on demand.

    ``frame_chunks()`` yields ``frame_count`` frames in chunks (N, 3, H, W) in [-1, 1]; ``audio_chunks()``
    yields chunks (C, S) at ``rate`` Hz. ``byte_chunks()`` yields the frames as uint8, for a file, where the
    decoder can convert them before they leave the device. ``settings`` are JSON values for the file's tags.
    ``unchanged`` is the file whose frames these are, if nothing of the video is new.
    """

    frame_chunks: Callable[[], Iterator[Tensor]]
    audio_chunks: Callable[[], Iterable[Tensor]]
    frame_count: int
    width: int
    height: int
    fps: float
    rate: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    byte_chunks: Callable[[], Iterator[Tensor]] | None = None
    unchanged: VideoClip | None = None

    def frames(self) -> Tensor:
        """All frames at once, (N, 3, H, W) in [-1, 1]."""
        return torch.cat(list(self.frame_chunks()))

    def audio(self) -> Waveform:
        """All of the audio at once, ((C, S), Hz)."""
        return torch.cat(list(self.audio_chunks()), dim=1), self.rate

    def save(
        self,
        path: str | os.PathLike[str] | Destination,
        *,
        on_frames: Callable[[int, int], None] | None = None,
        timed: Timed | None = None,
        **encoding: Unpack[EncodingOptions],
    ) -> None:
        """Write the clip as what ``path`` says; frames and audio are interleaved as they are decoded.

        Kinds of file and ``encoding`` are those of :meth:`~ltx2_core.run.generation.Generation.save`. Video
        of an ``unchanged`` file is copied, packet by packet, unless ``encoding`` chooses something of the
        video. Frames of odd size lose their last row or column where they are encoded in a pixel format that
        cannot hold it. ``on_frames`` is called with (frames written, all frames); ``timed`` counts the
        seconds of encoding. Raises what ``Generation.save`` raises, and ValueError for an ``unchanged`` file
        whose video fits another kind of file and not this one.
        """
        destination, chosen = Destination.of(path), Encoding(**encoding)
        if self.unchanged is not None and not self._copied(self.unchanged, destination, chosen):
            log.warning("%s is encoded again", self.unchanged.path)
        elif self.unchanged is not None:
            if on_frames is not None:
                on_frames(self.frame_count, self.frame_count)
            return
        save_clip(destination, self.as_clip(), chosen, on_frames=on_frames, timed=timed)

    def _copied(self, clip: VideoClip, destination: Destination, chosen: Encoding) -> bool:
        """Copy the video of ``clip`` with the new audio; False where it has to be encoded."""
        fmt = destination.format
        if chosen.of_video or not (fmt.video and fmt.audio) or check_copy(clip.path, fmt) is not None:
            return False
        origin_s = clip.timeline.origin_s
        try:
            copy_with_audio(
                clip.path,
                destination,
                *self.audio(),
                origin_s=origin_s,
                metadata=self._tags(),
                encoding=chosen,
            )
        except CannotCopy as error:
            log.warning("%s", error)
            return False
        return True

    def as_clip(self) -> Clip:
        """What is written to a file."""

        def frames(*, as_bytes: bool) -> Iterator[Tensor]:
            return (self.byte_chunks if as_bytes and self.byte_chunks else self.frame_chunks)()

        return Clip(
            width=self.width,
            height=self.height,
            fps=self.fps,
            frame_count=self.frame_count,
            frames=frames,
            audio=lambda: (self.audio_chunks(), self.rate),
            tags=self._tags(),
        )

    def _tags(self) -> dict[str, str]:
        return {METADATA_KEY: json.dumps(dict(self.settings))}


def cross_fade(before: Tensor, after: Tensor, at: int, length: int) -> Tensor:
    """``before`` until ``at`` and ``after`` from there, along the last axis; both start at the same time.

    The ``length`` samples before ``at`` fade linearly; what lies earlier is ``before`` bit for bit.
    """
    length = min(length, at)
    weight = torch.arange(1, length + 1, dtype=before.dtype, device=before.device) / (length + 1)
    start = at - length
    mixed = torch.lerp(before[..., start:at], after[..., start:at].to(before), weight)
    return torch.cat((before[..., :start], mixed, after[..., at:].to(before)), dim=-1)


def take(chunks: Iterator[Tensor], first: int, count: int) -> Iterator[Tensor]:
    """The frames ``first`` to ``first + count - 1`` of a stream of chunks."""
    position, stop = 0, first + count
    for chunk in chunks:
        low, high = max(first - position, 0), min(stop - position, len(chunk))
        position += len(chunk)
        if high > low:
            yield chunk[low:high]
        if position >= stop:
            return
