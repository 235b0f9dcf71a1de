"""Finds weights that are NaN or infinite while a file is loaded; the error names tensor and file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .gguf_blocks import BLOCKS, gguf_factors
from .header import TensorInfo

PIECE = 2**20
"""Values that are checked at a time: few enough for the cache of a processor."""

_FP8 = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}
"""For each format the smallest byte, apart from the sign bit, that is no finite number."""

_checked: set[tuple[Path, int, int, str]] = set()
"""Tensors that were found finite, with size and time of their file, so that they are read only once."""


def check_finite(tensor: Tensor, name: str, path: Path) -> None:
    """Raise ValueError that names the tensor and its file if a value of ``tensor`` is NaN or infinite.

    ``name`` is its name in the file ``path``. A tensor of an unchanged file is checked once in a process.
    """
    # Damaged weights give a black or noisy clip without any error, which takes hours to trace back to a file.
    status = path.stat()
    # Size and time are part of the key, so that an exchanged file is checked again.
    key = (path, status.st_size, status.st_mtime_ns, name)
    if key in _checked:
        return
    if not is_finite(tensor):
        raise ValueError(
            f"{path}: {name} holds values that are NaN or infinite; the file is damaged, get it again"
        )
    _checked.add(key)


def check_loaded(tensor: Tensor, info: TensorInfo) -> None:
    """Raise ValueError, naming tensor and file, if a value of ``tensor`` is NaN or infinite.

    ``info`` is the header entry by which the tensor was read.
    """
    # The codes of a block are integers; only its factors can be damaged in this way.
    values = gguf_factors(info.dtype, tensor) if info.dtype in BLOCKS else tensor
    check_finite(values, info.name, info.path)


def is_finite(tensor: Tensor) -> bool:
    """Whether no value of ``tensor`` is NaN or infinite; integers always pass.

    On the CPU the values are read piece by piece, without a copy of the size of the tensor.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    flat = tensor.detach().reshape(-1)
    # On other devices each read of a result synchronises, so that one piece is faster.
    if flat.device.type != "cpu":
        return _piece_is_finite(flat)
    return all(_piece_is_finite(piece) for piece in flat.split(PIECE))


def _piece_is_finite(piece: Tensor) -> bool:
    if piece.dtype.itemsize > 1:
        # A NaN makes both NaN.
        # One pass without a mask of the size of the piece.
        low, high = torch.aminmax(piece)
        return bool(low.isfinite() & high.isfinite())
    if piece.dtype in _FP8:
        # Read as signed bytes, the largest is a positive value; unsigned, it is a negative one.
        limit = _FP8[piece.dtype]
        largest = int(piece.view(torch.int8).max()), int(piece.view(torch.uint8).max())
        return largest[0] < limit and largest[1] < 0x80 + limit
    return bool(piece.float().isfinite().all())
