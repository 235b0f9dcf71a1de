"""Writes a clip to a file of any kind, frame by frame as it is decoded.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from torch import Tensor

from ..formats import MASTERS
from .audio_out import resampled, write_audio
from .destination import Destination
from .encoder_thread import Check, EncoderThread, Timed
from .encoding import Encoding, audio_encoding, check_encoding, video_encoding
from .image_writer import ImageWriter, check_still
from .writer import VideoWriter

log = logging.getLogger(__name__)

OnFrames = Callable[[int, int], None]
"""Called with (frames written, all frames)."""


class Frames(Protocol):
    """A function that yields the frames of a clip in chunks (N, 3, H, W), uint8 or float in [-1, 1].

    With ``as_bytes`` they are uint8, if the decoder can do that.
    """

    def __call__(self, *, as_bytes: bool) -> Iterator[Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip to be written to a file; frames and audio are decoded only when the writer asks for them.

    Attributes:
        frames: a function that yields the frames; None for audio alone.
        audio: a function that returns consecutive pieces (C, S) and their rate in Hz; None is a silent video.
        tags: texts by name, for a kind of file that has tags.
        hdr: a key of ``HDR_SPACES`` for an HDR clip, whose frames are codes of ACEScct; None for SDR.
    """

    width: int
    height: int
    fps: float
    frame_count: int
    frames: Frames | None
    audio: Callable[[], tuple[Iterable[Tensor], int]] | None
    tags: Mapping[str, str] = field(default_factory=dict)
    hdr: str | None = None


def audio_clip(audio: tuple[Tensor, int], tags: Mapping[str, str]) -> Clip:
    """Make a clip of audio alone from ``audio``, (waveform (C, S), rate in Hz), with the tags ``tags``.

    Its frame rate is the sample rate, so that its number of frames is the number of samples.
    """
    waveform, rate = audio
    return Clip(
        width=0,
        height=0,
        fps=float(rate),
        frame_count=waveform.shape[1],
        frames=None,
        audio=lambda: ((waveform,), rate),
        tags=tags,
    )


def save_clip(
    path: str | os.PathLike[str] | Destination,
    clip: Clip,
    encoding: Encoding,
    *,
    on_frames: OnFrames | None = None,
    timed: Timed | None = None,
) -> None:
    """Write ``clip`` to ``path``, whose name decides the kind of file.

    Memory does not grow with the clip's length. For audio files no frames are decoded, and no audio for kinds
    without audio. Frames of odd size lose their last row or column if the pixel format needs even sizes. An
    HDR clip becomes EXR images, or an HLG master (an HDR video file) with EXR images in a folder next to it.
    ``on_frames`` is called with (frames written, all frames). ``timed(name)`` is a context that counts the
    seconds of its block as those of the work called ``name``, such as "encode"; None counts nothing. Frames
    are encoded in a thread of their own while the next ones are decoded, except for stdout, and "encode" is
    what the caller waits for that thread. No file is left if writing fails. Raises ValueError, before
    anything is decoded, for an ``encoding`` that the kind of file does not support, and what the writers
    raise.
    """
    if encoding.hdr not in (None, clip.hdr):
        raise ValueError(f"hdr={encoding.hdr}: this clip was sampled with hdr={clip.hdr}; leave it out")
    destination = Destination.of(path, hdr=clip.hdr is not None)
    shows = clip.frames is not None and bool(destination.format.video)
    # The audio alone of an HDR clip is as any other.
    encoding = replace(encoding, hdr=clip.hdr if shows else None)
    # Everything that can be wrong is found before anything is decoded.
    check_encoding(destination.format, encoding, audio_alone=clip.frames is None)
    check_still(destination, clip.frame_count)
    timed = timed or (lambda name: nullcontext())
    for note in destination.notes(frames=clip.frames is not None):
        log.info(note)
    # An audio file of a clip with video does not decode its frames, the longest part of the work.
    if clip.frames is None or not destination.format.video:
        assert clip.audio is not None
        pieces, rate = clip.audio()
        with timed("encode"):
            write_audio(destination, pieces, rate, metadata=clip.tags, encoding=encoding)
        if on_frames is not None:
            on_frames(clip.frame_count, clip.frame_count)
    elif destination.is_images:
        with ImageWriter(
            destination, width=clip.width, height=clip.height, metadata=clip.tags, encoding=encoding
        ) as images:
            _write_frames((images,), clip, clip.frames, (), on_frames, timed)
    else:
        _save_video(destination, clip, clip.frames, encoding, on_frames, timed)


def check_destination(destination: Destination, encoding: Encoding) -> None:
    """Check that a clip can be written to ``destination``, and an HDR video also to its folder of EXR images.

    An HDR video file (an HLG master) has that folder next to it. Raises what :meth:`Destination.check`
    raises, and ValueError for an HDR video on stdout, where no folder can be.
    """
    destination.check()
    if encoding.hdr is not None and destination.format.name in MASTERS:
        if destination.is_stdout:
            raise ValueError(
                f"hdr={encoding.hdr}: an HLG master comes with a folder of EXR images, which stdout has not: "
                "give a file name"
            )
        destination.exr_folder.check()


def _save_video(
    destination: Destination,
    clip: Clip,
    frames: Frames,
    encoding: Encoding,
    on_frames: OnFrames | None,
    timed: Timed,
) -> None:
    audio = audio_encoding(destination.format, encoding)
    pieces: Iterable[Tensor] = ()
    rate = None
    if audio is not None and clip.audio is not None:
        pieces, own = clip.audio()
        rate = audio.codec.rate_for(own)
        # Not every codec has the rate of the vocoder.
        pieces = resampled(pieces, own, rate)
    video = video_encoding(destination.format, encoding)
    assert video is not None
    columns, rows = video.multiples
    writer = VideoWriter(
        destination,
        width=clip.width // columns * columns,
        height=clip.height // rows * rows,
        fps=clip.fps,
        sample_rate=rate,
        metadata=clip.tags,
        encoding=encoding,
    )
    images = None
    if clip.hdr is not None:
        # A master is for viewing; the images have the light that the codec rounds.
        images = ImageWriter(
            destination.exr_folder,
            width=clip.width,
            height=clip.height,
            metadata=clip.tags,
            encoding=Encoding(hdr=clip.hdr),
        )
    # The images are complete before the master is: a failure leaves neither of them.
    with writer, images or nullcontext():
        writers = (writer,) if images is None else (writer, images)
        _write_frames(writers, clip, frames, pieces, on_frames, timed)


def _write_frames(
    writers: tuple[VideoWriter | ImageWriter, ...],
    clip: Clip,
    frames: Frames,
    pieces: Iterable[Tensor],
    on_frames: OnFrames | None,
    timed: Timed,
) -> None:
    """Write the chunks that ``frames`` yields with every writer, and the audio with the first writer only.

    ``pieces`` are the audio, consecutive waveforms (C, S). After each chunk of frames so many pieces are
    written that the audio reaches the end of the last frame. ``on_frames`` and ``timed`` are those of
    :func:`save_clip`.
    """
    # Audio follows the frames and is not written first: a long clip would otherwise be buffered whole.
    rest, samples, frame_count, writer = iter(pieces), 0, 0, writers[0]
    rate = writer.sample_rate if isinstance(writer, VideoWriter) else None
    with EncoderThread(
        on_written=None if on_frames is None else lambda done: on_frames(done, clip.frame_count),
        timed=timed,
        # Nobody may read stdout, and Ctrl-C ends a write that waits in the main thread alone.
        own_thread=not writer.destination.is_stdout,
    ) as encoder:
        for chunk in frames(as_bytes=not writer.takes_floats):
            frame_count += len(chunk)
            heard: list[Tensor] = []
            while rate is not None and samples < frame_count / clip.fps * rate:
                piece = next(rest, None)
                if piece is None:
                    break
                samples += piece.shape[1]
                heard.append(piece)
            encoder.submit(partial(_encode, writers, chunk, heard))
            # No name may hold these frames while the next ones are decoded.
            del chunk


def _encode(
    writers: tuple[VideoWriter | ImageWriter, ...], chunk: Tensor, heard: Iterable[Tensor], check: Check
) -> int:
    """Write the frames ``chunk`` with every writer, then the audio ``heard`` with the first one.

    Returns how many frames are written so far.
    """
    for one in writers:
        # The last row and column are cut, not scaled away, since scaling would blur every pixel.
        one.write_frames(chunk[..., : one.height, : one.width], check=check)
    for piece in heard:
        assert isinstance(writers[0], VideoWriter)
        writers[0].write_audio(piece)
    return writers[0].frame_count
