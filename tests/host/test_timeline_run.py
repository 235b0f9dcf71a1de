"""The timeline of LTX-2 Shot List around a run, in subgraphs, opened often, and with hostile lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import ComfyPage, comfy_page
from host_server import Server
from test_shot_list import SHOTS, by_library, close, latents_of, shots_graph
from test_shot_list import inputs as inputs
from timeline_page import ADD, VIEW, Timeline
from tiny_models import TinyModels

SECONDS = 33 / 8
SENT = "async () => JSON.stringify((await app.graphToPrompt()).output)"
SETTLED = """() => {
    const canvas = document.querySelector(".ltx2-timeline canvas");
    const box = canvas?.getBoundingClientRect();
    const now = JSON.stringify([box ?? null, canvas?.width]);
    const { was, times } = window.ltx2Settled ?? {};
    window.ltx2Settled = { was: now, times: box?.width > 0 && was === now ? times + 1 : 0 };
    return window.ltx2Settled.times >= 4;
}"""
"""Whether the timeline was in the same place and drawn at the same size the last five times."""
PLAYS = "() => { const one = document.querySelector('.ltx2-timeline video'); return one.readyState >= 2; }"
CYCLES = """async ([type, box, text]) => {
    for (let i = 0; i < 20; i++) {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        const shots = node.widgets.find((one) => one.name === box);
        shots.value = text;
        shots.callback?.(text);
        await new Promise((done) => setTimeout(done, 60));
        app.graph.remove(node);
        await new Promise((done) => setTimeout(done, 20));
    }
    // What is drawn last holds what it drew.
    await new Promise((done) => setTimeout(done, 500));
}"""
INTO_SUBGRAPH = """async () => {
    const nodes = app.graph.nodes.filter((one) => one.type === "LTX2AVShotList");
    const { subgraph, node } = app.canvas.graph.convertToSubgraph(new Set(nodes));
    app.canvas.openSubgraph(subgraph, node);
    await new Promise((done) => setTimeout(done, 800));
}"""
INNER = """() => JSON.stringify(app.canvas.graph.nodes.filter((one) => one.type === "LTX2AVShotList")
    .map((node) => node.widgets.find((one) => one.name === "shots").value))"""


def graph(models: TinyModels, text: str) -> dict[str, Any]:
    """From loaders to a saved video, by LTX-2 Shot List."""
    g, model, _, latent = shots_graph(models, text)
    video = g.add(
        "LTX2AVDecodeToVideo",
        video_vae=model[2],
        audio_vae=model[3],
        latent=latent,
        fps=8.0,
        crf=18,
        batch_index=0,
    )
    g.add("SaveVideo", video=video, filename_prefix="timeline", format="auto", codec="auto")
    return g.prompt


def test_an_edited_list_runs_on_the_page_and_in_the_library_with_the_same_latents(
    server: Server, models: TinyModels, inputs: Path, chromium: str
):
    with comfy_page(server.port, chromium) as page:
        page.drop("shots.json", json.dumps(graph(models, json.dumps(SHOTS))))
        page.page.evaluate("() => { app.graph.nodes.forEach((one, i) => one.pos = [900 + 20 * i, 40]); }")
        page.page.evaluate(
            "() => { app.graph.nodes.find((one) => one.type === 'LTX2AVShotList').pos = [20, 60]; }"
        )
        page.page.evaluate(VIEW)
        page.page.wait_for_function(SETTLED, polling=300)
        timeline = Timeline(page)
        timeline.drag(timeline.place("audio", 1.0, SECONDS, 10), timeline.place("audio", 1.5, SECONDS, 10))
        timeline.drag(
            timeline.place("parts", SECONDS / 2 + 0.02, SECONDS), timeline.place("parts", 1.6, SECONDS)
        )
        edited = timeline.text
        assert edited != json.dumps(SHOTS)
        sent = page.ask(SENT)
        assert edited in [node["inputs"].get("shots") for node in sent.values()]
        ended = page.run()
        assert ended["kind"] == "execution_success", ended["detail"]
        page.page.wait_for_function(PLAYS, timeout=30_000)
        page.page.mouse.click(*timeline.place("ruler", 2.0, SECONDS))
        page.page.wait_for_function(
            "() => Math.abs(document.querySelector('.ltx2-timeline video').currentTime - 2) < 0.2"
        )
        by_page = server.wait(ended["detail"]["prompt_id"]).tensors("made")
    path = inputs / "shots.json"
    path.write_text(edited)
    theirs = by_library(server, models, path)
    close(latents_of(by_page), theirs)


def test_a_timeline_in_a_subgraph_edits_the_text_that_is_sent(server: Server, chromium: str):
    with comfy_page(server.port, chromium) as page:
        Timeline.of(page, SHOTS)
        page.page.evaluate(INTO_SUBGRAPH)
        page.page.evaluate(
            "() => { app.canvas.graph.nodes.forEach((one) => { if (one.widgets) one.pos = [20, 60]; }); }"
        )
        page.page.evaluate(VIEW)
        page.page.wait_for_function(SETTLED, polling=300)
        timeline = Timeline(page)
        before = page.ask(INNER)
        timeline.drag(timeline.place("images", 0.1, SECONDS), timeline.place("images", 2.0, SECONDS))
        (after,) = page.ask(INNER)
        assert [after] != before
        assert json.loads(after)["images"][0]["at"] == pytest.approx(1.9, abs=0.15)
        sent = page.ask(SENT)
        assert [node["inputs"]["shots"] for node in sent.values()] == [after]


def counted(page: ComfyPage) -> tuple[int, int]:
    """Elements and listeners of the page, after unused ones are gone."""
    session = page.page.context.new_cdp_session(page.page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
    found = session.send("Memory.getDOMCounters")
    session.detach()
    return found["nodes"], found["jsEventListeners"]


def test_a_hundred_timelines_that_were_closed_leave_nothing(server: Server, chromium: str, inputs: Path):
    with comfy_page(server.port, chromium) as page:
        page.page.evaluate("() => app.graph.clear()")
        theirs = growth(page, "CLIPTextEncode", "text", rounds=2)
        ours = growth(page, "LTX2AVShotList", "shots", rounds=4)
        assert ours[1] - 2 * theirs[1] <= 10, (theirs, ours)
        # A timeline has about 250 elements.
        assert ours[0] - 2 * theirs[0] <= 80 * 25, (theirs, ours)


def growth(page: ComfyPage, node: str, text: str, *, rounds: int) -> tuple[int, int]:
    """How many elements and listeners ``rounds`` of 20 closed nodes leave, of which ``text`` is the text box.

    Pages hold some of every node that has one; those of ComfyUI 0.20 hold the five listeners of the box.
    """
    counts = []
    for _ in range(2 + rounds):
        page.page.evaluate(CYCLES, [node, text, json.dumps(SHOTS)])
        counts.append(counted(page))
    # The first rounds fill caches of the page itself.
    (nodes, listeners), (last_nodes, last_listeners) = counts[1], counts[-1]
    return last_nodes - nodes, last_listeners - listeners


HOSTILE = "<img src=x onerror=\"alert('ltx2')\">"
LISTS = {
    "markup": {"parts": [{"prompt": HOSTILE}], "images": [{"file": HOSTILE, "at": HOSTILE}], HOSTILE: 1},
    "wrong types": {
        "clip": {"width": "wide", "fps": -1, "seconds": {}},
        "parts": [{"from": {}, "prompt": []}],
        "images": [{"file": 7, "strength": "x"}],
        "audio": [{"file": None, "trim": "no", "gain_db": []}],
    },
    "paths": {
        "images": [{"file": "../../etc/passwd"}, {"file": "data:image/png;base64,AA"}, {"file": "//x/y"}]
    },
    "endless": {"clip": {"seconds": 1e300, "fps": 1e300}, "parts": [{"from": 1e308, "prompt": "x"}]},
    "long": {"clip": {"frames": 900_001}, "parts": [{"from": i, "prompt": "x" * 3000} for i in range(1000)]},
}


def test_hostile_lists_are_text_and_leave_the_page_alive(server: Server, chromium: str):
    with comfy_page(server.port, chromium) as page:
        problems: list[str] = []
        asked: list[str] = []
        page.page.on("pageerror", lambda error: problems.append(str(error)))
        page.page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.page.on("request", lambda request: asked.append(request.url))
        for name, changes in LISTS.items():
            timeline = Timeline.of(page, {"format": "ltx2.shots/1", "prompt": "x", **changes})
            timeline.root.get_by_label("Timeline").last.focus()
            timeline.press(
                "Tab", "ArrowRight", "ArrowUp", "Tab", "s", "Tab", "Delete", "Control+z", "Space", "Space"
            )
            assert timeline.root.locator("img").count() == 0, name
            assert timeline.said, name
        assert problems == []
        views = [url for url in asked if "/view" in url]
        assert all(f"127.0.0.1:{server.port}" in url for url in views)
        assert not any("data%3A" in url for url in views)
        page.ask(ADD, json.dumps(SHOTS))
