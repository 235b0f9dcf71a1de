"""The encoded dataset on disk: latents and texts in safetensors files, listed by an index.

Letters: C channels, F H W latent frames, rows and columns, T audio latent frames, S text tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..media.atomic import replacing
from ..storage.files import read_object
from ..storage.writing import write_tensors

INDEX = "dataset.json"
VERSION = 1
"""Raised when the code encodes differently, so that older entries are encoded again."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One encoded clip.

    ``file`` is its name in the cache, ``where`` the place in the dataset. ``bucket`` is the size of its
    frames, "" for audio alone. ``texts`` are the files of its captions, ``captions`` what they say.
    ``sources`` has size in bytes and time of change of each media file.
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


@dataclass(frozen=True, kw_only=True)
class Index:
    """The list of an encoded dataset.

    ``models`` has the digest of each network that encoded it, by the name of the component. ``trigger`` is
    the word in front of the captions, "" for none. ``reference`` are the factors by which references are
    smaller and slower. ``empty_text`` is the file of the empty caption.
    """

    entries: tuple[Entry, ...]
    models: Mapping[str, str]
    trigger: str = ""
    reference: tuple[int, int] = (1, 1)
    empty_text: str = ""

    @property
    def fingerprint(self) -> str:
        """A digest of all entries in their order: 32 hexadecimal digits."""
        names = [(entry.file, entry.texts) for entry in self.entries]
        return digest({"entries": names})

    def save(self, folder: Path) -> None:
        """Write the index to ``folder``, whole or not at all."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1)
        with replacing(folder / INDEX) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read the index of ``folder``; raises ValueError if there is none or it is of another version."""
        path = folder / INDEX
        if not path.is_file():
            raise ValueError(
                f"{folder} is no encoded dataset: make it with ltx2 dataset SOURCE --out {folder}"
            )
        values: Any = read_object(path)
        if values.pop("version", None) != VERSION:
            raise ValueError(f"{path} was written by another version: run ltx2 dataset again")
        entries = tuple(
            Entry(
                **{
                    **entry,
                    "captions": tuple(entry["captions"]),
                    "texts": tuple(entry["texts"]),
                    "sources": {name: (int(a), int(b)) for name, (a, b) in entry["sources"].items()},
                }
            )
            for entry in values.pop("entries")
        )
        return cls(entries=entries, **{**values, "reference": tuple(values["reference"])})

    def changed(self) -> list[str]:
        """Sentences about media files that changed since they were encoded; files that are gone are not."""
        texts = []
        for entry in self.entries:
            for name, state in entry.sources.items():
                path = Path(name)
                if path.is_file() and state_of(path) != state:
                    texts.append(f"{entry.where}: {path.name} changed since it was encoded")
        return texts


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
