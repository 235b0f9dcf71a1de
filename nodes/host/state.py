"""Where unfinished work is kept in the host's output folder, and what it is work on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths


def state_folder(name: str, settings: Mapping[str, Any]) -> Path:
    """A folder in the output folder, one for each set of settings (JSON values).

    Raises ValueError for a name that leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    folder = (output / name.strip()).resolve()
    if not name.strip() or not folder.is_relative_to(output) or folder == output:
        raise ValueError(f"folder={name!r} must be a name within the output folder, such as ltx2_long")
    return folder / _digest(settings)


def upstream(prompt: Mapping[str, Any] | None, node: str | None) -> str:
    """A digest of all that leads to a node of a graph in API format: choices and links, not node numbers.

    It is the same when the graph runs again, in another process too; empty where the host does not say.
    """
    found: dict[str, str] = {}

    def of(number: str) -> str:
        if number not in found:
            one = (prompt or {}).get(number, {})
            inputs = {
                name: [of(value[0]), value[1]] if _is_link(value) else value
                for name, value in one.get("inputs", {}).items()
            }
            found[number] = _digest({"class": one.get("class_type"), "inputs": inputs})
        return found[number]

    return "" if not prompt or node not in prompt else of(node)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
