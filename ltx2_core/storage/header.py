"""Reads the header of a safetensors file without its data, and checks every entry.

Layout: 8 bytes little-endian header length, a JSON header, then the data to the end of the file.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .files import ParsedJson

BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
}
"""Bits per value, for each dtype name of the format."""

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit; a longer length field means that the file is something else."""


@dataclass(frozen=True)
class TensorInfo:
    """The header entry of one tensor: its name, dtype (such as "BF16") and shape in the file at ``path``.

    Its data are the bytes from ``start`` up to but without ``end``, counted from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    path: Path

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of a file, or the merged headers of a folder of files.

    ``metadata`` values that are JSON text are parsed. ``tensors`` are keyed by their name in the file; for a
    folder, by the name that they would have in a single-file checkpoint.
    """

    path: Path
    metadata: ParsedJson
    tensors: Mapping[str, TensorInfo]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file; no tensor data is read.

    Raises FileNotFoundError for a missing file, and ValueError that names the file and what is wrong with it:
    a folder, an empty, truncated or foreign file (pickle, GGUF, text), or entries that contradict the file's
    size or each other.
    """
    path = Path(path)
    size = _size(path)
    with path.open("rb") as file:
        start = file.read(8)
        if foreign := _foreign(start):
            raise ValueError(f"{path} is {foreign}, not a safetensors file; get the .safetensors version")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        # A length beyond the limit would make this read gigabytes of a foreign file.
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError(f"{path} is not a safetensors file (it starts with {start!r})")
        if length > size - 8:
            raise ValueError(f"{path} is truncated: {size} bytes, its header alone has {length}; {_AGAIN}")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a safetensors file: its header is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{path} is not a safetensors file: its header is a {type(entries).__name__}")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: __metadata__ must be an object; got {type(metadata).__name__}")
    # Every entry is checked here, because safetensors maps the file and a wrong offset would end in other
    # weights.
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in entries.items()}
    _check_coverage(path, tensors, 8 + length, size)
    return Header(
        path,
        MappingProxyType({key: parsed(value) for key, value in metadata.items()}),
        MappingProxyType(tensors),
    )


def _size(path: Path) -> int:
    """Size in bytes of the file at ``path``.

    Raises FileNotFoundError for a missing file, and ValueError for an empty one and for anything but a
    regular file.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a single .safetensors file is needed")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path, or download the file first")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty (0 bytes); download it again")
    return size


_AGAIN = "the download or copy was cut short, get it again"


def _foreign(start: bytes) -> str | None:
    """What a file is that is not safetensors, in words, from its first 8 bytes ``start``; None if unknown."""
    if start[:4] == b"GGUF":
        return "a GGUF file"
    # torch.save writes a zip archive.
    if start[:2] == b"PK":
        return "a zip archive (a PyTorch .ckpt/.pt/.bin pickle)"
    if (
        start[:1] == b"\x80"
        and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        # A small safetensors header has a length whose first byte may be 0x80, followed by zeros.
        and start[2:8] != b"\0" * 6
    ):
        return "a Python pickle (.ckpt/.pt)"
    if start.startswith(b"version "):
        return "a Git LFS pointer (the file itself was not downloaded)"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "a text file"
    return None


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        # Not isinstance: JSON's true is a bool, which is an int in Python.
        valid = all(type(n) is int and n >= 0 for n in (*shape, start, end)) and start <= end
        known = dtype in BITS
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{path}: malformed header entry for tensor {name!r}: {entry!r}") from None
    if not valid:
        raise ValueError(f"{path}: tensor {name!r} has an impossible shape or offsets: {entry!r}")
    if not known:
        raise ValueError(f"{path}: tensor {name!r} has unknown dtype {dtype!r}; known: {', '.join(BITS)}")
    bits = math.prod(shape) * BITS[dtype]
    if bits != 8 * (end - start):
        raise ValueError(
            f"{path}: tensor {name!r} ({dtype} {shape}) needs {bits / 8:g} bytes, has {end - start}"
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + start, data_start + end, path)


def _check_coverage(path: Path, tensors: Mapping[str, TensorInfo], position: int, size: int) -> None:
    """Raise ValueError unless the tensors fill the file exactly: no overlap, no gap, nothing at the end.

    ``position`` is the byte at which the data begin, ``size`` the size of the file in bytes.
    """
    # Sorted by offset, since a header may list tensors in any order.
    for info in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if info.start != position:
            what = "overlaps its neighbour" if info.start < position else "leaves a hole before it"
            raise ValueError(f"{path}: corrupt header, tensor {info.name!r} {what}")
        position = info.end
    if position > size:
        raise ValueError(
            f"{path} is truncated: {size} bytes of {position} that its header promises; {_AGAIN}"
        )
    if position < size:
        raise ValueError(f"{path}: {size - position} bytes after the last tensor; the file is corrupt")


def parsed(value: Any) -> Any:
    """A metadata value, parsed if it is JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
