"""The table of released files (``released.json``), and models that are made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

_TABLE: Final = Path(__file__).with_name("released.json")


@dataclass(frozen=True, kw_only=True)
class ReleasedFile:
    """A file of a repository of Hugging Face.

    ``path`` is its name there, and ``folder`` that of ComfyUI's folder for it. ``generations`` are the
    generations of LTX-2 that use it, or "0.9" for LTX-Video. ``bytes`` is its size, None if it is not known;
    ``exact`` is False for a size that is rounded. ``sha256`` is the published hash of its content, None if it
    is not known.
    """

    id: str
    generations: tuple[str, ...]
    kind: str
    folder: str
    repository: str
    path: str
    bytes: int | None
    exact: bool
    sha256: str | None
    gated: bool

    @property
    def name(self) -> str:
        """Name of the file on disk."""
        return Path(self.path).name


@dataclass(frozen=True, kw_only=True)
class ReleasedModel:
    """Files that together make clips; ``distilled`` says that they are sampled in few steps.

    ``tokenizer`` belongs beside the text encoder; None where that holds it. ``size`` is the generation of
    LTX-2, or which size of LTX-Video it is, such as "ltxv-2b"; ``stored`` says how the blocks of the
    transformer are stored, such as "fp8".
    """

    name: str
    checkpoints: tuple[ReleasedFile, ...]
    text_encoder: ReleasedFile
    upscaler: ReleasedFile
    distilled: bool
    size: str
    stored: str = "bf16"
    tokenizer: ReleasedFile | None = None

    @property
    def files(self) -> tuple[ReleasedFile, ...]:
        tokenizer = () if self.tokenizer is None else (self.tokenizer,)
        return (*self.checkpoints, self.text_encoder, *tokenizer, self.upscaler)


@cache
def released_files() -> dict[str, ReleasedFile]:
    """Id -> file, in the order of the table."""
    return {entry["id"]: _file(entry) for entry in _table()["files"]}


@cache
def released_models() -> dict[str, ReleasedModel]:
    """Name -> model, in the order of the table."""
    files = released_files()
    return {
        name: ReleasedModel(
            name=name,
            checkpoints=tuple(files[one] for one in entry["checkpoints"]),
            text_encoder=files[entry["text_encoder"]],
            upscaler=files[entry["upscaler"]],
            distilled=entry["distilled"],
            size=entry.get("size") or files[entry["checkpoints"][0]].generations[0],
            stored=entry.get("stored", "bf16"),
            tokenizer=files[entry["tokenizer"]] if "tokenizer" in entry else None,
        )
        for name, entry in _table()["models"].items()
    }


def files_of(name: str) -> tuple[ReleasedFile, ...]:
    """The files of a model, or the one file with this id. Raises ValueError for an unknown name."""
    if name in released_models():
        return released_models()[name].files
    if name in released_files():
        return (released_files()[name],)
    raise ValueError(f"there is no released model or file {name!r}: see ltx2 models list")


def model_of(name: str) -> ReleasedModel:
    """The model called ``name``. Raises ValueError, which lists all names, if there is none."""
    try:
        return released_models()[name]
    except KeyError:
        raise ValueError(f"{name!r} is no released model: use {', '.join(released_models())}") from None


@cache
def _table() -> Any:
    return json.loads(_TABLE.read_text(encoding="utf-8"))


def _file(entry: dict[str, Any]) -> ReleasedFile:
    return ReleasedFile(
        id=entry["id"],
        generations=tuple(entry["generation"].split(", ")),
        kind=entry["kind"],
        folder=entry["folder"],
        repository=entry["repository"],
        path=entry["path"],
        bytes=entry.get("bytes", entry.get("about_bytes")),
        exact="bytes" in entry,
        sha256=entry.get("sha256"),
        gated=entry.get("gated", False),
    )
