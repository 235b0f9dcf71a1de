"""Reads and writes EXR images, whose light is linear and may exceed white, through the OpenEXR library.

Letters: H W pixel rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from .container import check_file, check_pixels, first_bytes
from .hdr_space import CHROMATICITIES, HdrSpace, Primaries

SUFFIX: Final = ".exr"
_MAGIC: Final = b"\x76\x2f\x31\x01"
_BRIGHTEST: Final = 65504.0
"""The largest number of a half float, which replaces infinite light."""
_OWN: Final = ("chromaticities", "colorSpace")


def open_exr() -> Any:
    """Import and return the optional library OpenEXR.

    Raises ValueError, whose message says how to install it, if it is missing.
    """
    try:
        return import_module("OpenEXR")
    except ImportError:
        raise ValueError(
            "EXR files need the library OpenEXR, which is not installed: pip install OpenEXR"
        ) from None


def is_exr(source: object) -> bool:
    """Whether ``source`` is the path of an EXR image, by its content, or by its name if it does not exist."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    if not path.is_file():
        return path.suffix.lower() == SUFFIX and not path.is_dir()
    return first_bytes(path, len(_MAGIC)) == _MAGIC


def is_exr_folder(source: object) -> bool:
    """Whether ``source`` is the path of a folder that contains EXR images."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    return path.is_dir() and any(one.suffix.lower() == SUFFIX for one in path.iterdir())


def check_exr_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the visible part of an EXR image (its display window), from its header.

    Raises FileNotFoundError for a missing file; ValueError for a folder, for a damaged file, for one of too
    many pixels, and without the library.
    """
    check_file(path, "image")
    low, high = _opened(path, header_only=True).header()["displayWindow"]
    width, height = (int(size) for size in high - low + 1)
    check_pixels(path, width, height)
    return width, height


def read_exr(path: str | os.PathLike[str]) -> Tensor:
    """Read an EXR image as (1, 3, H, W) float32: the pixel values of the file, not limited to [0, 1].

    Alpha is dropped; a grey image has three equal channels. The result is the display window (the visible
    part) of the file: pixels outside of it are cut, and those that the file lacks are 0. Values are clipped
    to the range of a half float, -65504 to 65504, also infinite ones. Raises what :func:`check_exr_size`
    raises, and ValueError for an image that is neither RGB nor grey, or has NaN.
    """
    file = Path(path)
    width, height = check_exr_size(file)
    opened = _opened(file, separate_channels=True)
    try:
        channels: dict[str, Any] = opened.channels()
    except (RuntimeError, ValueError) as error:
        # The library reports damage of the pixels only here.
        raise ValueError(f"{file} is damaged: {error}") from error
    names = ("Y",) * 3 if "Y" in channels and not {"RY", "BY"} & channels.keys() else ("R", "G", "B")
    if not set(names) <= channels.keys():
        raise ValueError(f"{file} has the channels {', '.join(channels)}: give an EXR image with R, G and B")
    pixels = np.stack([_numbers(file, channels[name].pixels) for name in names])
    header = opened.header()
    whole = _in_window(pixels, header["dataWindow"], header["displayWindow"], (height, width))
    # Infinity is common in rendered highlights; NaN is damage, which the encoder would spread.
    if np.isnan(whole).any():
        raise ValueError(f"{file} has NaN in {int(np.isnan(whole).any(0).sum())} pixels: repair it first")
    return torch.from_numpy(np.clip(whole, -_BRIGHTEST, _BRIGHTEST))[None]


def exr_primaries(path: Path) -> Primaries | None:
    """The primaries that an EXR image states in its header; None if it states none, or unknown ones."""
    stated = _opened(path, header_only=True).header().get("chromaticities")
    if stated is None:
        return None
    known = (name for name, values in CHROMATICITIES.items() if np.allclose(stated, values, atol=2e-3))
    return next(known, None)


def read_exr_tags(path: Path) -> dict[str, str]:
    """The text attributes of an EXR image, by name in lower case."""
    header = _opened(path, header_only=True).header()
    return {name.lower(): text for name, text in header.items() if isinstance(text, str)}


def write_exr(path: Path, pixels: Tensor, space: HdrSpace, tags: Mapping[str, str]) -> None:
    """Write pixels (3, H, W) of the colour space ``space`` as an EXR image of half floats, compressed by ZIP.

    The file's header states the primaries and the name of that space; ``tags`` are further text attributes.
    Raises ValueError without the library OpenEXR, and OSError if the file cannot be written.
    """
    library = open_exr()
    header = {
        "compression": library.ZIP_COMPRESSION,
        "type": library.scanlineimage,
        "chromaticities": CHROMATICITIES[space.primaries],
        "colorSpace": space.tag,
        **{name: text for name, text in tags.items() if name not in _OWN},
    }
    rows = np.ascontiguousarray(rearrange(pixels, "c h w -> h w c").numpy().astype(np.float16))
    try:
        with library.File(header, {"RGB": rows}) as file:
            file.write(os.fspath(path))
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _opened(path: Path, **options: bool) -> Any:
    library = open_exr()
    try:
        file = library.File(os.fspath(path), **options)
        # A damaged file may open and have no image.
        file.header()
        return file
    # The library has no classes of errors of its own.
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"cannot read {path} as an EXR image: {error}") from error


def _numbers(path: Path, pixels: Any) -> NDArray[np.float32]:
    """Convert the pixels of one channel to (H, W) in float32.

    Raises ValueError, which names the file ``path``, for a deep image (several values in a pixel).
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype.kind not in "fu" or pixels.ndim != 2:
        raise ValueError(f"{path} is a deep EXR image, which has several depths a pixel: flatten it first")
    return pixels.astype(np.float32)


def _in_window(
    pixels: NDArray[np.float32], data: Any, display: Any, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Place the pixels (3, h, w) that an EXR file stores in its visible part -> (3, H, W).

    ``data`` is the window of the stored pixels and ``display`` the visible one, each as its first and its
    last (x, y); ``size`` is the (H, W) of the visible one. Pixels that the file lacks are 0.
    """
    (left, top), (shown_left, shown_top) = data[0], display[0]
    x, y = int(left - shown_left), int(top - shown_top)
    if (x, y) == (0, 0) and pixels.shape[1:] == size:
        return pixels
    whole = np.zeros((3, *size), np.float32)
    rows, columns = pixels.shape[1:]
    inside = pixels[:, max(0, -y) : max(0, size[0] - y), max(0, -x) : max(0, size[1] - x)]
    if 0 in inside.shape or y >= size[0] or x >= size[1] or y + rows <= 0 or x + columns <= 0:
        return whole
    top, left = max(0, y), max(0, x)
    whole[:, top : top + inside.shape[1], left : left + inside.shape[2]] = inside
    return whole
