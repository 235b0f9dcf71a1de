"""LTX-2 Clip Plan on the page: typed sizes are planned as the node plans them, with the memory of a run."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
from typing import Any

import pytest
from browser import comfy_page
from host_graph import Graph
from host_server import Server
from timeline_page import Timeline

TYPED: dict[str, dict[str, Any]] = {
    "off the grid": {"width": 770, "height": 500, "length": 5.0, "fps": 24.0},
    "two stages": {"width": 800, "height": 480, "length": 4.2, "fps": 29.97, "stages": "2"},
    "frames": {"length_unit": "frames", "length": 100.0, "snap": "ceil"},
    "no audio": {"with_audio": False, "length": 2.0416, "fps": 25.0},
}
DEFAULTS: dict[str, Any] = {
    "width": 768,
    "height": 512,
    "length_unit": "seconds",
    "length": 5.0,
    "fps": 24.0,
    "snap": "nearest",
    "stages": "1",
    "batch_size": 1,
    "with_audio": True,
}
PLAN = """(values) => {
    app.graph.clear();
    const node = LiteGraph.createNode("LTX2AVClipPlan");
    app.graph.add(node);
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find((one) => one.name === name);
        widget.value = value;
        widget.callback?.(value);
    }
    // The page rounds sizes to the step of their widget.
    const held = Object.fromEntries(node.widgets.map((one) => [one.name, one.value]));
    return JSON.stringify([node.widgets.find((one) => one.name === "report").element.textContent, held]);
}"""
SAID = """() => JSON.stringify(
    app.graph.nodes[0].widgets.find((one) => one.name === "report").element.textContent)"""
WIDEN = """(width) => {
    const widget = app.graph.nodes[0].widgets.find((one) => one.name === "width");
    widget.value = width;
    widget.callback?.(width);
}"""
FAR = {"width": 4096, "height": 4096, "frames": 9 + 8 * 12_000, "fps": 24}


def test_the_text_while_typing_is_the_report_of_the_run(server: Server, chromium: str):
    with comfy_page(server.port, chromium) as page:
        for name, changes in TYPED.items():
            told, held = page.ask(PLAN, {**DEFAULTS, **changes})
            g = Graph()
            node = g.add("LTX2AVClipPlan", **{key: held[key] for key in DEFAULTS})
            g.add("PreviewAny", source=node[6])
            report = server.run(g.prompt).outputs[node.node]["text"][0]
            # What is rounded is told by the host, a little later.
            assert told == report.split("\n")[0], name
            page.page.wait_for_function(f"(report) => JSON.parse(({SAID})()).startsWith(report)", arg=report)


def test_the_memory_of_a_typed_size_is_planned_before_a_run(server: Server, chromium: str):
    with comfy_page(server.port, chromium) as page:
        page.ask(PLAN, DEFAULTS)
        page.page.wait_for_function(f"() => ({SAID})().includes('LTX-2.3 in bf16: ')")
        bars = page.page.locator("[role=img][aria-label*='of weights']")
        assert bars.count() >= 3
        timeline = Timeline.of(page, {"format": "ltx2.shots/1", "prompt": "x", "clip": FAR})
        timeline.root.locator("li", has_text="does not fit").wait_for()


def test_an_answer_for_a_size_that_was_typed_over_is_not_shown(server: Server, chromium: str):
    answer = {"fits": True, "text": "early", "budget": 1, "stages": []}
    with comfy_page(server.port, chromium) as page:
        asked: list[Any] = []
        page.page.route("**/ltx2av/plan?*", lambda route: asked.append(route))
        with page.page.expect_request("**/ltx2av/plan?*"):
            page.ask(PLAN, DEFAULTS)
        with page.page.expect_request("**/ltx2av/plan?*width=1024*"):
            page.page.evaluate(WIDEN, 1024)
            asked[0].fulfill(json={**answer, "model": "first"})
        assert "first: early" not in page.ask(SAID)
        asked[-1].fulfill(json={**answer, "model": "second"})
        page.page.wait_for_function(f"() => ({SAID})().includes('second: early')")


def test_the_route_answers_wrong_queries_with_the_reason(server: Server):
    def asked(**query: Any) -> Any:
        return server.get(f"/ltx2av/plan?{urllib.parse.urlencode(query)}")

    def error_of(query: dict[str, Any]) -> str:
        with pytest.raises(urllib.error.HTTPError) as caught:
            asked(**query)
        assert caught.value.code == 400
        return json.loads(caught.value.read())["error"]

    values = {**DEFAULTS, "model": "../../etc/passwd"}
    plan = asked(**values)
    assert plan["model"] == "LTX-2.3 in bf16"
    assert {one["name"] for one in plan["stages"]} >= {"text"}
    refused: dict[str, dict[str, Any]] = {
        "wide": {"width": "wide"},
        "length=nan must be": {"length": "nan"},
        "length=1e300 must be": {"length": "1e300"},
        "width=16416 must be 16384 or less": {"width": 16416},
        "stages": {"stages": 3},
        "x": {"snap": "x"},
        "fps=inf must be": {"fps": "inf"},
    }
    for reason, wrong in refused.items():
        assert reason in error_of({**values, **wrong})
    assert error_of({name: value for name, value in values.items() if name != "fps"}) == "fps is missing"
