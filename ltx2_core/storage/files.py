"""Lists model folders and reads their JSON files, safe against unexpected content.

Users put anything into model folders. So the listing is bounded and does not follow links to folders, and
JSON is read from regular files of limited size only: a pipe would block for ever.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What JSON can hold; tuples are written as lists."""

JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON object that this library makes."""

ParsedJson: TypeAlias = Mapping[str, Any]
"""A JSON object that was read. It may hold anything, so whoever takes a value from it checks it."""

MAX_ENTRIES = 10_000
"""Most files and folders below a model folder; released ones have fewer than 100."""

MAX_JSON_BYTES = 64 * 2**20
"""Largest configuration or index that is read; the largest index of a released model has 0.2 MB."""


def entries(folder: Path) -> list[Path]:
    """All files and folders below ``folder``, sorted by depth and then by path.

    Folders that cannot be listed are left out. Raises ValueError for more than 10,000 files and folders.
    """
    found: list[Path] = []
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as listing:
                for entry in listing:
                    # Counted while listing, since a wrong path may name a whole disk.
                    found.append(Path(entry.path))
                    if len(found) > MAX_ENTRIES:
                        raise ValueError(
                            f"{folder} holds more than {MAX_ENTRIES} files: it is not a model folder"
                        )
                    # Links to folders may lead in circles or out of the model folder.
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(found[-1])
        except OSError:
            continue
    return sorted(found, key=lambda path: (len(path.parts), path))


def state_of(path: Path) -> tuple[tuple[Path, int, int], ...]:
    """Path, size and time of the last change (ns) of the file ``path``, or of a folder and all below it.

    The value is another one after a file was replaced, added or removed. What is missing is left out.
    """
    found = []
    for one in (path, *(entries(path) if path.is_dir() else ())):
        try:
            status = one.stat()
        except OSError:
            continue
        found.append((one, status.st_size, status.st_mtime_ns))
    return tuple(found)


def read_object(path: Path) -> ParsedJson:
    """Read a JSON object from the file ``path``.

    Raises ValueError that names the file if it cannot be read, has more than 64 MiB, or holds something else.
    """
    try:
        status = path.stat()
        # A pipe or device would block for ever.
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if status.st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path} has {status.st_size} bytes, too many for a configuration or an index")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        value = json.loads(content.decode("utf-8"))
    # json raises RecursionError for deep nesting, which a damaged or hostile file may have.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(value).__name__}")
    return value


def indexed_files(index: Path) -> list[Path]:
    """The weight files (shards) that an index file ``*.safetensors.index.json`` lists, as full paths.

    Raises ValueError if the index lists no file, a name with a folder in it, or a file that is missing.
    """
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(_is_file_name(name) for name in names.values()):
        raise ValueError(f"{index} has no 'weight_map' from tensors to file names; download it again")
    # Several tensors share a shard.
    files = [index.parent / name for name in sorted(set(names.values()))]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ValueError(
            f"{index} names {len(files)} files but {', '.join(missing[:3])} ({len(missing)} in all) are "
            "missing; download them again"
        )
    return files


def _is_file_name(name: object) -> bool:
    # A name with a folder could make an index read files from anywhere on the machine.
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
