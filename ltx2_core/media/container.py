"""Opens media files safely: a file cannot make the reader open another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

# A small file may state any size, and the memory for its frame is allocated before a pixel is decoded.
MAX_PIXELS = 2**26
"""The largest image or frame that is decoded: 8192 x 8192 or as many pixels in another shape."""

REFERRING_FORMATS = frozenset(
    {
        "alsa",
        "avisynth",
        "concat",
        "concatf",
        "dash",
        "fbdev",
        "hls",
        "imf",
        "kmsgrab",
        "lavfi",
        "oss",
        "pulse",
        "rtp",
        "rtsp",
        "sap",
        "sdp",
        "smoothstreaming",
        "tty",
        "vapoursynth",
        "vobsub",
        "webm_dash_manifest",
        "whip",
        "x11grab",
        "video4linux2,v4l2",
    }
)
"""Kinds of files and devices that name other files, run scripts or read hardware."""

_PLAYLISTS = ((b"#EXTM3U", "an HLS playlist"), (b"ffconcat", "a concat list"), (b"<MPD", "a DASH manifest"))


def check_file(path: Path, kind: str) -> None:
    """Raise FileNotFoundError unless ``path`` is a file, and ValueError if it is a folder.

    ``kind`` is the word for the file in the message, such as "audio".
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give one {kind} file of it")
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} file at {path}")


@contextmanager
def open_media(path: str | os.PathLike[str], kind: str = "media") -> Iterator[Any]:
    """A context that opens a local file with PyAV and yields its container.

    ``kind`` is the word for the file in error messages, such as "audio". Raises FileNotFoundError unless
    ``path`` is a file, and ValueError for a folder and for a file that cannot be read. Playlists are refused
    too, because they open other files: a playlist from the internet could name any file of this machine.
    """
    file = Path(path)
    check_file(file, kind)
    # FFmpeg detects formats by content, so that a playlist may have any extension.
    _refuse_playlist(file)
    try:
        # The prefix and the pattern type make FFmpeg take the name literally: "concat:a|b", "frame%03d.png".
        # The whitelist also holds for files inside of files, which FFmpeg opens by itself.
        container = av.open(
            f"file:{os.fspath(file)}",
            options={"format_whitelist": _allowed_formats(), "pattern_type": "none"},
        )
    except (av.error.FFmpegError, UnicodeError, ValueError) as error:
        # FFmpeg's own text has its number for the error, and the name with a prefix.
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {file} as {kind}: {reason}") from error
    with container:
        yield container


def decode(container: Any, stream: Any, decoder: Any = None) -> Iterator[Any]:
    """Yield the decoded frames of ``stream`` in ``container`` (both PyAV's) from its current position on.

    ``decoder`` None is the stream's own decoder.
    """
    decoder = stream.codec_context if decoder is None else decoder
    for packet in container.demux(stream):
        # An empty packet with a time stands for a repeated frame; decoders take it for the end of the file.
        if packet.size or packet.pts is None:
            yield from decoder.decode(packet)


def check_pixels(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raise ValueError for an image or frame of ``width * height`` above ``MAX_PIXELS``.

    ``path`` is for the message.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{path} is {width} x {height}, more than the {MAX_PIXELS // 10**6} megapixels that are decoded: "
            "scale it down first"
        )


def first_bytes(file: Path, count: int) -> bytes:
    """The first ``count`` bytes of a file, from which its kind is recognised; fewer if it is shorter.

    Empty for a file that cannot be read: the function that opens it next raises the error.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


def _refuse_playlist(file: Path) -> None:
    # Enough for the mark: a DASH manifest has its root element after one XML declaration. A byte order mark
    # and blanks may come before it.
    head = first_bytes(file, 1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, name in _PLAYLISTS:
        if head.startswith(mark) or (mark.startswith(b"<") and head.startswith(b"<?xml") and mark in head):
            raise ValueError(f"{file} is {name}, which only names other files: pass one of these")


def _allowed_formats() -> str:
    # By exclusion, since builds of FFmpeg differ in the formats they have.
    return ",".join(sorted(av.formats_available - REFERRING_FORMATS))
