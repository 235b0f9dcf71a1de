"""Draws each workflow as an SVG: groups, nodes with their sockets and settings, links coloured by type.

    python docs/graph_pictures.py

reads ``example_workflows/*.json`` with their API twins and writes ``docs/workflows/*.svg``. Equal workflows
give equal files, so a test can tell whether the images are up to date.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS, PICTURES = ROOT / "example_workflows", ROOT / "docs" / "workflows"

TITLE, ROW, MARGIN, RADIUS = 30, 22, 20, 8
CHARACTER = 7.6
"""Width of a character of the settings, in the units of the page."""

COLOURS = {
    "MODEL": "#b39ddb",
    "CLIP": "#ffd500",
    "VAE": "#ff6e6e",
    "CONDITIONING": "#ffa931",
    "LATENT": "#ff9cf9",
    "IMAGE": "#64b5f6",
    "AUDIO": "#4dd0a5",
    "VIDEO": "#8fd14f",
    "LATENT_UPSCALE_MODEL": "#c5a880",
}
OTHER = "#9aa4b2"

STYLE = """
  .page { fill: #20242c } .group { fill: #3f789e; fill-opacity: .16; stroke: #3f789e }
  .node { fill: #353a45; stroke: #12151a } .bar { fill: #454c5a }
  text { font: 14px system-ui, sans-serif; fill: #dde3ea } .name { font-weight: 600 }
  .caption { font-size: 15px; fill: #a9c8de } .out { text-anchor: end }
  .quiet { fill: #9aa4b2; font-size: 13px }
  .link { fill: none; stroke-width: 3; stroke-opacity: .85 }
"""


def display_names() -> dict[str, str]:
    """Name on the page of every node of this pack, by its id, read from the sources without ComfyUI."""
    names: dict[str, str] = {}
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                said = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
                if "node_id" in said and "display_name" in said:
                    names[str(said["node_id"])] = str(said["display_name"])
    return names


def picture(workflow: dict[str, Any], settings: dict[str, Any], names: dict[str, str]) -> str:
    """The SVG of a workflow; ``settings`` is the same graph in the format of the API."""
    groups = workflow.get("groups", [])
    # The note is text of its page, and no part of the graph.
    nodes = [node for node in workflow["nodes"] if str(node["id"]) in settings]
    boxes = [group["bounding"] for group in groups] + [_box(node) for node in nodes]
    left, top = min(x for x, *_ in boxes) - MARGIN, min(y for _, y, *_ in boxes) - MARGIN
    width = max(x + w for x, _, w, _ in boxes) + MARGIN - left
    height = max(y + h for _, y, _, h in boxes) + MARGIN - top
    view = f"{left:.0f} {top:.0f} {width:.0f} {height:.0f}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">',
        f"<style>{STYLE}</style>",
        _rectangle("page", left, top, width, height),
        *(line for group in groups for line in _group(group)),
        *_links(workflow),
        *(line for node in nodes for line in _node(node, settings[str(node["id"])]["inputs"], names)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """x, y, width and height of a node with its title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, width, height + TITLE


def _rectangle(kind: str, x: float, y: float, width: float, height: float) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" rx="{RADIUS}"'
    return f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" {size}/>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _socket(x: float, y: float, one: dict[str, Any], *, side: int) -> Iterator[str]:
    """A dot with its name inside the node: ``side`` is 1 to its right, -1 to its left."""
    yield f'<circle cx="{x:.0f}" cy="{y:.0f}" r="6" fill="{COLOURS.get(one["type"], OTHER)}"/>'
    yield _text("in" if side > 0 else "out", x + 14 * side, y + 5, one["name"])


def _group(group: dict[str, Any]) -> Iterator[str]:
    x, y, width, height = group["bounding"]
    yield _rectangle("group", x, y, width, height)
    yield _text("caption", x + 12, y + 26, group["title"])


def _links(workflow: dict[str, Any]) -> Iterator[str]:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, source, output, target, entry, kind in workflow["links"]:
        x0, y0 = _output(nodes[source], output)
        x1, y1 = _input(nodes[target], entry)
        bend = max(abs(x1 - x0) / 2, 40)
        curve = f"M{x0:.0f} {y0:.0f}C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
        yield f'<path class="link" stroke="{COLOURS.get(kind, OTHER)}" d="{curve}"/>'


def _linked(node: dict[str, Any]) -> list[int]:
    """Numbers of the inputs that are drawn: sockets, and settings that a link provides."""
    return [n for n, one in enumerate(node["inputs"]) if "widget" not in one or one["link"] is not None]


def _input(node: dict[str, Any], number: int) -> tuple[float, float]:
    return node["pos"][0], node["pos"][1] + ROW * (_linked(node).index(number) + 0.5)


def _output(node: dict[str, Any], number: int) -> tuple[float, float]:
    return node["pos"][0] + node["size"][0], node["pos"][1] + ROW * (number + 0.5)


def _node(node: dict[str, Any], inputs: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    (x, y), (width, height), kind = node["pos"], node["size"], node["type"]
    yield _rectangle("node", *_box(node))
    yield _rectangle("bar", x, y - TITLE, width, TITLE)
    name = names.get(kind, kind)
    title = node.get("title") or name
    yield _text("name", x + 10, y - 10, title)
    if title != name:
        # Pages speak of nodes by their names. Below the node where the title leaves no room for it.
        fits = (len(title) + len(name)) * CHARACTER + 40 < width
        yield _text("quiet out", x + width - 10, y - 10 if fits else y + height + 16, name)
    for number in _linked(node):
        yield from _socket(*_input(node, number), node["inputs"][number], side=1)
    for number, one in enumerate(node["outputs"]):
        yield from _socket(*_output(node, number), one, side=-1)
    below = ROW * max(len(_linked(node)), len(node["outputs"]))
    chosen = [(key, value) for key, value in inputs.items() if not isinstance(value, list)]
    for number, (key, value) in enumerate(chosen[: int((height - below) // ROW)]):
        text = _fitted(f"{key}: {value}", width - 24)
        yield _text("quiet", x + 14, y + below + ROW * number + 16, text)


def _fitted(text: str, width: float) -> str:
    """The first line of ``text``, cut to what ``width`` has room for."""
    line, room = text.partition("\n")[0], int(width / CHARACTER)
    return line if len(line) <= room else line[: room - 1] + "…"


def pictures() -> dict[str, str]:
    """The SVG of every example workflow, by its name."""
    names = display_names()
    found: dict[str, str] = {}
    for path in sorted(WORKFLOWS.glob("*.json")):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        settings = json.loads((WORKFLOWS / "api" / path.name).read_text(encoding="utf-8"))
        found[path.stem] = picture(workflow, settings, names)
    return found


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures().items():
        (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
