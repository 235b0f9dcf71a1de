"""How often files below a folder are opened, by anybody, as the kernel tells it (inotify; Linux only)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType

IN_OPEN, IN_NONBLOCK = 0x20, os.O_NONBLOCK
EVENT = struct.Struct("iIII")


class FileOpens:
    """``counts`` since the last call of it, by file name.

    >>> with FileOpens(folder) as opens:
    ...     work()
    ...     opens.counts()
    """

    available = sys.platform == "linux"

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        self._inotify = -1

    def __enter__(self) -> FileOpens:
        self._inotify = self._libc.inotify_init1(IN_NONBLOCK)
        for path in self._folders:
            if self._libc.inotify_add_watch(self._inotify, os.fsencode(path), IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {path}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._inotify)

    def counts(self) -> Counter[str]:
        """Opens by name since this was last asked; folders do not count."""
        found: Counter[str] = Counter()
        while True:
            try:
                events = os.read(self._inotify, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(events):
                _, mask, _, length = EVENT.unpack_from(events, at)
                name = events[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0").decode()
                if name and not mask & 0x40000000:
                    found[name] += 1
                at += EVENT.size + length
