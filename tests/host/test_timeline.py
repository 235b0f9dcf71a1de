"""The timeline of LTX-2 Shot List in Chromium: edits by mouse and keyboard end in the text."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from browser import ComfyPage, comfy_page
from host_server import Server
from PIL import Image
from timeline_page import VIEW, Timeline

from ltx2_core.media import write_wav

SHOTS = {
    "format": "ltx2.shots/1",
    "clip": {"width": 768, "height": 512, "fps": 24, "frames": 121, "seed": 18446744073709551615},
    "prompt": "a red ball",
    "parts": [{"from": 0, "prompt": "it rolls"}, {"from": 2.5, "prompt": "it stops"}],
    "images": [{"file": "timeline_a.png"}, {"file": "timeline_b.png", "at": "end", "strength": 0.7}],
    "audio": [{"file": "timeline.wav", "at": 1, "trim": [0, 1.5], "x-take": 3}],
    "x-tool": {"kept": True},
}
SECONDS = 121 / 24
SERIALISED = "() => JSON.stringify(app.graph.serialize())"
LOAD = "async (text) => { await app.loadGraphData(JSON.parse(text)); }"


@pytest.fixture(scope="module")
def opened(server: Server, chromium: str) -> Iterator[ComfyPage]:
    folder = server.base / "input"
    for name, colour in (("timeline_a", "red"), ("timeline_b", "blue")):
        Image.new("RGB", (96, 64), colour).save(folder / f"{name}.png")
    write_wav(folder / "timeline.wav", torch.sin(torch.arange(32_000) * 0.05)[None] * 0.4, 16_000)
    with comfy_page(server.port, chromium) as page:
        problems: list[str] = []
        page.page.on("pageerror", lambda error: problems.append(str(error)))
        page.page.on("dialog", lambda dialog: problems.append(dialog.message))
        yield page
        assert problems == []


def test_drags_trims_and_strengths_are_written_into_the_text(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    at = lambda *place, dy=0: timeline.place(*place, SECONDS, dy)  # noqa: E731
    # The border between the prompts, to the 8k + 1 frame beside 1.7 s.
    timeline.drag(at("parts", 2.5 + 0.01), at("parts", 1.72))
    assert timeline.shots["parts"][1]["from"] == pytest.approx(41 / 24, abs=1e-3)
    timeline.drag(at("images", 0.1), at("images", 3.1))
    assert timeline.shots["images"][0]["at"] == pytest.approx(73 / 24, abs=1e-3)
    timeline.drag(at("audio", 1.75, dy=10), at("audio", 2.75, dy=10))
    assert timeline.shots["audio"][0]["at"] == pytest.approx(2, abs=0.06)
    audio = timeline.shots["audio"][0]
    end = audio["at"] + 1.5
    timeline.drag(at("audio", end - 0.01, dy=10), at("audio", end - 0.5, dy=10))
    assert timeline.shots["audio"][0]["trim"][1] == pytest.approx(1, abs=0.06)
    # Image b was not touched; its level line is at 0.7.
    timeline.drag(at("images", SECONDS - 0.2, dy=-11), at("images", SECONDS - 0.2, dy=9))
    assert timeline.shots["images"][1]["strength"] == pytest.approx(0.2, abs=0.05)
    assert (timeline.shots["x-tool"], timeline.shots["audio"][0]["x-take"]) == ({"kept": True}, 3)
    assert '"seed": 18446744073709551615' in timeline.text


def test_keys_undo_and_redo_edits_of_the_timeline_alone(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    before = timeline.text
    timeline.page.mouse.click(*timeline.place("images", 0.1, SECONDS))
    assert "timeline_a.png" in timeline.said
    timeline.press("ArrowRight")
    assert timeline.shots["images"][0]["at"] == pytest.approx(1 / 24, abs=1e-3)
    timeline.press("Shift+ArrowRight", "Delete")
    assert [one["file"] for one in timeline.shots["images"]] == ["timeline_b.png"]
    after = timeline.text
    timeline.press("Control+z", "Control+z", "Control+z")
    assert timeline.text == before
    timeline.press("Control+y", "Control+Shift+z", "Control+y")
    assert timeline.text == after
    # The graph's own undo would have removed the node.
    assert opened.ask("() => JSON.stringify(app.graph.nodes.length)") == 1


def test_a_split_at_the_playhead_makes_two_prompts_and_typing_changes_one(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    timeline.page.mouse.click(*timeline.place("ruler", 1.0, SECONDS))
    timeline.page.mouse.click(*timeline.place("parts", 0.5, SECONDS))
    timeline.press("s")
    parts = timeline.shots["parts"]
    assert sorted(part["from"] for part in parts) == pytest.approx([0, 1, 2.5], abs=0.03)
    box = timeline.root.get_by_label("Prompt", exact=True)
    box.fill('it jumps <img src=x onerror="alert(1)">')
    assert timeline.shots["parts"][-1]["prompt"] == 'it jumps <img src=x onerror="alert(1)">'
    assert timeline.root.locator("img").count() == 0


def test_an_entry_is_copied_from_one_node_to_another(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    other = {"format": "ltx2.shots/1", "clip": {"frames": 121}, "prompt": "x", "parts": []}
    opened.ask(
        """(text) => {
        const node = LiteGraph.createNode("LTX2AVShotList");
        node.pos = [760, 60];
        app.graph.add(node);
        const shots = node.widgets.find((one) => one.name === "shots");
        shots.value = text;
        shots.callback?.(text);
        return "0";
    }""",
        json.dumps(other),
    )
    opened.page.wait_for_timeout(500)
    opened.page.mouse.click(*timeline.place("audio", 1.5, SECONDS, 10))
    timeline.press("Control+c")
    second = Timeline(opened, 1)
    opened.page.mouse.click(*second.place("ruler", 2.0, SECONDS))
    timeline.press("Control+v")
    assert second.shots["audio"] == [{**SHOTS["audio"][0], "at": pytest.approx(2, abs=0.03)}]
    assert opened.ask("() => JSON.stringify(app.graph.nodes.length)") == 2, "the page pastes no node"


def test_the_timeline_is_that_of_the_text_after_reload_duplicate_and_undo_of_the_graph(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    timeline.drag(timeline.place("images", 0.1, SECONDS), timeline.place("images", 2.0, SECONDS))
    edited = timeline.text
    saved = opened.page.evaluate(SERIALISED)
    (node,) = json.loads(saved)["nodes"]
    assert edited in node["widgets_values"]
    assert not any("timeline" in str(one) and one != edited for one in node["widgets_values"])
    opened.page.evaluate(LOAD, saved)
    opened.page.evaluate(VIEW)
    opened.page.wait_for_timeout(600)
    assert (timeline.text, timeline.root.count()) == (edited, 1)
    opened.page.mouse.click(*timeline.place("images", 2.1, SECONDS))
    assert "timeline_a.png" in timeline.said
    opened.page.evaluate(
        """() => { app.canvas.selectItems(app.graph.nodes); app.canvas.copyToClipboard();
        app.canvas.pasteFromClipboard(); app.graph.nodes[1].pos = [800, 60]; }"""
    )
    opened.page.wait_for_timeout(600)
    assert opened.page.locator(".ltx2-timeline").count() == 2
    assert Timeline(opened, 1).text == edited
    timeline = Timeline(opened)
    timeline.press("Escape")
    timeline.drag(timeline.place("images", 2.1, SECONDS), timeline.place("images", 4.0, SECONDS))
    assert timeline.text != edited
    assert Timeline(opened, 1).text == edited, "a duplicate has a list of its own"
    opened.page.mouse.click(1500, 700)
    timeline.press("Control+z")
    opened.page.wait_for_timeout(800)
    assert edited in opened.ask("() => JSON.stringify(app.graph.nodes.map((n) => n.widgets[0].value))")


def test_text_that_is_typed_or_broken_is_shown_as_it_is(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    box = opened.page.locator("textarea:not(.ltx2-timeline textarea)").first
    box.fill("{ broken")
    opened.page.wait_for_timeout(100)
    assert timeline.said.startswith("No shot list")
    box.fill(json.dumps({**SHOTS, "parts": [{"from": 0, "prompt": "other"}], "x": "<img onerror=alert(1)>"}))
    opened.page.wait_for_timeout(100)
    assert timeline.said.startswith("Clip of 121 frames, 5.04 s")
    many = {**SHOTS, "images": [{"file": f"{i}.png"} for i in range(10_000)]}
    box.fill(json.dumps(many))
    opened.page.wait_for_timeout(100)
    assert "more than 1000 entries" in timeline.said


def test_every_control_has_a_name_and_all_of_it_can_be_reached_by_keys(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    unnamed = timeline.root.evaluate(
        """(root) => [...root.querySelectorAll("input, select, textarea, button, video")]
        .filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent))
        .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    timeline.root.get_by_label("Timeline").last.focus()
    seen = []
    for _ in range(5):
        timeline.press("Tab")
        seen.append(timeline.said)
    kinds = ["Prompt", "Prompt", "Image", "Image", "Audio"]
    assert [one.split(",")[0] for one in seen] == kinds
    assert "strength 0.7" in seen[3]
    timeline.press("Tab")
    focused = "() => JSON.stringify(document.activeElement.className)"
    assert opened.ask(focused) != "keys", "the last Tab leaves"


def test_warnings_follow_the_edit(opened: ComfyPage):
    timeline = Timeline.of(opened, SHOTS)
    assert any("The audio ends at 2.50 s" in one for one in timeline.warnings)
    timeline.root.get_by_label("Frames", exact=True).fill("100")
    timeline.press("Tab")
    assert any("100 frames become 97 (8k + 1)" in one for one in timeline.warnings)
    assert timeline.shots["clip"]["frames"] == 100
