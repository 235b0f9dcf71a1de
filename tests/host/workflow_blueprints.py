"""Main graphs as one node: subgraph blueprints, which ComfyUI offers in the node library and its search.

The graph of a workflow becomes the inside of a subgraph. Nodes that load or save media stay outside: what
they gave are inputs, and the clip is the output. Widgets that matter are shown on the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from workflow_edit_tables import EDITING
from workflow_files import DEV23, DISTILLED23, GEMMA3, UPSCALER23
from workflow_format import Json, Node, Workflow
from workflow_parts import DISTILLED, models
from workflow_released_tables import RELEASED
from workflow_tables import WORKFLOWS

PROJECT = "comfyui-ltx2"
OUTSIDE = ("LoadImage", "LoadVideo", "LoadAudio", "SaveVideo", "MarkdownNote")
SHOWN = {
    "LTX2AVPrompt": ("positive", "negative"),
    "LTX2AVClipPlan": ("width", "height", "megapixels", "length_unit", "length", "fps"),
    "LTX2AVExtend": ("length_unit", "length"),
    "LTX2AVRetake": ("video_regions", "audio_regions"),
    "LTX2AVSampleStage": ("seed",),
    "LTX2AVLoadAll": ("ckpt_name", "text_encoder", "upscaler"),
    "LTX2AVLoadLora": ("lora",),
}
"""Widgets that are shown on the node of the subgraph, by the node that they belong to, in this order."""

TINY = models(True).inputs
RELEASED_FILES = {
    TINY["ckpt_name"]: DEV23.name,
    TINY["text_encoder"]: GEMMA3.name,
    TINY["upscaler"]: UPSCALER23.name,
    DISTILLED: DISTILLED23.name,
}
SIZE = {"width": 1280, "height": 704, "length": 5.0}


@dataclass(frozen=True)
class Blueprint:
    """A workflow that becomes a subgraph, with the place and the line by which it is found."""

    workflow: Workflow
    category: str
    description: str


def _released(workflow: Workflow) -> Workflow:
    """A workflow of the tiny set with the files of LTX-2.3 and the size of a real clip."""

    def changed(node: Node) -> Node:
        inputs = {
            name: RELEASED_FILES.get(value, value) if isinstance(value, str) else value
            for name, value in node.inputs.items()
        }
        return replace(node, inputs={**inputs, **SIZE} if node.kind == "LTX2AVClipPlan" else inputs)

    columns = {
        title: {name: changed(node) for name, node in column.items()}
        for title, column in workflow.columns.items()
    }
    return Workflow(columns)


MAKING, EDITS = "LTX-2/make a clip", "LTX-2/edit a clip"
BLUEPRINTS = {
    "LTX-2 Text to Video": Blueprint(
        RELEASED["ltx23_text_to_video"],
        MAKING,
        "Text to video with audio by LTX-2.3 and its distilled LoRA: 8 steps at half size, 3 at full size.",
    ),
    "LTX-2 Image to Video": Blueprint(
        RELEASED["ltx23_image_to_video"],
        MAKING,
        "An image as first frame, with audio, by LTX-2.3 and its distilled LoRA: 8 and 3 steps.",
    ),
    "LTX-2 Text to Video, full model": Blueprint(
        _released(WORKFLOWS["text_to_video_two_stages"]),
        MAKING,
        "Text to video with audio in two stages: 20 guided steps at half size, 3 at full size.",
    ),
    "LTX-2 Extend Video": Blueprint(
        _released(EDITING["extend_video"]), EDITS, "Continues a clip and its audio by some seconds."
    ),
    "LTX-2 Retake Video": Blueprint(
        _released(EDITING["retake_two_stages"]),
        EDITS,
        "Regenerates seconds of the video or of the audio of a clip and preserves the rest.",
    ),
}


def subgraph_file(name: str, blueprint: Blueprint, workflow: Json) -> Json:
    """The file of a blueprint, from its workflow in UI format as the page saved it."""
    own = str(uuid5(NAMESPACE_URL, f"{PROJECT}/subgraphs/{name}"))
    inside = [node for node in workflow["nodes"] if node["type"] not in OUTSIDE]
    ids = {node["id"] for node in inside}
    links = [_link(link) for link in workflow["links"]]
    ends = _inputs(links, ids, inside), _outputs(links, ids)
    inner = [link for link in links if {link["origin_id"], link["target_id"]} <= ids]
    inputs = [_slot(own, "input", one, number) for number, one in enumerate(ends[0])]
    outputs = [_slot(own, "output", one, number) for number, one in enumerate(ends[1])]
    inner += [
        {**link, "origin_id": -10, "origin_slot": number}
        for number, one in enumerate(ends[0])
        for link in one.links
    ]
    inner += [
        {**link, "target_id": -20, "target_slot": number}
        for number, one in enumerate(ends[1])
        for link in one.links
    ]
    left, right = (side([node["pos"][0] for node in inside]) for side in (min, max))
    last = {"lastNodeId": max(ids), "lastLinkId": max(link["id"] for link in inner)}
    definition = {
        "id": own,
        "version": 1,
        "state": {"lastGroupId": len(workflow["groups"]), **last, "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": -10, "bounding": [left - 300, 0, 120, 100]},
        "outputNode": {"id": -20, "bounding": [right + 600, 0, 120, 60]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": [_linked(node, {link["id"] for link in inner}) for node in inside],
        "groups": workflow["groups"],
        "links": inner,
        "extra": {},
        "category": blueprint.category,
        "description": blueprint.description,
    }
    node = {
        "id": max(ids) + 1,
        "type": own,
        "pos": [0, 0],
        "size": [420, 600],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": one.name, "type": one.type, "link": None} for one in ends[0]],
        "outputs": [{"name": one.name, "type": one.type, "links": []} for one in ends[1]],
        "properties": {"proxyWidgets": list(_shown(inside)), **_origin(inside)},
        "widgets_values": [],
        "title": name,
    }
    return {
        "revision": 0,
        "last_node_id": node["id"],
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [definition]},
        "extra": {},
    }


@dataclass(frozen=True)
class _End:
    """An input or output of the subgraph, with the links that pass through it."""

    name: str
    type: str
    links: tuple[Json, ...]


def _inputs(links: list[Json], ids: set[int], inside: list[Json]) -> list[_End]:
    """One input for each output outside that something inside reads, called like the input that reads it."""
    found: dict[tuple[int, int], list[Json]] = {}
    for link in links:
        if link["target_id"] in ids and link["origin_id"] not in ids:
            found.setdefault((link["origin_id"], link["origin_slot"]), []).append(link)
    nodes = {node["id"]: node for node in inside}
    return [
        _End(
            nodes[group[0]["target_id"]]["inputs"][group[0]["target_slot"]]["name"],
            group[0]["type"],
            tuple(group),
        )
        for group in found.values()
    ]


def _outputs(links: list[Json], ids: set[int]) -> list[_End]:
    leaving = [link for link in links if link["origin_id"] in ids and link["target_id"] not in ids]
    return [_End(link["type"].lower(), link["type"], (link,)) for link in leaving]


def _slot(own: str, side: str, end: _End, number: int) -> Json:
    return {
        "id": str(uuid5(NAMESPACE_URL, f"{own}/{side}/{number}")),
        "name": end.name,
        "type": end.type,
        "linkIds": [link["id"] for link in end.links],
        "pos": [0, 20 * number],
    }


def _link(saved: list[Any]) -> Json:
    """A link of a workflow file as one within a subgraph."""
    return dict(
        zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), saved, strict=True)
    )


def _linked(node: Json, ids: set[int]) -> Json:
    """A node without links that are not in the subgraph."""
    inputs = [{**one, "link": one["link"] if one.get("link") in ids else None} for one in node["inputs"]]
    outputs = [
        {**one, "links": [link for link in one["links"] or [] if link in ids]} for one in node["outputs"]
    ]
    return {**node, "inputs": inputs, "outputs": outputs}


def _shown(inside: list[Json]) -> Iterator[list[str]]:
    """Node and name of each widget on the outside; of several nodes of a kind those of the first one."""
    for kind, names in SHOWN.items():
        first = next((node for node in inside if node["type"] == kind), None)
        linked = {one["name"] for one in (first or {}).get("inputs", []) if one.get("link") is not None}
        yield from ([str(first["id"]), name] for name in names if first is not None and name not in linked)


def _origin(inside: list[Json]) -> Mapping[str, str]:
    """The pack and its version, by which ComfyUI finds missing nodes."""
    properties = next(node["properties"] for node in inside if node["properties"].get("cnr_id") == PROJECT)
    return {name: properties[name] for name in ("cnr_id", "ver")}
