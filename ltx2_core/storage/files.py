"""Files of a model folder: listed within bounds, and JSON read from regular files only.

Anything may lie in a model folder, so nothing here waits for a pipe or a device, follows a link to a folder,
or reads more than it must.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_ENTRIES = 10_000
"""Files and folders in a model folder; a released one has below 100."""

MAX_JSON_BYTES = 64 * 2**20
"""Of a configuration or an index; the largest index of a released model has 0.2 MB."""


def entries(folder: Path) -> list[Path]:
    """All that lies in ``folder`` and below, the nearest first, in the order of names.

    What cannot be listed is left out. Raises ValueError for more than ``MAX_ENTRIES``.
    """
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    found.append(Path(entry.path))
                    if len(found) > MAX_ENTRIES:
                        raise ValueError(
                            f"{folder} holds more than {MAX_ENTRIES} files: it is no model folder"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(found[-1])
        except OSError:
            continue
    return sorted(found, key=lambda path: (len(path.parts), path))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError that names the file and what it is instead."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if status.st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path} has {status.st_size} bytes, too many for a configuration or an index")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(value).__name__}")
    return value


def indexed_files(index: Path) -> list[Path]:
    """The files that a ``*.safetensors.index.json`` names, all in its folder.

    Raises ValueError where it names none, or one that is absent.
    """
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(_is_file_name(name) for name in names.values()):
        raise ValueError(f"{index} has no 'weight_map' from tensors to file names; download it again")
    files = [index.parent / name for name in sorted(set(names.values()))]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ValueError(
            f"{index} names {len(files)} files but {', '.join(missing[:3])} ({len(missing)} in all) are "
            "missing; download them again"
        )
    return files


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
