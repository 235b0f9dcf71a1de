"""The inputs of all nodes are those of shipped workflows, which store the values of widgets by position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from host_server import Json, Server

WIDGETS = Path(__file__).resolve().parent / "data" / "widgets.json"
"""Node -> its inputs in order, each as [name, type, default]; a choice with own widgets lists those too.

An input that is added goes into the file; one that is renamed, moved or has another type or default breaks
saved workflows.
"""


def inputs_of(node: Json) -> list[list[Any]]:
    """The inputs of one entry of ``/object_info``, or of one option of a dynamic combo."""
    entries = {**node.get("required", {}), **node.get("optional", {})}
    return [_held(name, *entry) for name, entry in entries.items()]


def _held(name: str, kind: Any, settings: Json | None = None) -> list[Any]:
    settings = settings or {}
    # An input of several types has one widget, whose type is the one that is saved.
    kind = settings.get("widgetType", kind)
    held = [name, "COMBO" if isinstance(kind, list) else kind, settings.get("default")]
    options = settings.get("options", [])
    if options and isinstance(options[0], dict):
        held.append({option["key"]: inputs_of(option["inputs"]) for option in options})
    return held


def test_names_order_types_and_defaults_of_all_inputs_are_those_of_saved_workflows(server: Server):
    known = server.get("/object_info")
    ours = {name: inputs_of(node["input"]) for name, node in known.items() if name.startswith("LTX2AV")}
    held = json.loads(WIDGETS.read_text(encoding="utf-8"))
    assert ours.keys() == held.keys()
    for name, inputs in ours.items():
        assert inputs == held[name], name
