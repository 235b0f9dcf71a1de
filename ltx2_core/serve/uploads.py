"""Files that clients have sent, which together take no more room than they may."""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from uuid import uuid4

from .files import size_of


class NoRoom(Exception):
    """Raised for a file for which the uploads that are there leave no room."""


class Uploads:
    """The files in ``folder``, which may have ``most_bytes`` together. Any thread may use it."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = Lock()
        self._arriving = 0
        """Bytes of the files that are being copied."""

    def add(self, file: BinaryIO, size: int, suffix: str) -> str:
        """Copy ``file``, which has ``size`` bytes, and return its new name, which ends with ``suffix``.

        Raises :class:`NoRoom` if it does not fit.
        """
        with self._lock:
            # Files sent at the same time count too, so that they do not take the same room twice.
            taken = sum(size_of(path) for path in self._folder.iterdir() if path.suffix != ".part")
            if taken + self._arriving + size > self._most_bytes:
                raise NoRoom
            self._arriving += size
        name = f"{uuid4()}{suffix}"
        temporary = self._folder / f".{name}.part"
        try:
            with temporary.open("xb") as target:
                shutil.copyfileobj(file, target)
            with self._lock:
                temporary.replace(self._folder / name)
                self._arriving -= size
        except BaseException:
            with self._lock:
                self._arriving -= size
            temporary.unlink(missing_ok=True)
            raise
        return name
