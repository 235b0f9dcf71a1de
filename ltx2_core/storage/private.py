"""Folders of unfinished work: private to one user, locked while a run writes, cleared of abandoned files."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..media.atomic import PART_AGE

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Latents of a long clip take gigabytes, and after a month hardly anybody resumes it.
SAVED_AGE = 30 * 86400.0
"""Seconds after which latents that were never resumed are removed."""

log = logging.getLogger(__name__)
_held: dict[Path, tuple[int, int]] = {}
"""Locked folder -> (thread, how often it has locked it)."""
_guard = threading.Lock()


def private_folder(path: Path) -> Path:
    """Create the folder ``path`` if needed, make it readable by this user only (mode 0700), and return it.

    Raises ValueError if ``path`` is a link, or belongs to another user, who could exchange what is in the
    folder.
    """
    # What is there already, be it a file, is checked below.
    with suppress(FileExistsError):
        path.mkdir(parents=True, mode=0o700)
    check_private(path)
    return path


def check_private(path: Path) -> None:
    """Set the mode of the folder ``path`` to 0700, so that only this user can read it.

    Raises ValueError if ``path`` is no folder (or a link to one), or belongs to another user.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{path} is not a folder: remove it, choose another folder, or set TMPDIR to one")
    if hasattr(os, "getuid"):
        # Another user could exchange the latents that a run resumes from.
        if status.st_uid != os.getuid():
            raise ValueError(
                f"{path} belongs to another user: choose a folder of your own, or set TMPDIR to one"
            )
        if status.st_mode & 0o077:
            path.chmod(0o700)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder`` within the context; the same thread may take it again.

    The lock is the file ``.NAME.lock`` next to the folder ``NAME``. The operating system releases it when the
    process ends, even by a crash. Raises ValueError if another run holds the lock.
    """
    # Resolved, so that two names of one folder have the same lock.
    folder, thread = folder.resolve(), threading.get_ident()
    # A lock of files does not tell apart threads of one process, so that threads are told apart here.
    with _guard:
        owner, count = _held.get(folder, (thread, 0))
        if owner != thread:
            raise ValueError(_busy(folder))
        _held[folder] = thread, count + 1
    try:
        with _file_lock(folder) if count == 0 else _nothing():
            yield
    finally:
        with _guard:
            if count:
                _held[folder] = thread, count
            else:
                del _held[folder]


def prune_parts(folder: Path) -> None:
    """Remove the unfinished ``.part`` files in ``folder``. The caller must hold the lock of the folder."""
    # Whatever their age: with the lock held nobody can be writing one.
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def prune_saved(folder: Path) -> None:
    """Clean a folder of saved latents: remove ``.part`` files and saved latents that are too old.

    ``.part`` files are unfinished. They are removed an hour (``PART_AGE`` seconds) after their last change,
    saved latents (``.safetensors`` files, and ``.windows`` folders of a long clip) 30 days (``SAVED_AGE``
    seconds) after theirs.
    """
    now = time.time()
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            age = now - path.lstat().st_mtime
            if path.name.endswith(".part") and age > PART_AGE:
                path.unlink()
            elif path.suffix == ".safetensors" and age > SAVED_AGE:
                log.info("%s was not resumed for %d days and is removed", path, age // 86400)
                path.unlink()
            # A link is left alone, since what it points to may be anybody's folder.
            elif path.suffix == ".windows" and age > SAVED_AGE and not path.is_symlink():
                log.info("%s was not resumed for %d days and is removed", path, age // 86400)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _file_lock(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    while True:
        # A link in the place of the lock would make this process create a file elsewhere.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            # Without waiting, since a run may hold the lock for hours.
            _try_lock(descriptor)
        except OSError:
            os.close(descriptor)
            raise ValueError(_busy(folder)) from None
        # The run that held the lock may have removed the file in between: then its lock is another one's.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        _remove_lock(path, descriptor)


def _try_lock(descriptor: int) -> None:
    """Lock the open file ``descriptor`` until the process closes the file or ends.

    Raises OSError if another process has locked it.
    """
    if sys.platform == "win32":
        # Windows locks bytes of a file and not the file, and one byte is enough.
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_lock(path: Path, descriptor: int) -> None:
    if sys.platform == "win32":
        # An open file cannot be removed there, so that another run may have it by now.
        os.close(descriptor)
        with suppress(OSError):
            path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _busy(folder: Path) -> str:
    return f"another run is writing to {folder}: wait for its end, or use another output or state folder"
