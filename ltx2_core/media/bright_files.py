"""Refuses HDR images where a run takes only SDR (8 bits, standard range), which would clip bright colours."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from PIL import Image

from ..formats import HDR_NAMES
from .exr import is_exr

CURVES: Final = {16: "PQ", 18: "HLG"}
"""HDR transfer functions that PNG, AVIF and HEIF files may state: number in ITU-T H.273 -> name."""
_HEAD: Final = 65536
"""How many bytes at the beginning of a file are searched for the transfer function that it states."""
_FLOAT_SUFFIXES: Final = (".hdr", ".pfm", ".rgbe")


def refuse_exr(path: str | os.PathLike[str]) -> None:
    """Raise ValueError, whose message says what to do, if ``path`` is an EXR image."""
    if is_exr(path):
        raise ValueError(
            f"{path} is an EXR image, whose light is not limited to white: say what colours it has with hdr "
            f"(--hdr), one of {', '.join(HDR_NAMES)}, where the run takes HDR images, or convert it to PNG"
        )


def refuse_bright(path: Path, image: Image.Image) -> None:
    """Raise ValueError if ``image`` has floating point numbers, or an HDR transfer function (PQ or HLG).

    ``path`` is the file from which ``image`` was opened.
    """
    curve = _stated_curve(path)
    if image.mode.startswith("F"):
        problem = "holds floating point numbers, whose light is not limited to white"
    elif curve is not None:
        problem = f"is an HDR image ({CURVES[curve]})"
    else:
        return
    raise ValueError(f"{path} {problem}: 8 bits would clip it; convert it to EXR, or to an SDR image")


def refuse_unreadable(path: Path) -> None:
    """Raise ValueError if ``path`` has the suffix of an HDR format that is never read: .hdr, .pfm or .rgbe.

    Called for files that Pillow cannot open.
    """
    if path.suffix.lower() in _FLOAT_SUFFIXES:
        raise ValueError(f"{path} is an HDR image, which is not read: convert it to EXR, or to an SDR image")


def _stated_curve(path: Path) -> int | None:
    """The H.273 number of the HDR transfer function that a PNG, AVIF or HEIF file states; else None."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if head.startswith(b"\x89PNG"):
        # Primaries, transfer function, matrix and range, one byte each.
        found = re.search(rb"\x00\x00\x00\x04cICP.(.)", head, re.DOTALL)
        number = found[1][0] if found else 0
    elif head[4:8] == b"ftyp":
        found = re.search(rb"colrnclx..(..)", head, re.DOTALL)
        number = int.from_bytes(found[1], "big") if found else 0
    else:
        return None
    return number if number in CURVES else None
