"""Writes safetensors files, one tensor at a time and whole or not at all.

Equal tensors give equal files. The writer of safetensors itself orders the metadata differently in each run.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..media.atomic import replacing
from .header import BITS
from .quantized import TORCH_DTYPES

ALIGNMENT = 64
"""The data begins at a multiple of this many bytes, so that memory-mapped weights are aligned for SIMD."""


_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""torch dtype -> its name in a header."""


@dataclass(frozen=True)
class Entry:
    """One tensor to write: its dtype as safetensors names it ("BF16"), its shape, a function that makes it.

    The function ``make`` is called once, just before the tensor is written.
    """

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * BITS[self.dtype] // 8


def write_safetensors(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with the tensors of ``entries``, by name and in their order.

    ``metadata`` are strings for the header's ``__metadata__``. Raises ValueError if a tensor does not have
    the dtype and shape of its entry.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, entry in entries.items():
        end = position + entry.nbytes
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False).encode()
    # Spaces are the padding that the format allows behind a header.
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in entries.items():
            # Made one at a time, so that the file may be larger than the memory.
            tensor = entry.make()
            if tensor.dtype != TORCH_DTYPES[entry.dtype] or tuple(tensor.shape) != entry.shape:
                raise ValueError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {entry.dtype} {entry.shape}"
                )
            file.write(as_bytes(tensor).numpy().data)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors``, by name, as a safetensors file.

    An old file at ``path`` stays until the new one is complete. ``metadata`` are strings for the header, None
    for none. Raises OSError with advice, for example for a full disk.
    """
    # The widest numbers first, so that each tensor is aligned for its own numbers.
    by_width = sorted(tensors.items(), key=lambda pair: -pair[1].element_size())
    entries = {name: entry_of(tensor) for name, tensor in by_width}
    with replacing(path) as temporary:
        write_safetensors(temporary, entries, metadata or {})


def entry_of(tensor: Tensor) -> Entry:
    """The entry of a tensor in memory, on any device."""
    return Entry(_NAMES[tensor.dtype], tuple(tensor.shape), lambda: tensor.detach().cpu())


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's values, as a one-dimensional uint8 tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
