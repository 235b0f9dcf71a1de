"""Copies what a video file holds next to its video and main audio: subtitles, other languages, chapters."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any

import av
from av.stream import Disposition

from ..formats import Format
from .container import open_media

log = logging.getLogger(__name__)


class OtherTracks:
    """The other tracks of a source, written to a new file as far as the file can hold them.

    They are all but the first video and the first audio; attachments and chapters are copied when the object
    is made. ``source`` is the source file, opened with PyAV for these tracks alone: packets of different
    tracks are far apart in some files. ``output`` is the new file, opened for writing with PyAV, and ``fmt``
    its kind. ``origin_s`` is the time stamp of the source, in seconds, at which the new file begins. With
    ``with_audio`` the main audio is copied too, and stays the one that players choose.
    """

    def __init__(
        self, source: Any, output: Any, fmt: Format, origin_s: float, *, with_audio: bool = False
    ) -> None:
        self._output, self._origin = output, Fraction(origin_s)
        main = source.streams.audio[:1] if with_audio else ()
        self._copies = {
            stream.index: copied_stream(stream, output, replaced=not with_audio)
            for stream in (*main, *_others(source))
            if stream.type != "attachment" and fits(stream, fmt)
        }
        _copy_attachments(source, output, fmt)
        _copy_chapters(source, output, self._origin)
        # Demuxing without a stream would read all of them.
        wanted = [source.streams[index] for index in self._copies]
        self._packets: Iterator[Any] = iter(source.demux(*wanted) if wanted else ())
        self._next: Any = None

    def copy(self, until_s: float | None = None) -> None:
        """Write the packets that earlier calls have not written, up to ``until_s``; None writes all of them.

        ``until_s`` is in seconds from the start of the new file.
        """
        while True:
            packet = self._next or next(self._packets, None)
            if packet is None:
                return
            self._next = None
            if packet.dts is None or not packet.size:
                continue
            at = packet.dts * packet.time_base - self._origin
            if until_s is not None and at > until_s:
                self._next = packet
                return
            self._write(packet)

    def _write(self, packet: Any) -> None:
        move_packet(packet, self._origin)
        # What ends before the new file begins is never displayed, and a negative time would move all tracks.
        ended = packet.pts is not None and packet.pts + (packet.duration or 0) <= 0
        if ended and packet.stream.type != "audio":
            return
        packet.stream = self._copies[packet.stream.index]
        self._output.mux(packet)


@contextmanager
def other_tracks(
    path: str | os.PathLike[str], output: Any, fmt: Format, origin_s: float, *, with_audio: bool = False
) -> Iterator[OtherTracks]:
    """A context that yields the :class:`OtherTracks` of the file ``path``, ready to be copied to ``output``.

    ``output``, ``fmt``, ``origin_s`` and ``with_audio`` are those of that class. Enter the context before the
    first packet is written to ``output``: that writes the header of the new file, after which no track can be
    added.
    """
    with open_media(path, "video") as source:
        yield OtherTracks(source, output, fmt, origin_s, with_audio=with_audio)


def left_out(path: str | os.PathLike[str], fmt: Format | None) -> str | None:
    """A sentence that names the tracks of a file which a new file of kind ``fmt`` will not hold.

    None is returned if it will hold all. With None as ``fmt`` all tracks except the main video and audio are
    named, and chapters, because then the new file is encoded and has only those two. Reads only headers.
    """
    with open_media(path, "video") as container:
        if not container.streams.video:
            return None
        lost = [_title(stream) for stream in _others(container) if fmt is None or not _holds(stream, fmt)]
        if fmt is None and _chapters(container):
            lost.append("chapters")
    if not lost:
        return None
    names = ", ".join(f"{count} {name}" if count > 1 else name for name, count in Counter(lost).items())
    where = "the new file, which is encoded again" if fmt is None else f"a {fmt.suffixes[0]} file"
    return f"{path}: left out of {where}: {names}"


def copied_stream(stream: Any, output: Any, *, replaced: bool = True) -> Any:
    """Create a stream in ``output`` for the packets of ``stream``, and return it.

    It has the tags and the role (such as "forced") of ``stream``. If the main audio is ``replaced``, a copied
    audio stream is never marked as the default one, because players should choose the new audio.
    """
    copy = output.add_stream_from_template(stream)
    copy.metadata.update(plain_tags(stream.metadata))
    # Such as default and forced; older PyAV cannot set it.
    with suppress(AttributeError):
        # The new audio is the one that players choose.
        chosen = Disposition.default if stream.type == "audio" and replaced else Disposition(0)
        copy.disposition = stream.disposition & ~chosen
    return copy


def move_packet(packet: Any, origin: Fraction) -> None:
    """Subtract ``origin`` seconds from the times of a packet, in place.

    The times of presentation and of decoding move by the same amount, so that their distance, which B-frames
    need, stays.
    """
    moved = round(origin / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts - moved
    packet.dts = None if packet.dts is None else packet.dts - moved


def fits(stream: Any, fmt: Format) -> bool:
    """Whether files of kind ``fmt`` can hold ``stream``, found out by writing the header of such a file."""
    # FFmpeg's tables of codecs for each container are not complete; its muxers check when they write a
    # header.
    with av.open(os.devnull, "w", format=fmt.muxer) as trial:
        try:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        except (av.error.FFmpegError, ValueError):
            return False
    return True


def plain_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return tags without those that describe the container or the encoder of the source file."""
    # These describe the source and would be wrong for the copy.
    own = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "creation_time"}
    return {name: text for name, text in metadata.items() if name.lower() not in own}


def _others(container: Any) -> Iterator[Any]:
    """Yield the streams of a file except its first video and its first audio, which edits read themselves.

    The text track in which QuickTime stores chapters is left out too: the new file gets its own.
    """
    main = {stream.index for kind in ("video", "audio") for stream in getattr(container.streams, kind)[:1]}
    chapters = bool(_chapters(container))
    for stream in container.streams:
        # QuickTime stores chapters as a text track too, which the muxer writes itself.
        is_chapters = chapters and stream.type == "data" and stream.name == "bin_data"
        if stream.index not in main and not is_chapters:
            yield stream


def _title(stream: Any) -> str:
    if stream.type == "video" and stream.disposition & Disposition.attached_pic:
        return "cover image"
    codec = stream.codec_context.name if stream.codec_context is not None else ""
    return " ".join(filter(None, (codec, stream.type, "track" if stream.type != "attachment" else "")))


def _holds(stream: Any, fmt: Format) -> bool:
    return _holds_attachments(fmt) if stream.type == "attachment" else fits(stream, fmt)


def _holds_attachments(fmt: Format) -> bool:
    return fmt.name == "mkv"


def _copy_attachments(source: Any, output: Any, fmt: Format) -> None:
    """Copy attached files, such as the fonts of subtitles, if files of kind ``fmt`` can hold them."""
    # Older PyAV has no attachments.
    if not (_holds_attachments(fmt) and hasattr(output, "add_attachment")):
        return
    for stream in _others(source):
        if stream.type == "attachment":
            output.add_attachment(stream.name, stream.mimetype or "application/octet-stream", stream.data)


def _chapters(container: Any) -> list[dict[str, Any]]:
    # Older PyAV has no chapters.
    return list(container.chapters()) if hasattr(container, "chapters") else []


def _copy_chapters(source: Any, output: Any, origin: Fraction) -> None:
    chapters = [
        {**chapter, **{end: chapter[end] - round(origin / chapter["time_base"]) for end in ("start", "end")}}
        for chapter in _chapters(source)
    ]
    if chapters:
        output.set_chapters([{**one, "start": max(one["start"], 0)} for one in chapters if one["end"] > 0])
