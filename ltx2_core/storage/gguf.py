"""Reads the header and the tensors of a GGUF file, by the package ``gguf``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .gguf_blocks import BLOCKS
from .header import Header, TensorInfo, parsed

_PLAIN: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
_SHAPE = "comfy.gguf.orig_shape."
"""Prefix of the keys that hold the shape of a tensor that was stored in another one."""


def is_gguf(path: Path) -> bool:
    """Whether the file at ``path`` begins as a GGUF file does; False for a folder or a missing file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def read_gguf_header(path: Path) -> Header:
    """Read the header of a GGUF file: names, formats, shapes and places of its tensors, and its metadata.

    Shapes are in the order of PyTorch. The dtype of a :class:`TensorInfo` is the name of a block format, such
    as "Q4_K", or that of a plain format ("F32", "F16", "BF16").

    Raises ValueError if the package ``gguf`` is not installed, for a damaged file and for formats that are
    not supported.
    """
    try:
        gguf = import_module("gguf")
    except ImportError:
        raise ValueError(f"{path} is a GGUF file, which needs the package gguf: pip install gguf") from None
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: _value(field) for name, field in reader.fields.items() if _is_small(field)}
        tensors = {tensor.name: _info(path, tensor, metadata) for tensor in reader.tensors}
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a GGUF file: {error}") from None
    # The package reads a damaged file until one of its conversions fails.
    except Exception as error:
        raise ValueError(f"{path} is a damaged GGUF file ({type(error).__name__}); get it again") from error
    size = path.stat().st_size
    for info in tensors.values():
        if info.end > size:
            raise ValueError(
                f"{path} is truncated: {info.name} ends at byte {info.end} of {size}; get it again"
            )
    # Some files carry the metadata of the safetensors file that they were made of, as texts.
    own = {name: parsed(value) for name, value in metadata.items() if not name.startswith(("GGUF.", _SHAPE))}
    return Header(path, MappingProxyType(own), MappingProxyType(tensors))


def read_gguf_tensors(path: Path, infos: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    """Read the tensors ``infos`` of the GGUF file at ``path``, memory-mapped, under the keys of ``infos``.

    A tensor in blocks is (rows, bytes of a row) uint8; others have their shape and dtype.
    """
    data = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    tensors = {}
    for own, info in infos.items():
        part = data[info.start : info.end]
        if info.dtype in BLOCKS:
            tensors[own] = part.view(stored_shape(info))
        else:
            tensors[own] = part.view(_PLAIN[info.dtype]).view(info.shape)
    return tensors


def stored_shape(info: TensorInfo) -> tuple[int, ...]:
    """Shape of a tensor in blocks as it is stored: (rows, bytes of a row)."""
    rows = info.shape[0] if len(info.shape) > 1 else 1
    return rows, info.nbytes // rows


def _is_small(field: Any) -> bool:
    """Whether a metadata field is a number, a text or a short list, and not the vocabulary of a tokenizer."""
    return len(field.data) <= 16


def _value(field: Any) -> Any:
    value = field.contents()
    return list(value) if isinstance(value, (list, tuple)) else value


def _info(path: Path, tensor: Any, metadata: Mapping[str, Any]) -> TensorInfo:
    kind = tensor.tensor_type.name
    if kind not in _PLAIN and kind not in BLOCKS:
        raise ValueError(
            f"tensor {tensor.name!r} has the format {kind}; supported are {', '.join((*_PLAIN, *BLOCKS))}"
        )
    # GGUF counts dimensions from the one that varies fastest.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    stated = metadata.get(_SHAPE + tensor.name)
    if stated is not None:
        shape = tuple(int(size) for size in stated)
    info = TensorInfo(
        tensor.name, kind, shape, int(tensor.data_offset), int(tensor.data_offset + tensor.n_bytes), path
    )
    values, size = BLOCKS.get(kind, (1, _PLAIN[kind].itemsize if kind in _PLAIN else 1))
    whole = kind not in BLOCKS or (bool(shape) and shape[-1] % values == 0)
    if info.numel * size != info.nbytes * values or min(shape, default=1) < 1 or not whole:
        raise ValueError(
            f"tensor {tensor.name!r} has the shape {shape}, which does not fit its {info.nbytes} bytes"
        )
    return info
