"""Reads and writes the tags of files, in which the settings of a clip are stored."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from .container import first_bytes, open_media
from .exr import is_exr, read_exr_tags

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_IHDR_END = len(_PNG_HEAD) + 25
"""Where the first chunk of a PNG ends, whose data are 13 bytes between 12 of its frame."""


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the tags of a media file, a PNG or an EXR image: texts by name.

    The ``metadata`` of :class:`~ltx2_core.media.VideoWriter` is among them. Names are in lower case,
    because Matroska does not preserve case. Raises FileNotFoundError for a missing file, ValueError for one
    that is not a media file.
    """
    file = Path(path)
    if file.is_file() and _is_png(file):
        return _png_tags(file)
    if is_exr(file):
        return read_exr_tags(file)
    with open_media(file) as container:
        return {name.lower(): text for name, text in container.metadata.items()}


def with_png_tags(png: bytes, tags: Mapping[str, str]) -> bytes:
    """Insert tags, texts by name, into the bytes of a PNG, as iTXt chunks after its first chunk."""
    chunks = b"".join(_text_chunk(name, text) for name, text in tags.items())
    # Before the image data, because readers of tags alone stop there.
    return png[:_IHDR_END] + chunks + png[_IHDR_END:]


def _text_chunk(name: str, text: str) -> bytes:
    # Compressed: no; method 0; no language; no translated name.
    data = name.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")
    kind = b"iTXt"
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _is_png(file: Path) -> bool:
    return first_bytes(file, len(_PNG_HEAD)) == _PNG_HEAD


def _png_tags(file: Path) -> dict[str, str]:
    try:
        with Image.open(file) as image:
            texts = {name.lower(): value for name, value in image.info.items() if isinstance(value, str)}
            return {name: str(text) for name, text in texts.items()}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read {file} as an image: {error}") from error
