"""Output files that are written completely or not at all."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

PART_AGE = 3600.0
"""Seconds after which a file that nobody writes any more is of a run that was killed."""


def check_output(path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Check that ``path`` can be written, before the work starts; returns it as a Path.

    Raises FileNotFoundError for a missing folder, IsADirectoryError for a folder in place of a file,
    FileExistsError where ``overwrite`` is off, PermissionError for a folder that may not be written.
    """
    file = Path(path)
    folder = file.parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such output folder; create it first", str(folder))
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "the output is a folder; add a file name", str(file))
    if file.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "the output exists; choose another name", str(file))
    # Permission bits do not tell for network and read-only file systems, so a file is really created.
    probe = _temporary(file)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise explain(error, file) from error
    return file


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it on success, remove it on any exception.

    An old file at ``path`` stays untouched until the rename. An OSError is raised again with advice on what
    to do (see :func:`explain`).
    """
    # The temporary file is in the same folder, because a rename is atomic only within one file system.
    temporary = _temporary(path)
    remove_dead_parts(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise explain(error, path) from error
    # A failed or cancelled run leaves no partial file behind.
    finally:
        temporary.unlink(missing_ok=True)


def remove_dead_parts(path: Path) -> None:
    """Remove unfinished files of ``path`` that nobody has written to for an hour: their runs were killed."""
    for part in path.parent.glob(f".{escape(path.stem)}-*.part"):
        # Another run may remove it at the same time.
        with suppress(OSError):
            if time.time() - part.lstat().st_mtime > PART_AGE:
                part.unlink()


def explain(error: OSError, path: Path) -> OSError:
    """An OSError with the number of ``error`` and a message that says what to do about ``path``.

    Returns ``error`` itself if there is no advice for its number.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "the disk is full; free some space or choose another output folder"
    elif error.errno == errno.EFBIG:
        advice = "the file grew past the size limit set for this process; raise it"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "the output folder may not be written; choose another or change its rights"
    else:
        return error
    # OSError turns into the subclass of its number: PermissionError for EACCES and EPERM.
    return OSError(error.errno, advice, str(path))


def _temporary(path: Path) -> Path:
    # Hidden and unique, so that concurrent runs into one folder do not share a file.
    return path.with_name(f".{path.stem}-{uuid.uuid4().hex[:12]}.part")
