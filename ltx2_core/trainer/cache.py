"""The encoded dataset on disk: latents and texts in safetensors files, listed by an index.

Letters: C channels, F H W latent frames, rows and columns, T audio latent frames, S text tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..media.atomic import replacing
from ..storage.files import read_object
from ..storage.writing import write_tensors
from .texts import TEXT_STAGES, TextStage

_T = TypeVar("_T")

INDEX = "dataset.json"
VERSION = 2
"""Raised when the code encodes differently, so that older entries are encoded again."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One encoded clip.

    ``file`` is its name in the cache, ``where`` the place in the dataset. ``bucket`` is the size of its
    frames, "" for audio alone. ``texts`` are the files of its captions, ``captions`` what they say.
    ``sources`` has size in bytes and time of change of each media file. ``repeats`` is how often an epoch has
    the clip.
    """

    file: str
    where: str
    bucket: str
    fps: float
    seconds: float
    has_video: bool
    has_audio: bool
    captions: tuple[str, ...]
    texts: tuple[str, ...]
    sources: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Index:
    """The list of an encoded dataset.

    ``models`` has the digest of the weights of each network that encoded it, by the name of the component.
    ``trigger`` is the word in front of the captions, "" for none. ``reference`` are the factors by which
    references are smaller and slower. ``empty_text`` is the file of the empty caption. ``text`` says how far
    captions are encoded: "context", "features" or "states".
    """

    entries: tuple[Entry, ...]
    models: Mapping[str, str]
    trigger: str = ""
    reference: tuple[int, int] = (1, 1)
    empty_text: str = ""
    text: TextStage = "context"

    @property
    def fingerprint(self) -> str:
        """A digest of all entries in their order: 32 hexadecimal digits."""
        # A clip that is not repeated has the digest of versions that could not repeat.
        names = [
            (entry.file, entry.texts, *([entry.repeats] if entry.repeats > 1 else []))
            for entry in self.entries
        ]
        return digest({"entries": names})

    def save(self, folder: Path) -> None:
        """Write the index to ``folder``, whole or not at all."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1)
        with replacing(folder / INDEX) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read the index of ``folder``.

        Raises ValueError if there is none, or if it is of another version or damaged.
        """
        path = folder / INDEX
        if not path.is_file():
            raise ValueError(
                f"{folder} is no encoded dataset: make it with ltx2 dataset SOURCE --out {folder}"
            )
        values = read_object(path)
        if values.get("version") != VERSION:
            raise ValueError(f"{path} was written by another version: run ltx2 dataset again")
        try:
            return cls(
                entries=tuple(_entry(entry) for entry in _list(values["entries"])),
                models={name: _a(str, digest) for name, digest in values["models"].items()},
                trigger=_a(str, values["trigger"]),
                reference=(_a(int, values["reference"][0]), _a(int, values["reference"][1])),
                empty_text=_a(str, values["empty_text"]),
                # Of an index that was written before there was a choice.
                text=_stage(values.get("text", "context")),
            )
        # Whatever is missing or of another type: users edit the file, and disks damage it.
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): run ltx2 dataset again") from error

    def changed(self) -> list[str]:
        """Sentences about media files that changed since they were encoded; files that are gone are not."""
        texts = []
        for entry in self.entries:
            for name, state in entry.sources.items():
                path = Path(name)
                if path.is_file() and state_of(path) != state:
                    texts.append(f"{entry.where}: {path.name} changed since it was encoded")
        return texts


def _entry(values: Mapping[str, Any]) -> Entry:
    """Read an entry of the index; raises an error of any kind if it is damaged."""
    return Entry(
        file=_a(str, values["file"]),
        where=_a(str, values["where"]),
        bucket=_a(str, values["bucket"]),
        fps=float(values["fps"]),
        seconds=float(values["seconds"]),
        has_video=_a(bool, values["has_video"]),
        has_audio=_a(bool, values["has_audio"]),
        captions=tuple(_a(str, text) for text in _list(values["captions"])),
        texts=tuple(_a(str, name) for name in _list(values["texts"])),
        sources={name: (int(size), int(time)) for name, (size, time) in values["sources"].items()},
        # Of an index that was written before clips could be repeated.
        repeats=_count(values.get("repeats", 1)),
    )


def _count(value: object) -> int:
    """The number ``value``, which must be from 1 on."""
    if _a(int, value) < 1:
        raise ValueError(f"{value} is no number of repeats")
    return _a(int, value)


def _stage(value: object) -> TextStage:
    for stage in TEXT_STAGES:
        if value == stage:
            return stage
    raise ValueError(f"{value!r} is no stage of captions")


def _list(value: object) -> list[Any]:
    """The list ``value``, which must not be empty."""
    if not _a(list, value):
        raise ValueError("a list is empty")
    return _a(list, value)


def _a(kind: type[_T], value: object) -> _T:
    """``value``, which must be of the type ``kind``; raises TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def state_of(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def digest(values: Mapping[str, Any]) -> str:
    """A digest of JSON values: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def is_whole(path: Path) -> bool:
    """Whether a file of the cache exists and is as long as its header says."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def write_clip(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write latents of one clip, by name, without a batch axis; ``facts`` are strings for the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, facts)


def stale_files(folder: Path, index: Index) -> list[Path]:
    """Files of latents and texts in ``folder`` that ``index`` does not list."""
    used = {entry.file for entry in index.entries} | {name for e in index.entries for name in e.texts}
    used.add(index.empty_text)
    found = [*folder.glob("clips/*.safetensors"), *folder.glob("texts/*.safetensors")]
    return sorted(path for path in found if path.relative_to(folder).as_posix() not in used)
