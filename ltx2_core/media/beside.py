"""Writes new frames beside the other tracks of a video file, such as audio, which are copied as packets.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import os
from functools import partial

from torch import Tensor

from ..formats import FORMATS, Format
from .container import open_media
from .destination import Destination
from .encoder_thread import Check, EncoderThread, Timed
from .encoding import Encoding, check_encoding, video_encoding
from .other_tracks import fits, other_tracks, plain_tags
from .remux import AHEAD_S
from .save import Clip, OnFrames
from .tracks import VideoTrack
from .writer import frame_rate, open_output


def save_beside(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str] | Destination,
    clip: Clip,
    encoding: Encoding,
    *,
    origin_s: float = 0.0,
    on_frames: OnFrames | None = None,
    timed: Timed | None = None,
) -> None:
    """Write the frames of ``clip`` with all tracks of ``source`` but its main video, which are copied.

    No packet of audio is decoded. The frames begin at the time stamp ``origin_s`` (seconds) of the source.
    Tags of the source are copied too; those of ``clip`` replace them. The audio of ``clip`` is not used.
    ``on_frames`` and ``timed`` are those of :func:`~ltx2_core.media.save.save_clip`. No file is left if
    writing fails. Raises what that function and :func:`check_audio_copy` raise.
    """
    destination = Destination.of(path)
    fmt = destination.format
    check_encoding(fmt, encoding)
    check_audio_copy(source, fmt)
    video = video_encoding(fmt, encoding)
    assert video is not None
    assert clip.frames is not None
    columns, rows = video.multiples
    # The last row and column of an odd size are cut, as in other files.
    width, height = clip.width // columns * columns, clip.height // rows * rows
    video.check_size(width, height, clip.fps)
    destination.check()
    rate = frame_rate(clip.fps)
    with open_media(source, "video") as container:
        tags = {**plain_tags(container.metadata), **clip.tags}
    with open_output(destination, tags) as output:
        track = VideoTrack(output, video, width=width, height=height, fps=rate)
        # All streams have to exist before the first frame, which writes the header.
        with other_tracks(source, output, fmt, origin_s, with_audio=True) as others:

            def encode(chunk: Tensor, check: Check) -> int:
                # Ahead of the video, so that players need not seek.
                others.copy(float((track.frame_count + len(chunk)) / rate) + AHEAD_S)
                for frame in chunk[..., :height, :width]:
                    check()
                    track.encode(frame)
                return track.frame_count

            with EncoderThread(
                on_written=None if on_frames is None else lambda done: on_frames(done, clip.frame_count),
                timed=timed,
                # Nobody may read stdout, and Ctrl-C ends a write that waits in the main thread alone.
                own_thread=not destination.is_stdout,
            ) as encoder:
                for chunk in clip.frames(as_bytes=not video.deep):
                    encoder.submit(partial(encode, chunk))
                    # No name may hold these frames while the next ones are decoded.
                    del chunk
            track.finish()
            others.copy()


def check_audio_copy(source: str | os.PathLike[str], fmt: Format) -> None:
    """Raise ValueError if files of the kind ``fmt`` cannot hold the main audio of ``source`` as it is.

    The message names a kind that can. Only headers are read.
    """
    with open_media(source, "video") as container:
        for stream in container.streams.audio[:1]:
            if stream.codec_context is not None and not fits(stream, fmt):
                raise ValueError(
                    f"{fmt.suffixes[0]} cannot hold the {stream.codec_context.name} audio of {source}, which "
                    f"is copied: name the output {FORMATS['mkv'].suffixes[0]}"
                )
