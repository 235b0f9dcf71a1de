"""Clips of a dataset: which frames of a file they have, and reading them, by time stamps.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..media import VideoClip, load_image, read_audio, read_video
from ..media.audio_in import audio_end_s, has_audio
from .buckets import CENTRE, Bucket, Place, choose_bucket, crop_of, official_mask, reference_frames, resize
from .rows import IMAGES, Row

Fit = Callable[[Tensor, Bucket], Tensor]
"""Brings frames (N, 3, H, W) to the size of a bucket."""

AudioColumn = Literal["audio", "reference_audio", "audio_mask"]
"""The columns of a dataset that hold audio."""

ROUNDING_S = 0.1
"""Audio tracks end so much before or after the frames without being shorter."""

IMAGE_FPS = 24.0
"""Frames per second of an image; the official trainer takes 1, which inference never does."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of a dataset: ``width`` and ``height`` in pixels, its frame rate, frames and seconds of audio.

    Of an audio file the first four are 0; ``audio_s`` is None without audio. ``audio_end_s`` is where the
    audio of a video ends, None if its file does not say.
    """

    path: Path
    width: int = 0
    height: int = 0
    fps: float = 0.0
    frames: int = 0
    audio_s: float | None = None
    audio_end_s: float | None = None

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in IMAGES


def probe(row: Row) -> Source:
    """Read size, rate, length and audio of the main file of ``row``; raises ValueError with its place."""
    try:
        audio = row.audio
        if row.video is None:
            assert audio is not None
            waveform, rate = read_audio(audio)
            return Source(path=audio, audio_s=waveform.shape[1] / rate)
        if row.video.suffix.lower() in IMAGES:
            image = load_image(row.video)
            return Source(
                path=row.video, width=image.shape[3], height=image.shape[2], fps=IMAGE_FPS, frames=1
            )
        clip = read_video(row.video)
        if audio is None and clip.has_audio:
            audio = row.video
        seconds = clip.frame_count / clip.fps if audio is not None and has_audio(audio) else None
        end_s = None if audio is None or seconds is None else audio_end_s(audio)
    except (ValueError, OSError) as error:
        raise ValueError(f"{row.where}: {error}") from error
    return Source(
        path=row.video,
        width=clip.width,
        height=clip.height,
        fps=clip.fps,
        frames=clip.frame_count,
        audio_s=seconds,
        audio_end_s=end_s,
    )


@dataclass(frozen=True, kw_only=True)
class PlannedClip:
    """A clip that will be encoded: frames of ``source`` from ``start_s`` seconds on, as ``bucket``.

    ``fps`` is its frame rate, that of the file or the one it is resampled to. ``bucket`` is None for audio
    alone, which has ``audio_s`` seconds; None as ``audio_s`` is a clip without audio. ``place`` is where it
    is cut out of frames that are larger.
    """

    row: Row
    source: Source
    bucket: Bucket | None
    fps: float
    start_s: float = 0.0
    audio_s: float | None = None
    place: Place = CENTRE

    @property
    def seconds(self) -> float:
        if self.bucket is None:
            return self.audio_s or 0.0
        return self.bucket.frames / self.fps

    @property
    def name(self) -> str:
        """The size of the clip, such as ``768x512x49``, or the length of audio alone, ``4s``."""
        return f"{self.audio_s:g}s" if self.bucket is None else self.bucket.name

    @property
    def silent_s(self) -> float:
        """Seconds of silence behind audio that ends before the frames do; 0 is none."""
        end_s = self.source.audio_end_s
        if self.bucket is None or self.audio_s is None or end_s is None:
            return 0.0
        missing = self.start_s + self.audio_s - end_s
        return missing if missing > ROUNDING_S else 0.0

    @property
    def cropped(self) -> float:
        """The share of each frame that is cut away, from 0 to 1."""
        if self.bucket is None:
            return 0.0
        crop = crop_of(self.source.width, self.source.height, self.bucket)
        return 1 - self.bucket.width * self.bucket.height / (crop.rows * crop.columns)

    @property
    def enlarged(self) -> float:
        """How much larger the frames become along a side; 1 or less is not enlarged."""
        if self.bucket is None:
            return 1.0
        crop = crop_of(self.source.width, self.source.height, self.bucket)
        return crop.rows / self.source.height


def plan_clips(
    row: Row,
    source: Source,
    buckets: Sequence[Bucket],
    *,
    fps: float | None = None,
    chunks: bool = False,
    slide: int | None = None,
    uniform: int | None = None,
    scenes: Sequence[tuple[float, float]] = (),
    audio_lengths: Sequence[float] = (2.0, 4.0, 8.0),
) -> tuple[PlannedClip, ...]:
    """The clips that a file gives: its beginning, or with ``chunks`` all parts of the same length in turn.

    With ``slide`` a clip begins every so many frames, with ``uniform`` there are so many at even distances
    from the first frame to the last that can be, or fewer if there are not as many frames.

    ``scenes``, each its first and last second, are cut in this way one by one, and short ones left out.
    ``fps`` resamples the video by nearest time; None keeps its own rate. An audio file without frames has the
    largest of ``audio_lengths`` seconds that it fills. No clip if the file is too short for every bucket.
    """
    if row.video is None:
        lengths = [length for length in audio_lengths if length <= (source.audio_s or 0) + 1e-6]
        if not lengths:
            return ()
        length = max(lengths)
        count = int((source.audio_s or 0) / length + 1e-6) if chunks else 1
        return tuple(
            PlannedClip(row=row, source=source, bucket=None, fps=0.0, start_s=n * length, audio_s=length)
            for n in range(count)
        )
    rate = source.fps if fps is None or source.is_image else fps
    found: list[PlannedClip] = []
    for first, last in _parts(source, scenes):
        frames = 1 if source.is_image else int((last - first - 1) * rate / source.fps + 1e-6) + 1
        bucket = choose_bucket(buckets, source.width, source.height, frames)
        if bucket is None:
            continue
        seconds = bucket.frames / rate
        starts = [n * seconds for n in range(frames // bucket.frames if chunks else 1)]
        if slide is not None or uniform is not None:
            starts = [n / rate for n in _starts(frames - bucket.frames, slide, uniform)]
        found += [
            PlannedClip(
                row=row,
                source=source,
                bucket=bucket,
                fps=rate,
                start_s=first / source.fps + start_s,
                audio_s=seconds if _is_heard(source, first / source.fps + start_s) else None,
            )
            for start_s in starts
        ]
    return tuple(found)


def _starts(last: int, slide: int | None, uniform: int | None) -> list[int]:
    """The first frames of clips that begin from 0 to ``last``, one every ``slide`` or ``uniform`` in all."""
    if slide is not None:
        return list(range(0, last + 1, slide))
    assert uniform is not None
    count = min(uniform, last + 1)
    return [0] if count == 1 else [n * last // (count - 1) for n in range(count)]


def _is_heard(source: Source, start_s: float) -> bool:
    """Whether a clip that begins at ``start_s`` seconds has any audio; silence behind its end is no data."""
    if source.audio_s is None:
        return False
    # Less than a frame of audio is the rounding of the container.
    return source.audio_end_s is None or start_s < source.audio_end_s - ROUNDING_S


def _parts(source: Source, scenes: Sequence[tuple[float, float]]) -> Iterator[tuple[int, int]]:
    """The first frame of each scene and the one after its last; the whole file without ``scenes``."""
    for start_s, end_s in scenes:
        yield round(start_s * source.fps), min(source.frames, round(end_s * source.fps))
    if not scenes:
        yield 0, source.frames


def read_frames(clip: PlannedClip, numbers: Sequence[int] | None = None) -> Tensor:
    """Read the frames of a clip: (N, 3, H, W) in [0, 1], of the size and length of its bucket.

    ``numbers``, in rising order, are those that are read; None reads all.
    """
    assert clip.bucket is not None
    wanted = range(clip.bucket.frames) if numbers is None else numbers
    return _frames(clip.source.path, clip, clip.bucket, list(wanted))


def read_reference(clip: PlannedClip, space: int, time: int) -> Tensor:
    """Read the reference video of a clip, smaller by ``space`` and with every ``time``-th frame."""
    assert clip.bucket is not None
    assert clip.row.reference_video is not None
    smaller = clip.bucket.reference(space, time)
    return _frames(clip.row.reference_video, clip, smaller, reference_frames(clip.bucket.frames, time))


def read_mask(clip: PlannedClip, *, official: bool = False) -> Tensor:
    """Read the mask of a clip, an image or a video: (N, 1, H, W) in [0, 1], cut like its frames.

    With ``official`` it is distorted to their size instead.
    """
    assert clip.bucket is not None
    assert clip.row.video_mask is not None
    path, count = clip.row.video_mask, clip.bucket.frames
    still = path.suffix.lower() in IMAGES
    fit: Fit | None = partial(official_mask, image=still) if official else None
    frames = _frames(path, clip, clip.bucket, list(range(1 if still else count)), fit)
    return frames.mean(dim=1, keepdim=True).expand(count, -1, -1, -1)


def read_clip_audio(clip: PlannedClip, column: AudioColumn = "audio") -> tuple[Tensor, int]:
    """Read the audio of a clip, its reference or its mask: (waveform (C, S), sample rate in Hz).

    It is exactly as long as the frames: longer audio is cut, shorter audio ends in silence. It is never
    stretched or normalised.
    """
    assert clip.audio_s is not None
    named: dict[AudioColumn, Path | None] = {
        "audio": clip.row.audio or clip.row.video,
        "reference_audio": clip.row.reference_audio,
        "audio_mask": clip.row.audio_mask,
    }
    path = named[column]
    assert path is not None
    start_s = clip.start_s
    if path == clip.row.video:
        # Time stamps of audio count from the start of the file, those of frames from the first one.
        start_s += read_video(path).timeline.zero_s
    waveform, rate = read_audio(path, start_s=start_s, duration_s=clip.audio_s)
    samples = audio_samples(clip.audio_s, rate)
    return F.pad(waveform[:, :samples], (0, max(0, samples - waveform.shape[1]))), rate


def audio_samples(seconds: float, rate: int) -> int:
    """The number of samples of ``seconds`` of audio at ``rate`` Hz, rounded down."""
    return int(seconds * rate)


def _frames(
    path: Path, clip: PlannedClip, bucket: Bucket, numbers: Sequence[int], fit: Fit | None = None
) -> Tensor:
    """Read frames ``numbers`` of a clip, counted at its rate, from ``path`` at the size of ``bucket``.

    ``fit`` brings frames to that size; None cuts them at the place of the clip.
    """
    fit = partial(resize, place=clip.place) if fit is None else fit
    if path.suffix.lower() in IMAGES:
        return fit(load_image(path), bucket)
    video = read_video(path, start_s=clip.start_s)
    stored = [_nearest(video, number, clip.fps) for number in numbers]
    if stored[-1] >= video.frame_count:
        raise ValueError(
            f"{clip.row.where}: {path.name} has {video.frame_count} frames from {clip.start_s:g} s on, and "
            f"{stored[-1] + 1} are needed"
        )
    frames: list[Tensor] = []
    last: Tensor | None = None
    remaining = iter(stored)
    target = next(remaining, None)
    for number, frame in enumerate(video.frames(stored[0]), start=stored[0]):
        if target is None:
            break
        if number == target:
            # Resized at once, so that a large file is never whole in memory.
            last = fit(frame[None].float() / 255, bucket)
            while target == number:
                frames.append(last)
                target = next(remaining, None)
    if len(frames) != len(stored):
        raise ValueError(f"{clip.row.where}: {path.name} ends after {len(frames)} of {len(stored)} frames")
    return torch.cat(frames)


def _nearest(video: VideoClip, number: int, fps: float) -> int:
    """The frame of ``video`` that is nearest in time to frame ``number`` of a clip at ``fps``."""
    return number if fps == video.fps else round(number * video.fps / fps)
