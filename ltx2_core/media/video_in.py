"""Reads video files as clips of constant rate, decoding one frame at a time from any position.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .audio_in import audio_from, has_audio
from .bright_files import refuse_exr
from .exr import is_exr, is_exr_folder
from .hdr_space import HDR_SPACES, HdrSpace
from .images import BLACK, Colour
from .packets import VideoFile
from .stills import AnimatedWebP, ExrFolder, ImageFolder, is_animated_webp
from .stored import StoredFrames
from .timeline import Timeline

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """A part of a video file. This is only its description; :meth:`frames` decodes it.

    ``width`` and ``height`` are in square pixels, after rotation. The part begins at ``start_s`` seconds and
    has ``frame_count`` frames (at most ``max_frames``) at a constant ``fps``. A file of variable rate is
    resampled by its time stamps, see :class:`~ltx2_core.media.timeline.Timeline`. Transparent pixels are
    blended with ``background``, RGB in [0, 1]. ``notes`` are sentences that say what was changed. ``hdr`` is
    the colour space of a folder of EXR images, else None.
    """

    path: Path
    width: int
    height: int
    fps: float
    frame_count: int
    start_s: float
    max_frames: int | None
    has_audio: bool
    background: Colour
    source: StoredFrames = field(repr=False)
    hdr: HdrSpace | None = None

    @property
    def timeline(self) -> Timeline:
        return self.source.timeline

    @property
    def notes(self) -> tuple[str, ...]:
        return self.timeline.notes

    def frames(self, first: int = 0, count: int | None = None) -> Iterator[Tensor]:
        """Yield frames (3, H, W) in order, ``count`` of them from number ``first`` on.

        They are uint8, or for EXR images float32 with the numbers of the files. ``first`` counts from the
        start of this part; ``count`` None is up to the end of the part. Every call decodes again, from the
        last frame before ``first`` that the file stores whole.
        """
        timeline, offset = self.timeline, self.timeline.frame_at(self.start_s)
        stop = self.frame_count if count is None else min(first + count, self.frame_count)
        at, stop = offset + first, offset + stop
        if at >= stop:
            return
        stored = self.source.stored(timeline.stored(at))
        shown = next(stored, None)
        # A frame is on screen until the next one appears, so that its last number needs the one that follows.
        pixels: Tensor | None = None
        while shown is not None and at < stop:
            # A file may end early; the frames after its last one are not made up.
            following = next(stored, None) if timeline.stored(stop - 1) > shown.number else None
            last = timeline.last_repeat(shown.number) if following is None else following.number - 1
            while at < stop and timeline.stored(at) <= last:
                # A frame that a higher rate repeats is converted once.
                pixels = shown.rgb() if pixels is None else pixels
                yield pixels
                at += 1
            shown, pixels = following, None

    def read(self, first: int = 0, count: int | None = None) -> Tensor:
        """Decode ``count`` frames from number ``first`` of this part on: (N, 3, H, W) float32 in [0, 1].

        Those of EXR images are codes of ACEScct. ``count`` None is up to the end of the part. Raises
        ValueError if there are no frames or the file is damaged.
        """
        frames = list(self.frames(first, count))
        if not frames:
            self.check_not_empty()
            raise ValueError(f"{self.path} has no frame {first}; it has {self.frame_count}")
        return self.coded(self.stacked(frames))

    def stacked(self, frames: list[Tensor]) -> Tensor:
        """Join frames of :meth:`frames` to (N, 3, H, W) float32, from 0 for black to 1 for white.

        Only EXR images have values above 1. The caller scales and crops frames at this point, in linear
        light, and :meth:`coded` brings them into [0, 1] afterwards.
        """
        pixels = torch.stack(frames).float()
        # In place, since the frames of a chunk are most of what is held of a source.
        return pixels.div_(255.0) if self.hdr is None else pixels

    def coded(self, pixels: Tensor) -> Tensor:
        """Convert frames (N, 3, H, W) that :meth:`stacked` returned to float32 in [0, 1].

        Those of EXR images become codes of ACEScct; others are in [0, 1] already and are returned unchanged.
        """
        return pixels if self.hdr is None else self.hdr.to_codes(pixels)

    def check_not_empty(self) -> None:
        """Raise ValueError if this part of the file has no frames."""
        if self.frame_count < 1:
            raise ValueError(f"{self.path} has no frame from {self.start_s:g} s on; choose an earlier start")

    def warn_of_rate(self, fps: float) -> None:
        """Log a warning if ``fps`` differs by more than 1 % from the frame rate of this part.

        Played frame by frame at ``fps`` it would be faster or slower. Folders of images state no frame rate
        and give no warning.
        """
        # A folder of images states no rate.
        if isinstance(self.source, VideoFile | AnimatedWebP) and abs(self.fps - fps) > 0.01 * fps:
            log.warning(
                "%s has %.6g fps and the clip %.6g: it is followed frame by frame, at %.3g times its speed; "
                "set --fps %.6g for its own",
                *(self.path.name, self.fps, fps, fps / self.fps, self.fps),
            )

    def audio(self) -> tuple[Tensor, int] | None:
        """Read the audio of this part: (waveform (C, S), sample rate in Hz).

        It ends after ``max_frames`` frames, or with the audio of the file if that is None. None for a file
        without audio. Raises what ``read_audio`` raises.
        """
        if not self.has_audio:
            return None
        # Without a limit the audio is read to its end, which may be later than the last frame.
        duration_s = None if self.max_frames is None else self.max_frames / self.fps
        # Time stamps of audio count from the start of the file, those of frames from the first one.
        return audio_from(self.path, self.timeline.zero_s + self.start_s, duration_s)


def read_video(
    path: str | os.PathLike[str],
    *,
    max_frames: int | None = None,
    start_s: float = 0.0,
    background: Colour = BLACK,
    hdr: str | None = None,
    fps: float | None = None,
) -> VideoClip:
    """Describe a part of a video file; reads its time stamps and decodes only its first frame.

    ``path`` may also be an animated WebP file, or a folder of images at 24 frames per second. The part begins
    at ``start_s`` seconds and has at most ``max_frames`` frames. Transparent pixels are blended with
    ``background``, RGB in [0, 1]. HDR video becomes SDR, see :mod:`~ltx2_core.media.hdr`, and interlaced
    video progressive, see :mod:`~ltx2_core.media.deinterlace`.

    A folder of EXR images is a clip of the colour space ``hdr``, a key of ``HDR_SPACES``, at ``fps`` frames
    per second (None for 24); both have no effect for other files. Raises FileNotFoundError for a missing
    file, and ValueError for one without readable video or frame rate, for a folder of EXR images without
    ``hdr``, for a single EXR image, for ``start_s`` below 0 and for ``max_frames`` below 1.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1; got {max_frames}")
    if not start_s >= 0:
        raise ValueError(f"start_s must be 0 or later; got {start_s}")
    file = Path(path)
    # The first frame has to be decoded: rotation, transfer function and interlacing are properties of frames.
    source = _open(file, background, hdr, fps)
    timeline = source.timeline
    left = max(timeline.frame_count - timeline.frame_at(start_s), 0)
    for note in timeline.notes:
        log.warning("%s: %s", file.name, note)
    return VideoClip(
        path=file,
        width=source.width,
        height=source.height,
        fps=timeline.fps,
        frame_count=left if max_frames is None else min(left, max_frames),
        start_s=start_s,
        max_frames=max_frames,
        has_audio=isinstance(source, VideoFile) and has_audio(file),
        background=background,
        source=source,
        hdr=HDR_SPACES[hdr] if hdr is not None and isinstance(source, ExrFolder) else None,
    )


def _open(file: Path, background: Colour, hdr: str | None, fps: float | None) -> StoredFrames:
    if is_exr_folder(file):
        if hdr is None:
            raise ValueError(
                f"{file} is a folder of EXR images, whose light is not limited to white: convert them to "
                "PNG, or edit them by ltx2 retake, which is told what colours they have with hdr (--hdr), "
                f"one of {', '.join(HDR_SPACES)}"
            )
        return ExrFolder.open(file, fps)
    if hdr is not None and is_exr(file):
        raise ValueError(f"{file} is one EXR image, and a clip has many: give a folder of EXR images")
    refuse_exr(file)
    if file.is_dir():
        return ImageFolder.open(file, background)
    # Told by content and before FFmpeg sees the file, because not every FFmpeg decodes an animation.
    if file.is_file() and is_animated_webp(file):
        return AnimatedWebP.open(file, background)
    return VideoFile.open(file, background)
