"""Files of torch.save that are made to take the memory or the time of their reader."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from ltx2_core.storage.torch_file import read_torch_file

_EMPTY, _TWICE, _PAIR, _WRAP = b")", b"2", b"\x86", b"\x85"
"""Instructions of pickles: an empty tuple, the same again, a tuple of the last two or of the last one."""


def written(path: Path, instructions: bytes, values: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.PROTO + b"\x02" + instructions + pickle.STOP)
        file.writestr("archive/data/0", values)
    return path


def tensor(size: int, stride: int) -> bytes:
    """Instructions that make a tensor of one dimension of the values 0."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
    numbers = [b"\x8a\x08" + number.to_bytes(8, "little", signed=True) for number in (size, stride)]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\0"
        + b"".join(n + _WRAP for n in numbers)
        + b"tR"
    )


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (tensor(2**40, 1), "more than 8 times"),
        (tensor(2**40, 0), "more than 8 times"),
        (b"]" + (tensor(3000, 0) + b"a") * 9, "more than 8 times"),
        (b"X\x01\0\0\0a" + (_TWICE + b"\x93") * 60, "is no text"),
        (b"}" + _EMPTY + (_TWICE + _PAIR) * 60 + b"Ns", "neither a text nor a number"),
        (b"}" + _EMPTY + _WRAP * 200_000 + b"Ns", "neither a text nor a number"),
        (b"\x8f(" + _EMPTY + (_TWICE + _PAIR) * 60 + b"\x90", "neither a text nor a number"),
        (b"(Nctorch\nFloatStorage\n" + _EMPTY + (_TWICE + _PAIR) * 60 + b"NNtQ", "is no text"),
        (b"N" * (2**22), "bytes of instructions"),
    ],
)
def test_a_file_cannot_take_more_than_its_size_allows(tmp_path, instructions, message) -> None:
    path = written(tmp_path / "a.pt", instructions, torch.zeros(1).numpy().tobytes())
    with pytest.raises(ValueError, match=message) as error:
        read_torch_file(path)
    assert str(path) in str(error.value)


def test_tensors_that_share_or_repeat_values_are_read(tmp_path) -> None:
    base = torch.arange(6.0)
    torch.save([base, base[2:4], base[:1].expand(50), torch.zeros(0, 3)], tmp_path / "a.pt")
    found = read_torch_file(tmp_path / "a.pt")
    assert [one.tolist() for one in found] == [base.tolist(), [2, 3], [0] * 50, []]
    found[0][2] = 9
    assert found[1].tolist() == [2, 3]
