"""What turns a workflow of the tiny test models into one of released files: files, and sizes of real clips.

The files are those of the workflow's note, so that the note, the downloads and the settings are one list.
"""

from __future__ import annotations

from typing import Any

from workflow_files import File, named
from workflow_format import Node, Workflow
from workflow_notes import NOTES

Json = dict[str, Any]
Change = tuple[Any, Any]
"""A value of the tiny workflow, and what it becomes."""

RELEASED_VALUES = "ltx2_released"
"""Property of a node, which the page of this pack reads: by widget, the two values."""
NONE = "none"
FOLDER_OF = {
    "ckpt_name": ("checkpoints", "diffusion_models"),
    "text_encoder": ("text_encoders",),
    "upscaler": ("latent_upscale_models",),
    "lora": ("loras",),
}
SIZES = {"1": (1024, 576), "2": (1280, 704)}
"""Width and height by the number of stages."""
SECONDS = 5.0
TINY_SECONDS = 1.96
"""Length of the tiny clips that are made without another clip; the length of others follows that clip."""
TRAINING = {"buckets": "768x512x49", "steps": 1000, "learning_rate": 1e-4, "preview_every": 250}
"""Settings of a LoRA run of real clips."""
STRENGTH = {"camera": 1.0}
"""Strength of a released LoRA where the tiny workflow has another one."""


def state_released(workflow: Json, name: str, table: Workflow) -> None:
    """Write the released files and sizes into the properties of a workflow in UI format."""
    numbers = {one: number for number, one in enumerate(table.nodes, start=1)}
    properties = {node["id"]: node["properties"] for node in workflow["nodes"]}
    for one, changes in real_values(name, table).items():
        stated = properties[numbers[one]]
        stated[RELEASED_VALUES] = {widget: list(change) for widget, change in changes.items()}
        if files := named([released for _, released in changes.values()]):
            stated["models"] = [file.model() for file in files]


def real_values(name: str, workflow: Workflow) -> dict[str, dict[str, Change]]:
    """By node of the table and by widget: the value with tiny models and the one with released files."""
    files = NOTES[name].files
    found = {}
    for one, node in workflow.nodes.items():
        changes = _files(one, node, files) | _size(one, node)
        if changes := {widget: change for widget, change in changes.items() if change[0] != change[1]}:
            found[one] = changes
    return found


def _files(name: str, node: Node, files: tuple[File, ...]) -> dict[str, Change]:
    chosen = {
        widget: value
        for widget, value in node.inputs.items()
        if widget in FOLDER_OF and value != NONE and not str(value).startswith("@")
    }
    return {widget: (value, _file(name, widget, files).name) for widget, value in chosen.items()}


def _file(name: str, widget: str, files: tuple[File, ...]) -> File:
    """The file of the note for one widget; the distilled LoRA is for the node of that name."""
    fitting = [file for file in files if file.folder in FOLDER_OF[widget]]
    if widget == "lora":
        fitting = [file for file in fitting if ("distilled" in file.name) == (name == "distilled")]
    (file,) = fitting
    return file


def _size(name: str, node: Node) -> dict[str, Change]:
    tiny = node.inputs
    if name in STRENGTH:
        return {"strength": (tiny["strength"], STRENGTH[name])}
    if node.kind == "LTX2AVTextToAudio":
        return {"seconds": (tiny["seconds"], SECONDS)}
    if node.kind == "LTX2AVTrainLora":
        return {widget: (tiny[widget], value) for widget, value in TRAINING.items()}
    if node.kind != "LTX2AVClipPlan":
        return {}
    width, height = SIZES[tiny["stages"]]
    changes: dict[str, Change] = {"width": (tiny["width"], width), "height": (tiny["height"], height)}
    if tiny["length"] == TINY_SECONDS and tiny["fps"] != "@clip":
        changes["length"] = (TINY_SECONDS, SECONDS)
    if "megapixels" in tiny:
        changes["megapixels"] = (tiny["megapixels"], 1.0)
    return changes
