"""Reads what torch.save wrote as data alone: tensors, numbers, texts and their lists, tuples and dicts.

Such a file is a list of instructions. Here those that make data are followed, and no class or function that
a file names is looked up or called: in its place stands a :class:`Foreign` with its name. No file makes
much more data than it has bytes.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Foreign(NamedTuple):
    """An object that is no data, of which only the ``name`` of its class is known."""

    name: str


class _Storage(NamedTuple):
    """The values of tensors: its number in the file and their number format."""

    key: str
    dtype: torch.dtype


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_VALUES = frozenset(
    [
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "BININT",
        "BININT1",
        "BININT2",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MOST_INSTRUCTIONS = 2**22
"""Bytes of instructions; each makes up to 200 bytes, and those of a cache are some kilobytes."""
_MOST_COPIES = 8
"""How many times the bytes of its file tensors may take: some share values, or repeat them."""


def read_torch_file(path: Path) -> Any:
    """What ``path``, a file of torch.save, holds; objects that are no data are :class:`Foreign`.

    Raises ValueError for a file that is damaged, of a form from before version 1.6 of torch, or whose tensors
    take more than eight times its bytes.
    """
    try:
        with zipfile.ZipFile(path) as file:
            pickled = next((name for name in file.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise ValueError(f"{path} is no file of torch.save: it has no data.pkl")
            # What is compressed could become larger than the memory; torch compresses nothing.
            if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
                raise ValueError(f"{path} is no file of torch.save: its parts are compressed")
            if file.getinfo(pickled).file_size > _MOST_INSTRUCTIONS:
                raise ValueError(f"{path} has more than {_MOST_INSTRUCTIONS} bytes of instructions")
            room = _MOST_COPIES * path.stat().st_size
            return _Reading(file, pickled.removesuffix("data.pkl"), room).result(file.read(pickled))
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is damaged, or no file of torch.save from version 1.6 on") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path} is damaged: {error}") from None
    except (FileNotFoundError, PermissionError):
        raise
    # Instructions of a damaged file take what is not there, and its parts may lie anywhere.
    except (
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        OSError,
        ArithmeticError,
        EOFError,
    ) as error:
        raise ValueError(f"{path} is damaged ({error!r})") from None


class _Reading:
    """Follows the instructions of one file; ``root`` is the folder in the archive ``file``.

    ``room`` are the bytes that its tensors may take.
    """

    def __init__(self, file: zipfile.ZipFile, root: str, room: int) -> None:
        self.file, self.root, self.room = file, root, room
        self.storages: dict[str, Tensor] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def result(self, instructions: bytes) -> Any:
        for opcode, value, _ in pickletools.genops(instructions):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._do(opcode.name, value)
        raise ValueError("its instructions have no end")

    def _do(self, name: str, value: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else int(value)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(value)])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name not in ("PROTO", "FRAME") and not self._collected(name) and not self._made(name, value):
            raise ValueError(f"its instruction {name} makes no data")

    def _collected(self, name: str) -> bool:
        """Whether ``name`` is an instruction on lists, tuples, sets and dicts, which is then followed."""
        stack = self.stack
        if name in ("EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_SET"):
            stack.append({"L": list, "T": tuple, "D": dict, "S": set}[name[6]]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            parts = tuple(stack[-count:])
            del stack[-count:]
            stack.append(parts)
        elif name in _MARKED:
            stack.append(_MARKED[name](self._marked()))
        elif name == "DICT":
            stack.append(_pairs(self._marked()))
        elif name in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            if name in ("APPEND", "SETITEM"):
                self.marks.append(len(stack) - (1 if name == "APPEND" else 2))
            parts_of = self._marked()
            target = stack[-1]
            # Parts of an object that is no data are left out like the object itself.
            if isinstance(target, list):
                target.extend(parts_of)
            elif isinstance(target, set):
                target.update(_set(parts_of))
            elif isinstance(target, dict):
                target.update(_pairs(parts_of))
        else:
            return False
        return True

    def _made(self, name: str, value: Any) -> bool:
        """Whether ``name`` is an instruction on objects, which is then followed if they are data."""
        stack = self.stack
        if name == "GLOBAL":
            stack.append(Foreign(value))
        elif name == "STACK_GLOBAL":
            last, module = stack.pop(), stack.pop()
            if not isinstance(last, str) or not isinstance(module, str):
                raise ValueError("it names a class by what is no text")
            stack.append(Foreign(f"{module} {last}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(self._object(stack.pop(), arguments))
        elif name == "NEWOBJ_EX":
            del stack[-2:]
        elif name == "BUILD":
            stack.pop()
        elif name == "BINPERSID":
            _, kind, key, *_ = stack.pop()
            if not isinstance(key, str):
                raise ValueError("it names values of tensors by what is no text")
            stack.append(_Storage(key, _DTYPES[kind.name.split()[-1]]))
        else:
            return False
        return True

    def _object(self, kind: Foreign, arguments: Any) -> Any:
        """What a file makes of ``arguments`` by ``kind``, a class or a function that it names."""
        if kind.name == _TENSOR:
            return self._tensor(*arguments[:4])
        if kind.name == _PARAMETER:
            return arguments[0]
        # Its parts follow as instructions of their own.
        if kind.name == "collections OrderedDict" and not arguments:
            return {}
        return kind

    def _tensor(
        self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> Tensor:
        if not all(isinstance(number, int) for number in (*size, *stride, offset)):
            raise ValueError("the shape of a tensor has what is no number")
        values = self._values(storage)
        count = math.prod(size)
        if not count:
            return torch.zeros(size, dtype=storage.dtype)
        self._take(count * storage.dtype.itemsize)
        # A copy, as other tensors of the file may share the values.
        return values.as_strided(size, stride, offset).clone()

    def _values(self, storage: _Storage) -> Tensor:
        """All values of a storage, in one dimension."""
        if storage.key not in self.storages:
            name = f"{self.root}data/{storage.key}"
            self._take(self.file.getinfo(name).file_size)
            values = bytearray(self.file.read(name))
            # Of no bytes frombuffer makes no tensor.
            made = (
                torch.frombuffer(values, dtype=torch.uint8) if values else torch.empty(0, dtype=torch.uint8)
            )
            self.storages[storage.key] = made
        return self.storages[storage.key].view(storage.dtype)

    def _take(self, count: int) -> None:
        """Count bytes that are made. Raises ValueError if they are too many for the file."""
        self.room -= count
        if self.room < 0:
            raise ValueError(f"its tensors take more than {_MOST_COPIES} times its bytes")

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        start = self.marks.pop()
        parts = self.stack[start:]
        del self.stack[start:]
        return parts


def _pairs(parts: list[Any]) -> dict[Any, Any]:
    _check_keys(parts[::2])
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _set(parts: list[Any]) -> frozenset[Any]:
    _check_keys(parts)
    return frozenset(parts)


def _check_keys(keys: list[Any]) -> None:
    """Raise ValueError for a key that is neither a text nor a number: nested tuples could take for ever."""
    if not all(key is None or isinstance(key, str | bytes | int | float) for key in keys):
        raise ValueError("a key of a dict or a part of a set is neither a text nor a number")


_MARKED: Mapping[str, Callable[[list[Any]], Any]] = {"TUPLE": tuple, "LIST": list, "FROZENSET": _set}
"""Instructions that make one object of all parts above the last mark."""
