"""Files that clients have sent, whole or in pieces, which together take no more room than they may."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final
from uuid import uuid4

from .files import size_of

MOST_UNFINISHED: Final = 1000
"""How many uploads may be unfinished; each takes a file, however short it will be."""
_NAME: Final = re.compile(r"[0-9a-f-]{36}(\.[a-z0-9]{1,5})?")


class NoRoom(Exception):
    """Raised for a file for which the uploads that are there leave no room."""


class Busy(Exception):
    """Raised for a piece of an upload while another piece of it arrives."""


class TooLong(Exception):
    """Raised for a piece that goes beyond the stated length of its upload."""


class WrongOffset(Exception):
    """Raised for a piece that does not begin where the upload ends; ``at`` is where that is, in bytes."""

    def __init__(self, at: int) -> None:
        super().__init__(f"the upload has {at} bytes")
        self.at = at


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """How much of an upload has arrived: ``offset`` of ``length`` bytes, in the file ``path``."""

    path: Path
    offset: int
    length: int

    @property
    def whole(self) -> bool:
        return self.offset == self.length


class Uploads:
    """The files in ``folder``, which may have ``most_bytes`` together. Any thread may use it.

    Those that arrive in pieces are in ``unfinished`` until they are whole, as NAME.LENGTH, so that a server
    that starts again finds all that it needs to continue in the files themselves.
    """

    def __init__(self, folder: Path, unfinished: Path, most_bytes: int) -> None:
        self._folder, self._unfinished, self._most_bytes = folder, unfinished, most_bytes
        self._lock = Lock()
        self._arriving = 0
        """Bytes of the files that are being copied."""
        self._busy: set[str] = set()
        """Names of the uploads of which a piece arrives."""
        for path in list(unfinished.iterdir()):
            # A process that was killed may have written the last byte without moving the file.
            self._settle(path.name.rpartition(".")[0])

    def add(self, file: BinaryIO, size: int, suffix: str) -> str:
        """Copy ``file``, which has ``size`` bytes, and return its new name, which ends with ``suffix``.

        Raises :class:`NoRoom` if it does not fit.
        """
        with self._lock:
            self._check_room(size)
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

    def begin(self, length: int, suffix: str) -> str:
        """Begin an upload of ``length`` bytes in pieces and return its name, which ends with ``suffix``.

        Its whole length counts as taken from now on. Raises :class:`NoRoom` if it does not fit.
        """
        name = f"{uuid4()}{suffix}"
        path = self._unfinished / f"{name}.{length}"
        with self._lock:
            self._check_room(length)
            if sum(1 for _ in self._unfinished.iterdir()) >= MOST_UNFINISHED:
                raise NoRoom
            path.touch(mode=0o600, exist_ok=False)
            self._settle(name)
        return name

    def arrival(self, name: str) -> Arrival | None:
        """How much of the upload ``name`` has arrived; None if there is none."""
        # A name with another form, such as "../x" or "*", is that of no upload.
        if not _NAME.fullmatch(name):
            return None
        # In this order, because an upload that becomes whole in between goes from the first to the second.
        for path in self._unfinished.glob(f"{name}.*"):
            length = path.name.removeprefix(f"{name}.")
            if length.isdecimal():
                return Arrival(path=path, offset=size_of(path), length=int(length))
        whole = self._folder / name
        if not whole.is_file():
            return None
        size = size_of(whole)
        return Arrival(path=whole, offset=size, length=size)

    def open(self, name: str, offset: int) -> Piece:
        """Open the upload ``name`` to append its next bytes, which begin at byte ``offset``.

        The caller must close the piece. Raises LookupError if there is no such upload, :class:`WrongOffset`
        and :class:`Busy`.
        """
        with self._lock:
            if name in self._busy:
                raise Busy
            found = self.arrival(name)
            if found is None:
                raise LookupError(name)
            if found.offset != offset:
                raise WrongOffset(found.offset)
            piece = Piece(found, partial(self._close, name))
            self._busy.add(name)
        return piece

    def _close(self, name: str) -> None:
        """End a piece of the upload ``name``."""
        with self._lock:
            self._busy.discard(name)
            self._settle(name)

    def _settle(self, name: str) -> None:
        """Move an upload that is whole to where jobs find it."""
        found = self.arrival(name)
        if found is not None and found.whole:
            found.path.replace(self._folder / name)

    def remove(self, name: str) -> None:
        """Remove an upload, whole or not. Raises :class:`Busy` while a piece of it arrives."""
        with self._lock:
            if name in self._busy:
                raise Busy
            found = self.arrival(name)
            if found is not None:
                found.path.unlink(missing_ok=True)

    def _check_room(self, size: int) -> None:
        # Files sent at the same time count too, so that they do not take the same room twice.
        taken = sum(size_of(path) for path in self._folder.iterdir() if path.suffix != ".part")
        stated = sum(int(path.name.rpartition(".")[2]) for path in self._unfinished.iterdir())
        if taken + stated + self._arriving + size > self._most_bytes:
            raise NoRoom


class Piece:
    """The next bytes of an upload of which ``arrival`` is here. ``closed`` is called at its end.

    The attribute ``offset`` counts the bytes of the upload.
    """

    def __init__(self, arrival: Arrival, closed: Callable[[], None]) -> None:
        self.offset, self._length, self._closed = arrival.offset, arrival.length, closed
        self._file = arrival.path.open("ab")

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises :class:`TooLong` if it goes beyond the length of the upload."""
        if self.offset + len(data) > self._length:
            raise TooLong
        self._file.write(data)
        self.offset += len(data)

    def close(self) -> None:
        """Have the system write what has arrived to its disk. It stays, however little it is."""
        try:
            with self._file as file:
                file.flush()
                # What a client is told has arrived must survive a power cut.
                os.fsync(file.fileno())
        finally:
            self._closed()


def suffix_of(filename: str | None) -> str:
    """The end of the name that a client has given to a file, such as ".png"; "" if it has none.

    It is all that is used of that name.
    """
    found = re.search(r"\.[A-Za-z0-9]{1,5}$", filename or "")
    return found.group(0).lower() if found else ""
