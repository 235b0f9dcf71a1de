"""Writes a video file with another audio track; the video packets are copied and not encoded again.

Letters: C channels, S samples.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from torch import Tensor

from ..formats import FORMATS, Format
from .audio_out import resampled
from .container import open_media
from .destination import Destination
from .encoding import AudioEncoding, Encoding, audio_encoding
from .tracks import AudioTrack, checked_audio
from .writer import open_output

log = logging.getLogger(__name__)


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
    """Write the video packets of ``source`` with new audio ``waveform`` (C, S), C 1 or 2, at ``rate`` Hz.

    Time stamps, rotation, colour tags, and subtitles that the container can hold are copied too; the source's
    audio is not. The new audio begins at the time stamp ``origin_s`` (seconds) of the source. ``metadata``
    are tags, texts by name. Of ``encoding`` only the audio options are used.

    Raises CannotCopy for a codec that the container cannot hold and packets without times, ValueError for
    audio that cannot be encoded, and what :func:`open_media` and :class:`VideoWriter` raise.
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
            copies = _copied_streams(Path(source), container, output, destination.format)
            # All streams have to exist before the first packet, which writes the header.
            audio = track_of(output, track_encoding, samples, rate)
            try:
                _mux(container, output, copies, audio, origin_s)
            except av.error.FFmpegError as error:
                raise CannotCopy(f"the packets of {source} cannot be copied ({error})") from error


def check_copy(source: str | os.PathLike[str], fmt: Format) -> str | None:
    """Check whether the video packets of ``source`` can be copied into a file of the kind ``fmt``.

    Only the header of ``source`` is read. Returns None if they can be copied. If no kind of file can hold
    them, returns a sentence that says that the video will be encoded again. Raises ValueError if only another
    kind can hold them, and names that kind.
    """
    with open_media(source, "video") as container:
        # The reader of the source has a better message for these.
        if not container.streams.video or container.streams.video[0].codec_context is None:
            return None
        video = container.streams.video[0]
        if _fits(video, fmt):
            return None
        name = video.codec_context.name
        matroska = FORMATS["mkv"]
        # Almost everything fits there, and what does not has no use in another kind of file either.
        if _fits(video, matroska):
            # Encoding loses, so that the user has to choose it.
            raise ValueError(
                f"{fmt.suffixes[0]} cannot hold the {name} video of {source}: name the output "
                f"{matroska.suffixes[0]} to copy it, or choose a video codec ({fmt.video[0]}) to "
                "encode it again"
            )
    return f"{source}: no kind of file that is written holds its {name} video, so it is encoded again"


def _copied_streams(source: Path, container: Any, output: Any, fmt: Format) -> dict[int, Any]:
    """Create a stream in ``output`` for each stream of the source that a file of kind ``fmt`` can hold.

    ``container`` is the opened source, ``output`` the opened result, both of PyAV. Returns a dict: number of
    the source's stream -> new stream. Raises CannotCopy if the first video stream is not among them;
    ``source`` is its path, for the message.
    """
    copies = {}
    for stream in container.streams:
        # A cover image is stored as a video stream of one frame.
        cover = bool(stream.disposition & Disposition.attached_pic)
        if stream.type not in ("video", "subtitle") or cover or not _fits(stream, fmt):
            if stream is container.streams.video[0]:
                name = stream.codec_context.name
                raise CannotCopy(f"a {fmt.suffixes[0]} file cannot hold the {name} video of {source}")
            if stream.type != "audio":
                log.warning(
                    "%s: a %s stream is left out, which a %s file cannot hold",
                    source.name,
                    stream.type,
                    fmt.name,
                )
            continue
        copies[stream.index] = output.add_stream_from_template(stream)
        copies[stream.index].metadata.update(plain_tags(stream.metadata))
    return copies


def _fits(stream: Any, fmt: Format) -> bool:
    """Whether a file of the kind ``fmt`` can hold a stream of PyAV.

    Found out by writing the header of such a file.
    """
    # FFmpeg's tables of codecs for each container are not complete; its muxers check when they write a
    # header.
    with av.open(os.devnull, "w", format=fmt.muxer) as trial:
        try:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        except (av.error.FFmpegError, ValueError):
            return False
    return True


def track_of(output: Any, encoding: AudioEncoding, samples: Tensor, rate: int) -> AudioTrack:
    """Create an audio track in a container of PyAV and buffer all ``samples`` (C, S) at ``rate`` Hz.

    The samples are not encoded yet.
    """
    target = encoding.codec.rate_for(rate)
    audio = AudioTrack(output, encoding, target)
    for piece in resampled((samples,), rate, target):
        audio.add(piece)
    return audio


def _mux(container: Any, output: Any, copies: Mapping[int, Any], audio: AudioTrack, origin_s: float) -> None:
    """Copy the packets of the source to ``output``, and before each packet encode the audio up to its time.

    ``container`` and ``output`` are containers of PyAV; ``copies`` maps the number of a source's stream to
    the new stream. Times are moved so that the time stamp ``origin_s`` (seconds) of the source becomes 0.
    """
    zero = Fraction(origin_s)
    streams: Iterable[Any] = [stream for stream in container.streams if stream.index in copies]
    for packet in container.demux(*streams):
        # The last packet of the demuxer is empty: it only flushes decoders.
        if packet.dts is None and packet.pts is None:
            continue
        # Moved in units of each stream, whose time bases differ.
        # Presentation and decoding time move together, so that the decoder's delay for B-frames stays.
        moved = round(zero / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - moved
        packet.dts = None if packet.dts is None else packet.dts - moved
        if packet.dts is not None:
            # Audio is interleaved half a second ahead, so that players need not seek.
            audio.encode(round((float(packet.dts * packet.time_base) + 0.5) * audio.rate))
        packet.stream = copies[packet.stream.index]
        output.mux(packet)
    audio.encode()
    audio.finish()


def plain_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a file without those that describe its container or its encoder."""
    # These describe the source and would be wrong for the copy.
    own = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "creation_time"}
    return {name: text for name, text in metadata.items() if name.lower() not in own}
