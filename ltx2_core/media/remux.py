"""Writes a video file with another audio track; the video packets are copied and not encoded again.

Letters: C channels, S samples.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from torch import Tensor

from ..formats import FORMATS, Format
from .audio_out import resampled
from .container import open_media
from .destination import Destination
from .encoding import AudioEncoding, Encoding, audio_encoding
from .other_tracks import OtherTracks, copied_stream, fits, move_packet, other_tracks, plain_tags
from .tracks import AudioTrack, checked_audio
from .writer import open_output

AHEAD_S = 0.5
"""How many seconds audio and subtitles are written before the video of their time."""


class CannotCopy(ValueError):
    """Raised if the video packets of a file cannot be copied into another container.

    The container may not support the codec, or the packets have no time stamps.
    """


def copy_with_audio(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str] | Destination,
    waveform: Tensor,
    rate: int,
    *,
    origin_s: float = 0.0,
    metadata: Mapping[str, str] | None = None,
    encoding: Encoding | None = None,
) -> None:
    """Write the video packets of ``source`` with new audio: ``waveform`` (C, S), C 1 or 2, at ``rate`` Hz.

    Time stamps, rotation and colour tags are copied too, and so are subtitles, further audio tracks, chapters
    and attachments that the container can hold; the source's first audio track is not. The new audio begins
    at the time stamp ``origin_s`` (seconds) of the source. Of ``encoding`` only the audio options are used.

    Raises CannotCopy for a codec that the container cannot hold, for a kind of file without audio and for
    packets without times, ValueError for audio that cannot be encoded, and what :func:`open_media` and
    :class:`VideoWriter` raise.
    """
    destination = Destination.of(path)
    track_encoding = audio_encoding(destination.format, encoding or Encoding())
    if track_encoding is None:
        raise CannotCopy(f"a {destination.format.name} file cannot hold video with audio")
    # Checked before the output is opened, so that nothing is written for a bad input.
    samples = checked_audio(waveform)
    destination.check()
    with open_media(source, "video") as container:
        # New tags come last, so that the settings of this run replace those of the run that made the source.
        tags = {**plain_tags(container.metadata), **(metadata or {})}
        with open_output(destination, tags) as output:
            video = _video_copy(Path(source), container, output, destination.format)
            # All streams have to exist before the first packet, which writes the header.
            audio = track_of(output, track_encoding, samples, rate)
            with other_tracks(source, output, destination.format, origin_s) as others:
                try:
                    _mux(Path(source), container, video, others, audio, Fraction(origin_s))
                except av.error.FFmpegError as error:
                    raise CannotCopy(f"the packets of {source} cannot be copied ({error})") from error


def check_copy(source: str | os.PathLike[str], fmt: Format) -> str | None:
    """Check whether the video packets of ``source`` can be copied into a file of the kind ``fmt``.

    Only the header of ``source`` is read. Returns None if they can be copied, and for a file without video
    that can be decoded. If no kind of file can hold them, returns a sentence that says that the video will be
    encoded again. Raises ValueError, which names Matroska, if that kind can hold them and ``fmt`` cannot.
    """
    with open_media(source, "video") as container:
        # The reader of the source has a better message for these.
        if not container.streams.video or container.streams.video[0].codec_context is None:
            return None
        video = container.streams.video[0]
        if fits(video, fmt):
            return None
        name = video.codec_context.name
        matroska = FORMATS["mkv"]
        # Almost everything fits there, and what does not has no use in another kind of file either.
        if fits(video, matroska):
            # Encoding loses, so that the user has to choose it.
            raise ValueError(
                f"{fmt.suffixes[0]} cannot hold the {name} video of {source}: name the output "
                f"{matroska.suffixes[0]} to copy it, or choose a video codec ({fmt.video[0]}) to "
                "encode it again"
            )
    return f"{source}: no kind of file that is written holds its {name} video, so it is encoded again"


def _video_copy(path: Path, container: Any, output: Any, fmt: Format) -> Any:
    """Create a video stream in ``output``, a file of kind ``fmt``, for copied packets, and return it.

    ``container`` is the opened source, whose video is copied; ``path`` is its file, for the message. Raises
    CannotCopy if ``fmt`` cannot hold its codec.
    """
    source = container.streams.video[0]
    if not fits(source, fmt):
        name = source.codec_context.name
        raise CannotCopy(f"a {fmt.suffixes[0]} file cannot hold the {name} video of {path}")
    return copied_stream(source, output)


def track_of(output: Any, encoding: AudioEncoding, samples: Tensor, rate: int) -> AudioTrack:
    """Create a stereo audio track in a container of PyAV and buffer all ``samples`` (C, S) at ``rate`` Hz.

    They are resampled to 48000 Hz if the codec does not support their rate, and are not encoded yet.
    """
    target = encoding.codec.rate_for(rate)
    audio = AudioTrack(output, encoding, target)
    for piece in resampled((samples,), rate, target):
        audio.add(piece)
    return audio


def _mux(
    source: Path, container: Any, video: Any, others: OtherTracks, audio: AudioTrack, origin: Fraction
) -> None:
    """Copy the video packets of ``container``, the opened file ``source``, to the new stream ``video``.

    Before each packet ``audio`` is encoded and ``others`` are copied up to ``AHEAD_S`` seconds after its
    time. ``origin``, in seconds, is subtracted from the times of the video. Raises CannotCopy for a packet
    without a time.
    """
    for packet in container.demux(container.streams.video[0]):
        if packet.dts is None and packet.pts is None:
            # Frames would be lost without an error.
            if packet.size:
                raise CannotCopy(f"{source} has packets without times, which cannot be copied")
            # The last packet of the demuxer is empty: it only flushes decoders.
            continue
        move_packet(packet, origin)
        if packet.dts is not None:
            # Ahead of the video, so that players need not seek.
            until_s = float(packet.dts * packet.time_base) + AHEAD_S
            audio.encode(round(until_s * audio.rate))
            others.copy(until_s)
        packet.stream = video
        video.container.mux(packet)
    audio.encode()
    audio.finish()
    others.copy()
