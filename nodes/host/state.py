"""Folders for unfinished work in ComfyUI's output folder, each named by a digest of settings and inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths


def state_folder(name: str, settings: Mapping[str, Any]) -> Path:
    """The path "name/digest" in ComfyUI's output folder, where the digest is of ``settings`` (JSON values).

    The folder is not created. Raises ValueError if ``name`` is empty or leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    # Both paths are resolved, so that links and ".." cannot lead out of the output folder.
    folder = (output / name.strip()).resolve()
    if not name.strip() or not folder.is_relative_to(output) or folder == output:
        raise ValueError(f"folder={name!r} must be a name within the output folder, such as ltx2_long")
    return folder / _digest(settings)


def upstream(prompt: Mapping[str, Any] | None, node: str | None) -> str:
    """A digest of everything in the graph that a node's result depends on: its inputs and all nodes upstream.

    ``prompt`` is the graph in API format, ``node`` the node's number. Numbers of nodes do not enter the
    digest, so it is the same when the graph runs again, also in another process. It is "" if ComfyUI passes
    no graph or the node is not in it.
    """
    if not prompt or node is None or node not in prompt:
        return ""
    # Nodes are usually upstream of several others, so each is digested once.
    digests: dict[str, str] = {}

    def of(number: str) -> str:
        if number not in digests:
            entry = prompt.get(number, {})
            inputs = {
                # A link becomes the digest of its source and the slot, in place of a number that differs
                # between graphs.
                name: [of(value[0]), value[1]] if _is_link(value) else value
                for name, value in entry.get("inputs", {}).items()
            }
            digests[number] = _digest({"class": entry.get("class_type"), "inputs": inputs})
        return digests[number]

    return of(node)


def _is_link(value: object) -> bool:
    """Whether ``value``, that of an input in API format, is a link to another node's output.

    A link is the pair [node number, number of the output].
    """
    # In API format a link is [node, slot]; a list of other values is a widget's value.
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _digest(values: object) -> str:
    """A digest of JSON values, 16 hexadecimal digits."""
    # Sorted keys make the digest independent of the order in which a graph was saved.
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
