"""LTX-2 Shot List inside a group node, which ComfyUI's page calls deprecated and still makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import comfy_page
from host_server import Server
from test_shot_list import SHOTS
from test_shot_list import inputs as inputs
from test_timeline_run import SENT, SETTLED, graph
from timeline_page import VIEW, Timeline
from tiny_models import TinyModels

SECONDS = 33 / 8
TO_GROUP = """() => {
    const inner = ["LTX2AVShotList", "LTX2AVCropGuides"];
    app.canvas.selectItems(app.graph.nodes.filter((one) => inner.includes(one.type)));
    app.extensionManager.command.execute("Comfy.GroupNode.ConvertSelectedNodesToGroupNode");
}"""
MAKES_GROUPS = """() => app.extensionManager.command.commands?.some(
    (one) => one.id === "Comfy.GroupNode.ConvertSelectedNodesToGroupNode") ?? true"""
GROUPED = "() => app.graph.nodes.some((one) => one.type === 'workflow>listed')"
PLACED = """() => {
    app.graph.nodes.forEach((one, i) => {
        one.pos = one.type === "workflow>listed" ? [20, 60] : [1000 + 20 * i, 40];
    });
}"""
WRITTEN = """() => JSON.stringify(app.graph.nodes.find((one) => one.type === "workflow>listed")
    .widgets.find((one) => one.name === "shots").value)"""
SAVED = "() => JSON.stringify(JSON.stringify(app.graph.serialize()))"


def test_the_timeline_of_a_group_node_edits_the_text_that_is_sent_saved_and_run(
    server: Server, models: TinyModels, inputs: Path, chromium: str
):
    problems: list[str] = []
    with comfy_page(server.port, chromium) as page:
        page.page.on("pageerror", lambda error: problems.append(str(error)))
        if not page.page.evaluate(MAKES_GROUPS):
            pytest.skip("this page makes no group nodes any more")
        page.drop("shots.json", json.dumps(graph(models, json.dumps(SHOTS))))
        page.page.evaluate(TO_GROUP)
        page.page.locator("[role=dialog] input").first.fill("listed")
        page.page.keyboard.press("Enter")
        page.page.wait_for_function(GROUPED)
        page.page.evaluate(PLACED)
        page.page.evaluate(VIEW)
        page.page.wait_for_function(SETTLED, polling=300)
        timeline = Timeline(page)
        timeline.drag(timeline.place("images", 0.1, SECONDS), timeline.place("images", 2.0, SECONDS))
        edited = page.ask(WRITTEN)
        assert json.loads(edited)["images"][0]["at"] == pytest.approx(1.9, abs=0.15)
        saved = page.ask(SAVED)
    with comfy_page(server.port, chromium) as page:
        page.page.on("pageerror", lambda error: problems.append(str(error)))
        page.drop("made.json", saved)
        page.page.evaluate(VIEW)
        page.page.wait_for_function(SETTLED, polling=300)
        assert page.page.locator(".ltx2-timeline").count() == 1
        assert page.ask(WRITTEN) == edited
        sent = page.ask(SENT)
        assert [one["inputs"]["shots"] for one in sent.values() if "shots" in one["inputs"]] == [edited]
        ended = page.run()
        assert ended["kind"] == "execution_success", ended["detail"]
    assert problems == []
