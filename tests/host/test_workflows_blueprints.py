"""Subgraph blueprints: ComfyUI lists them, and its page finds, places and runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import ComfyPage, comfy_page
from host_server import Json, Server
from saved import decoded
from test_search import FIELD, FOUND
from tiny_models import TinyModels
from workflow_blueprints import BLUEPRINTS, RELEASED_FILES
from workflow_runs import Runs

SUBGRAPHS = Path(__file__).resolve().parents[2] / "subgraphs"
SOURCES = {"image": ("LoadImage", "first.png"), "video": ("LoadVideo", "clip.mp4")}
SIZES = {"width": 128, "height": 128, "megapixels": 0.02, "length": 0.6, "steps": 2}
FILLED = """([files, sources, sizes]) => {
    const node = app.graph.nodes.find((one) => one.subgraph);
    // Newer pages store the values of shown widgets on the outside, older ones within.
    for (const one of [node, ...node.subgraph.nodes]) for (const widget of one.widgets ?? []) {
        if (widget.value in files) widget.value = files[widget.value];
        if (widget.name in sizes) widget.value = sizes[widget.name];
    }
    for (const [number, input] of node.inputs.entries()) {
        const source = sources[input.name];
        if (!source) continue;
        const load = LiteGraph.createNode(source[0]);
        app.graph.add(load);
        load.widgets[0].value = source[1];
        load.connect(0, node, number);
    }
    const save = LiteGraph.createNode("SaveVideo");
    app.graph.add(save);
    node.connect(node.outputs.findIndex((one) => one.type === "VIDEO"), save, 0);
}"""
SHOWN = """() => JSON.stringify(app.graph.nodes.filter((one) => one.subgraph).map((one) => ({
    title: one.title,
    inputs: one.inputs.filter((input) => !input.widget).map((input) => input.name),
    outputs: one.outputs.map((output) => output.type),
    widgets: one.widgets.map((widget) => widget.name) })))"""


def test_the_host_lists_them(server: Server) -> None:
    listed = server.get("/global_subgraphs")
    ours = {
        entry["name"]: key for key, entry in listed.items() if "comfyui-ltx2" in entry["info"]["node_pack"]
    }
    assert ours.keys() == BLUEPRINTS.keys()
    known = server.get("/object_info")
    for name, key in ours.items():
        (subgraph,) = json.loads(server.get(f"/global_subgraphs/{key}")["data"])["definitions"]["subgraphs"]
        assert subgraph["name"] == name
        assert {node["type"] for node in subgraph["nodes"]} <= known.keys()


def placed(page: ComfyPage, name: str) -> Json:
    """Type the name into the search for nodes, take what is found, and say what is on the page then."""
    page.page.evaluate("() => app.graph.clear()")
    # A busy page may take a double click for two clicks.
    for _ in range(5):
        page.page.mouse.dblclick(800, 450)
        page.page.wait_for_timeout(2000)
        if page.page.locator(FIELD).first.is_visible():
            break
    page.page.wait_for_selector(FIELD)
    page.page.fill(FIELD, name)
    page.page.wait_for_timeout(400)
    found = page.page.evaluate(FOUND)
    number = next(number for number, text in enumerate(found) if text.startswith(name))
    page.page.locator("[role=option]").nth(number).click()
    page.page.mouse.click(800, 450)
    page.page.wait_for_function("() => app.graph.nodes.length === 1")
    (node,) = page.ask(SHOWN)
    return node


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_the_page_places_and_runs_it(
    server: Server, models: TinyModels, runs: Runs, chromium: str, name: str
) -> None:
    files = {
        released: f"trained/{tiny}" if runs.trained else tiny for tiny, released in RELEASED_FILES.items()
    }
    with comfy_page(server.port, chromium) as page:
        node = placed(page, name)
        assert node["title"] == name
        assert node["outputs"] == ["VIDEO"]
        assert "positive" in node["widgets"]
        assert "ckpt_name" in node["widgets"]
        assert set(node["inputs"]) <= SOURCES.keys()
        page.page.evaluate(FILLED, [files, SOURCES, SIZES])
        ended = page.run()
        assert ended["kind"] == "execution_success", ended["detail"]
    newest = max(server.output.rglob("*.mp4"), key=lambda path: path.stat().st_mtime)
    assert decoded(newest).frames.std() > 0.01
