"""Writes output files completely or not at all, and never over a device, a pipe or a socket."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

_KINDS = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
PART_AGE = 3600.0
"""Seconds without a write after which a temporary file counts as that of a run that was killed."""


def check_output(path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Check that a file can be written at ``path``, before the work starts; returns ``path`` as a Path.

    If ``path`` is a symbolic link, the check is for the file that the link names, which will be replaced; the
    link itself stays.

    Raises FileNotFoundError if the folder is missing, IsADirectoryError if ``path`` is a folder,
    FileExistsError for an existing file with ``overwrite`` off and for a device, a pipe or a socket,
    PermissionError if the folder may not be written, and another OSError if no file can be created there or
    ``path`` is a loop of links.
    """
    file = Path(path)
    real = _real(file)
    _check_folder(real)
    if real.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "the output is a folder; add a file name, or a slash for PNG frames", str(file)
        )
    _check_replaceable(real, file)
    if real.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "the output exists; choose another name", str(file))
    _probe(real)
    return file


def check_new_folder(path: Path) -> None:
    """Check that the folder ``path`` can be made, or exists and is empty.

    Raises FileNotFoundError if the folder around it is missing, FileExistsError if ``path`` is a file or a
    folder that contains files, and PermissionError or another OSError if nothing can be created there.
    """
    _check_folder(path)
    if path.is_dir():
        # A clip among the frames of another one would have its length, with nothing that tells them apart.
        if any(path.iterdir()):
            raise FileExistsError(
                errno.EEXIST, "the folder is not empty; empty it or choose another", str(path)
            )
    elif path.exists() or path.is_symlink():
        raise FileExistsError(
            errno.EEXIST, "the output is a file and not a folder; leave the slash out", str(path)
        )
    _probe(path)


def check_new_files(folder: Path, names: re.Pattern[str]) -> None:
    """Check that files can be written into ``folder``, and that it has no file whose name matches ``names``.

    Raises FileNotFoundError if ``folder`` is missing, FileExistsError for such a file, and PermissionError or
    another OSError if no file can be created there.
    """
    # The name stands for any file in the folder, since the check looks at a path's parent.
    _check_folder(folder / "frames")
    for old in folder.iterdir():
        if names.fullmatch(old.name):
            advice = "there are numbered images of this name; remove them or choose another"
            raise FileExistsError(errno.EEXIST, advice, str(old))
    _probe(folder / "frames")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A context that yields a temporary path, to which the caller writes the content of the file ``path``.

    If the block succeeds, the temporary file is renamed to ``path``; if it fails, the temporary file is
    removed. An old file at ``path`` stays as it is until the rename. If ``path`` is a symbolic link, the file
    that the link names is replaced. Raises FileExistsError for a device, a pipe or a socket; an OSError of
    the block is raised again with advice on what to do (see :func:`explain`). Windows replaces no file that a
    program has open or that is memory-mapped: the new file then stays next to it, as the OSError says.
    """
    # The temporary file is in the same folder, because a rename is atomic only within one file system.
    real = _real(path)
    temporary = _temporary(real)
    remove_dead_parts(real)
    try:
        yield temporary
        # Checked again, since it may have appeared while the file was written.
        _check_replaceable(real, path)
        _replace(temporary, real)
    except OSError as error:
        raise explain(error, path) from error
    # A failed or cancelled run leaves no partial file behind.
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path, *, own: bool) -> Iterator[Path]:
    """A context that yields a temporary folder, whose files are moved to ``folder`` if the block succeeds.

    If the block fails, the temporary folder is removed. With ``own`` the temporary folder itself is renamed
    to ``folder``, which must be missing or empty. Without ``own`` the files are moved into ``folder``; if one
    of their names exists there, FileExistsError is raised and none of the new files remains. Any other
    OSError is raised again with advice on what to do (see :func:`explain`).
    """
    # The temporary folder is next to its destination, so that moving the frames copies no data.
    temporary = _temporary(folder if own else folder / "frames")
    try:
        temporary.mkdir()
        yield temporary
        if own:
            # A rename onto an empty folder fails on Windows.
            if folder.is_dir():
                folder.rmdir()
            temporary.rename(folder)
        else:
            _move_all(temporary, folder)
    except OSError as error:
        raise explain(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_dead_parts(path: Path) -> None:
    """Remove the unfinished temporary files of output ``path`` that were last written more than an hour ago.

    Such files remain when a run is killed before it can clean up.
    """
    # A killed process runs no cleanup, and nobody looks for hidden files of several gigabytes.
    for part in path.parent.glob(f".{escape(path.stem)}-*.part"):
        # Another run may remove it at the same time.
        with suppress(OSError):
            # Age and not a lock, since locks do not work across machines on every network file system.
            if time.time() - part.lstat().st_mtime > PART_AGE:
                part.unlink()


def explain(error: OSError, path: Path) -> OSError:
    """Return an OSError like ``error`` whose message says what to do, such as to free space on the disk.

    ``path`` is the output that the message names. ``error`` itself is returned if there is no advice for its
    error number.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "the disk is full; free some space or choose another output folder"
    elif error.errno == errno.EFBIG:
        advice = "the file grew past the size limit set for this process; raise it"
    elif error.errno == errno.EPIPE:
        advice = "the program that reads the output has ended"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "the output folder may not be written; choose another or change its rights"
    elif error.errno == errno.ENOENT and str(error.filename).endswith(".part"):
        advice = "no file can be made in this folder; choose another"
    else:
        return error
    # OSError turns into the subclass of its number: PermissionError for EACCES and EPERM.
    return OSError(error.errno, advice, str(path))


def _real(path: Path) -> Path:
    """Return the path that a symbolic link names, or ``path`` itself. Raises OSError for a loop of links."""
    if not path.is_symlink():
        return path
    try:
        return path.resolve()
    # Python before 3.13 reports a loop as a RuntimeError.
    except (RuntimeError, OSError) as error:
        raise OSError(errno.ELOOP, "the output is a symbolic link to itself", str(path)) from error


def _replace(new: Path, old: Path) -> None:
    try:
        # Unlike rename, this also replaces an existing file on Windows.
        new.replace(old)
    except PermissionError as error:
        if not old.is_file():
            raise
        # What took an hour to compute is not removed because a player has the old file open.
        beside = next(
            path for n in range(1, 1000) if not (path := old.with_stem(f"{old.stem}-new{n}")).exists()
        )
        try:
            new.rename(beside)
        except OSError:
            raise error from None
        raise OSError(
            errno.EBUSY,
            f"the file cannot be replaced while a program has it open or loaded; the new one is "
            f"{beside.name} next to it: close the program, then rename it",
            str(old),
        ) from error


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such output folder; create it first", str(path.parent))


def _check_replaceable(real: Path, path: Path) -> None:
    """Raise FileExistsError if ``real`` is a device, a pipe or a socket, which a rename would destroy.

    ``real`` is the output with symbolic links followed; ``path`` is the output as the user wrote it, for the
    message.
    """
    try:
        # A device as output is nearly always a mistake, except /dev/stdout, for which there is "-".
        mode = real.stat().st_mode
    except FileNotFoundError:
        return
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise FileExistsError(
                errno.EEXIST,
                f"the output is {name} and is not replaced; use a file name, or - for stdout",
                str(path),
            )


def _probe(path: Path) -> None:
    # Permission bits do not tell for network and read-only file systems, so a file is really created.
    probe = _temporary(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise explain(error, path) from error


def _move_all(source: Path, folder: Path) -> None:
    """Move all files of folder ``source`` into ``folder``.

    If one cannot be moved, those already moved are deleted. Raises FileExistsError if a name exists in
    ``folder``.
    """
    moved: list[Path] = []
    try:
        for file in sorted(source.iterdir()):
            target = folder / file.name
            if target.exists():
                raise FileExistsError(errno.EEXIST, "the output exists; choose another name", str(target))
            file.rename(target)
            moved.append(target)
    # Ctrl-C is not an Exception, and a half-moved sequence would block the next run.
    except BaseException:
        for target in moved:
            target.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    # Hidden and unique, so that concurrent runs into one folder do not share a file. The name is cut, since
    # names have at most 255 bytes.
    return path.with_name(f".{path.stem[:40]}-{uuid.uuid4().hex[:12]}.part")
