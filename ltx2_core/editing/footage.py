"""The source of an edit, and the finished clip that an edit returns.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..audio import resample
from ..media import Destination, Encoding, VideoClip, fit_image, read_video
from ..media.clip_frames import ClipFrames, Frames
from ..media.images import BLACK, Colour, FitMode, SourceFit, pad_image
from ..media.recut import Recut, plan_recut, write_recut
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

# Float32 frames of 1280x704 take 11 MB each, so that a chunk stays below 400 MB.
CHUNK_FRAMES = 32
"""Source frames that are converted at a time."""


@renamed(sound="audio")
@dataclass(frozen=True, kw_only=True, eq=False)
class Footage:
    """The source of an edit: frames (N, 3, H, W) in [0, 1], their rate, and the audio ((C, S), Hz) if any.

    The frames are in memory, or in a file from which they are decoded when needed. ``notes`` are sentences
    that say what was changed when the file was read. ``fit`` says what happens to frames whose size is not
    one that the model can generate. With "own" the model sees them padded (last row and column repeated) and
    the result has their own size; the other modes crop or scale them, see :func:`~ltx2_core.media.fit_image`.
    """

    frames: Frames
    fps: float
    audio: Waveform | None = None
    fit: SourceFit = "own"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or not len(self.frames):
            raise ValueError(f"frames must be (N, 3, H, W), at least one; got {tuple(self.frames.shape)}")

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        start_s: float = 0.0,
        max_frames: int | None = None,
        background: Colour = BLACK,
    ) -> Footage:
        """Open a video file, or a part of it: its audio is read at once, frames when they are needed.

        The part begins at ``start_s`` seconds and has at most ``max_frames`` frames. Transparent pixels are
        blended with ``background``, RGB in [0, 1]. Raises what ``read_video`` raises.
        """
        clip = read_video(path, start_s=start_s, max_frames=max_frames, background=background)
        return cls(frames=ClipFrames.of(clip), fps=clip.fps, audio=clip.audio(), notes=clip.notes)

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.frames.shape[3], self.frames.shape[2]

    @property
    def file(self) -> VideoClip | None:
        """The video file whose frames these are, if they are all of its frames, unchanged; else None."""
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
        """Plan a run of at least ``frames`` frames (the next 8k + 1), at a size that the model can generate.

        That is the nearest size, but with ``fit`` "own" the size rounded up. Frames of more than
        ``max_pixels`` pixels are planned at the nearest size with the same proportions and about that many
        pixels.
        """
        width, height = self.size
        if max_pixels is not None and width * height > max_pixels:
            scale = math.sqrt(max_pixels / (width * height))
            width, height = round(width * scale), round(height * scale)
        # Rounded up, because a source at its own size is padded and never cut.
        longer = plan_clip(
            width, height, frames=frames, fps=self.fps, snap=Snap.CEIL, stages=stages, numerics=numerics
        )
        if self.fit == "own" and max_pixels is None:
            return longer
        return plan_clip(width, height, frames=longer.frames, fps=self.fps, stages=stages, numerics=numerics)

    def part(self, first: int, stop: int | None = None) -> Footage:
        """Return frames ``first`` to ``stop - 1`` without audio; negative numbers count from the end."""
        frames = self.frames
        part = frames.part(first, stop) if isinstance(frames, ClipFrames) else frames[first:stop]
        return replace(self, frames=part, audio=None)

    def recut(self, changed: Sequence[tuple[int, int]], frame_count: int) -> Recut:
        """Plan a file that copies the source's packets except in the ranges ``changed`` of new frames.

        ``frame_count`` is the number of frames of the result. Raises ValueError if that is impossible for
        this source.
        """
        if self.file is None:
            raise ValueError("exact_outside copies packets: the source must be a whole video file")
        return plan_recut(self.file, changed, frame_count)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the frames in chunks of at most ``CHUNK_FRAMES``."""
        return iter(self.frames.split(CHUNK_FRAMES))

    def fitted(self, clip: ClipPlan) -> Footage:
        """Return the source with its frames scaled and cropped around the centre to the size of ``clip``."""
        mode: FitMode = "official" if self.fit == "own" else self.fit
        if isinstance(self.frames, ClipFrames):
            return replace(self, frames=self.frames.fitted(clip.width, clip.height, mode))
        return replace(self, frames=fit_image(self.frames, clip.width, clip.height, mode=mode))

    def on_grid(self, clip: ClipPlan) -> Footage:
        """Return the source as the model sees it: with ``fit`` "own" padded to the size of ``clip``.

        A smaller stage scales these frames down. That crops nothing, because the proportions are equal.
        """
        if self.fit != "own":
            return self
        if isinstance(self.frames, ClipFrames):
            return replace(self, frames=self.frames.padded(clip.width, clip.height))
        return replace(self, frames=pad_image(self.frames, clip.width, clip.height))

    def beside(self, clip: ClipPlan) -> Footage:
        """Return the source at the size of the result: its own with ``fit`` "own", else that of ``clip``."""
        return self if self.fit == "own" else self.fitted(clip)

    def track(self, channels: int, rate: int, seconds: float) -> Tensor:
        """Return the audio (channels, S) at ``rate`` Hz, cut or padded with silence to exactly ``seconds``.

        Without audio it is silence.
        """
        samples = round(seconds * rate)
        if self.audio is None:
            return torch.zeros(channels, samples)
        waveform, own = self.audio
        # Equal rates are left alone, so that samples of the source stay exact.
        waveform = waveform if own == rate else resample(waveform, own, rate)
        return functional.pad(waveform, (0, samples - waveform.shape[1])).expand(channels, -1)


@renamed(pictures="frame_chunks", sounds="audio_chunks", byte_pictures="byte_chunks", sound="audio")
@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """A finished clip, decoded on demand.

    Attributes:
        frame_chunks: a function that yields ``frame_count`` frames in chunks (N, 3, H, W) in [-1, 1].
        audio_chunks: a function that yields chunks (C, S) of audio at ``rate`` Hz.
        byte_chunks: as ``frame_chunks``, but in uint8, converted before they leave the device; None if the
            decoder cannot do that.
        settings: JSON values for the tags of a file.
        unchanged: the video file whose frames these are, if only the audio is new; its packets are copied.
        recut: for a file in which packets of GOPs without new frames are copied, see ``plan_recut``.
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
    recut: Recut | None = None

    def frames(self) -> Tensor:
        """Decode all frames at once: (N, 3, H, W) in [-1, 1]."""
        return torch.cat(list(self.frame_chunks()))

    def audio(self) -> Waveform:
        """Decode all audio at once: (waveform (C, S), rate in Hz)."""
        return torch.cat(list(self.audio_chunks()), dim=1), self.rate

    def save(
        self,
        path: str | os.PathLike[str] | Destination,
        *,
        on_frames: Callable[[int, int], None] | None = None,
        timed: Timed | None = None,
        **encoding: Unpack[EncodingOptions],
    ) -> None:
        """Decode the clip and write it to a file, whose name decides the kind of file.

        Kinds of file and ``encoding`` are those of :meth:`~ltx2_core.run.generation.Generation.save`. If the
        video is ``unchanged`` its packets are copied, unless ``encoding`` sets a video option. Frames of odd
        size lose their last row or column if the pixel format needs even sizes. ``on_frames`` is called with
        (frames written, all frames); ``timed`` measures the seconds of encoding. Raises what
        ``Generation.save`` raises, and ValueError if the packets of an ``unchanged`` video do not fit this
        kind of file but fit another.
        """
        destination, chosen = Destination.of(path), Encoding(**encoding)
        if self.recut is not None:
            self._recut(self.recut, destination, chosen, on_frames)
        elif self.unchanged is not None and self._copied(self.unchanged, destination, chosen):
            if on_frames is not None:
                on_frames(self.frame_count, self.frame_count)
        else:
            if self.unchanged is not None:
                # A warning, because encoding again loses quality.
                log.warning("%s is encoded again", self.unchanged.path)
            save_clip(destination, self.as_clip(), chosen, on_frames=on_frames, timed=timed)

    def _copied(self, clip: VideoClip, destination: Destination, chosen: Encoding) -> bool:
        """Write the packets of ``clip`` with the new audio.

        Returns False if its video has to be encoded instead.
        """
        fmt = destination.format
        # A video option requires encoding, and copying would silently ignore it.
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
        """The frames, the audio and the tags for writing a file."""

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

    def _recut(
        self,
        recut: Recut,
        destination: Destination,
        chosen: Encoding,
        on_frames: Callable[[int, int], None] | None,
    ) -> None:
        def reported() -> Iterator[Tensor]:
            done = 0
            for chunk in self.frame_chunks():
                done += len(chunk)
                yield chunk
                if on_frames is not None:
                    on_frames(done, self.frame_count)

        write_recut(recut, destination, reported(), *self.audio(), metadata=self._tags(), encoding=chosen)

    def _tags(self) -> dict[str, str]:
        return {METADATA_KEY: json.dumps(dict(self.settings))}


def cross_fade(before: Tensor, after: Tensor, at: int, length: int) -> Tensor:
    """Join two tensors along the last axis: ``before`` up to index ``at``, then ``after``.

    Both begin at the same time. The ``length`` samples before ``at`` fade linearly from one to the other;
    earlier ones are those of ``before`` bit for bit.
    """
    # A joint right at the beginning has less before it than the fade is long.
    length = min(length, at)
    # Neither 0 nor 1 occurs, so that every sample of the fade is a mixture.
    weight = torch.arange(1, length + 1, dtype=before.dtype, device=before.device) / (length + 1)
    start = at - length
    mixed = torch.lerp(before[..., start:at], after[..., start:at].to(before), weight)
    return torch.cat((before[..., :start], mixed, after[..., at:].to(before)), dim=-1)


def cropped(chunks: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Crop chunks of frames (N, 3, H, W) to their top left corner of ``size`` (width, height)."""
    width, height = size
    return (chunk[..., :height, :width] for chunk in chunks)


def take(chunks: Iterator[Tensor], first: int, count: int) -> Iterator[Tensor]:
    """Yield chunks with the frames ``first`` to ``first + count - 1`` of a stream of chunks."""
    position, stop = 0, first + count
    for chunk in chunks:
        low, high = max(first - position, 0), min(stop - position, len(chunk))
        position += len(chunk)
        if high > low:
            yield chunk[low:high]
        # The stream is not exhausted, because decoding frames that are dropped takes time.
        if position >= stop:
            return
