"""Digests of files and tensors, which tell whether they are the same as in an earlier run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from .header import TensorInfo

# Reading a file of 40 GB in full takes minutes on a disk, before every run.
SAMPLES = 256
SAMPLE_BYTES = 4096


def identity(paths: Iterable[Path]) -> str:
    """A digest of the contents of the files ``paths``; their names, places and order do not count.

    It is 32 hexadecimal digits. It covers the size of each file, its first megabyte at most (the whole header
    of nearly every file), its last bytes, and 256 pieces of 4096 bytes spread evenly over it: up to 2 MB per
    file. Other weights under the same name differ in nearly every piece; a change of a few values between the
    pieces is not noticed.
    """
    # Sorted and without names, so that renamed or moved files count as the same model.
    return sha256("".join(sorted(_of_file(*_state(path)) for path in set(paths))).encode()).hexdigest()[:32]


def weights_identity(weights: Mapping[str, TensorInfo]) -> str:
    """A digest of tensors in files, by the names they have here: what else their files hold does not count.

    It is 32 hexadecimal digits, and covers names, number formats and shapes of all, and about 256 pieces of
    up to 4096 bytes spread evenly over their values; of less than 4096 bytes in all only those of the first
    tensor. So it is that of the same weights in a file of another layout.
    """
    entries = tuple(sorted(weights.items()))
    states = frozenset(_state(info.path) for _, info in entries)
    return _of_weights(entries, states)


def tensor_identity(x: Tensor) -> str:
    """A digest of dtype, shape and every value of a tensor, as 32 hexadecimal digits."""
    # Tensors of other dtype or shape may have equal bytes.
    digest = sha256(f"{x.dtype} {tuple(x.shape)}".encode())
    # Part by part, since a clip from a file would be copied whole.
    for part in x.detach() if x.ndim > 1 else (x.detach(),):
        digest.update(part.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _state(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
# Size and time are arguments only to invalidate the cache of results.
def _of_file(path: Path, size: int, _modified: int) -> str:
    digest = sha256(str(size).encode())
    with path.open("rb") as file:
        # The header holds the name and place of every tensor, so that another layout never passes for this
        # one.
        digest.update(file.read(2**20))
        for number in range(SAMPLES + 1):
            file.seek(max(0, size - SAMPLE_BYTES) * number // SAMPLES, os.SEEK_SET)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


@lru_cache(maxsize=256)
# Sizes and times are arguments only to invalidate the cache of results.
def _of_weights(
    entries: tuple[tuple[str, TensorInfo], ...], _states: frozenset[tuple[Path, int, int]]
) -> str:
    digest = sha256(repr([(name, info.dtype, info.shape) for name, info in entries]).encode())
    total = sum(info.nbytes for _, info in entries)
    places = iter([max(0, total - SAMPLE_BYTES) * number // SAMPLES for number in range(SAMPLES + 1)])
    place, before = next(places, None), 0
    for _, info in entries:
        with info.path.open("rb") as file:
            while place is not None and place < before + info.nbytes:
                file.seek(info.start + place - before)
                # Up to the end of the tensor: what comes after it depends on the layout of the file.
                digest.update(file.read(min(SAMPLE_BYTES, info.nbytes - (place - before))))
                place = next(places, None)
        before += info.nbytes
    return digest.hexdigest()[:32]
