"""Folders that clients may name files of: a path outside of them, or a URL, is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol

UPLOADS = "uploads"
"""The first part of the name of a file that a client has sent."""


class OutsideRoots(ValueError):
    """Raised for the name of a file that no client may read, or that does not exist."""


class NamedFiles(Protocol):
    """Finds the files that a job names. Both methods raise ValueError if there is no such file."""

    def input(self, name: str) -> Path:
        """The path of an image, audio or video."""

    def lora(self, name: str) -> Path:
        """The path of a LoRA."""


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Folders of which clients name files by relative paths.

    ``inputs`` are folders of images, audio and video, and ``loras`` folders of LoRAs. ``uploads`` is the
    folder of files that clients have sent, whose names begin with "uploads/".
    """

    inputs: tuple[Path, ...]
    loras: tuple[Path, ...]
    uploads: Path
    fetch: Callable[[str], Path] | None = None
    """Fetches a file by its URL. Raises ValueError for one that may not be fetched; None fetches none."""

    def input(self, name: str) -> Path:
        """The file of an image, audio or video. Raises ValueError if there is none."""
        if self.fetch is not None and re.match("https?://", name, re.IGNORECASE):
            return self.fetch(name)
        first, _, rest = name.replace("\\", "/").partition("/")
        if first == UPLOADS and rest:
            return _inside(rest, (self.uploads,), name)
        return _inside(name, self.inputs, name)

    def lora(self, name: str) -> Path:
        """The file of a LoRA. Raises :class:`OutsideRoots` if there is none."""
        return _inside(name, self.loras, name)

    def named(self, value: Any) -> Any:
        """A copy of JSON values in which files have the names that clients use."""
        if isinstance(value, Mapping):
            return {key: self.named(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.named(one) for one in value]
        return self.shown(value) if isinstance(value, str) else value

    def shown(self, text: str) -> str:
        """Return ``text`` with the names that clients use in place of the paths of this machine."""
        for root, name in (
            (self.uploads, f"{UPLOADS}/"),
            # The private folder of the service.
            (self.uploads.parent, ""),
            *((root, "") for root in (*self.inputs, *self.loras)),
        ):
            text = text.replace(f"{root.resolve()}{os.sep}", name)
        return text


def _inside(name: str, roots: Sequence[Path], shown: str) -> Path:
    """The existing file or folder called ``name`` in the first of ``roots`` that has it, without links.

    ``shown`` is its name in error messages.
    """
    # The words of one message for all files that are not to be had: a client learns nothing about others.
    missing = OutsideRoots(f"no file {shown[:200]!r} in the folders of this server")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", name):
        raise OutsideRoots(f"{shown[:200]!r} is a URL, and this server fetches none: send the file itself")
    if not name.strip() or "\0" in name or Path(name).is_absolute() or PureWindowsPath(name).anchor:
        raise missing
    for root in roots:
        whole = root.resolve()
        try:
            # Links are followed first, so that one inside of a root leads nowhere else.
            path = (whole / name).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            continue
        if path != whole and path.is_relative_to(whole):
            return path
    raise missing
