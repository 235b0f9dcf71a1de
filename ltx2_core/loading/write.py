"""Writes a safetensors file tensor by tensor, so that a model never has to be in memory as a whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..storage.header import BITS
from ..storage.quantized import TORCH_DTYPES

ALIGNMENT = 64
"""Bytes; where the data begins on a multiple of it, mapped weights lie as the processor likes them."""


@dataclass(frozen=True)
class Entry:
    """One tensor to be written; ``make`` is called once, when its turn has come."""

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
    """Write ``entries`` in their order. Raises ValueError for a tensor that is not what its entry says."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, entry in entries.items():
        end = position + entry.nbytes
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in entries.items():
            tensor = entry.make()
            if tensor.dtype != TORCH_DTYPES[entry.dtype] or tuple(tensor.shape) != entry.shape:
                raise ValueError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {entry.dtype} {entry.shape}"
                )
            file.write(as_bytes(tensor).numpy().data)


def as_bytes(tensor: Tensor) -> Tensor:
    """The values of ``tensor`` as one row of bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
