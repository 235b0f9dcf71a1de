"""Regions and seconds of control videos in the timeline, and what nodes show of their results."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from browser import ComfyPage, comfy_page
from host_graph import Graph
from host_server import Server
from node_graphs import checkpoint
from timeline_page import Timeline
from tiny_models import TinyModels

from ltx2_core.media import VideoWriter

SECONDS = 121 / 24
SHOTS = {
    "format": "ltx2.shots/1",
    "clip": {"fps": 24, "frames": 121},
    "prompt": "a red ball",
    "source": {"file": "timeline_source.mp4"},
    "regions": [{"track": "video", "from": 1, "to": 2}, {"track": "audio", "from": "f72", "to": "end"}],
    "control": [{"file": "timeline_source.mp4", "strength": 0.5}],
}


def write_clip(server: Server) -> None:
    """A video in the input folder, of the length of the clip."""
    path = server.base / "input" / "timeline_source.mp4"
    with VideoWriter(path, width=64, height=64, fps=24, sample_rate=None, crf=30) as writer:
        writer.write_frames(torch.zeros(121, 3, 64, 64))


def test_regions_are_dragged_trimmed_split_and_undone(server: Server, chromium: str):
    write_clip(server)
    with comfy_page(server.port, chromium) as page:
        timeline = Timeline.of(page, SHOTS)
        before = timeline.text
        at = lambda *place, dy=0: timeline.place(*place, SECONDS, dy)  # noqa: E731
        timeline.drag(at("regions", 1.5), at("regions", 2.5))
        moved = timeline.shots["regions"][0]
        assert moved["to"] - moved["from"] == pytest.approx(1, abs=0.01)
        assert moved["from"] == pytest.approx(2, abs=0.1)
        timeline.drag(at("regions", moved["to"] - 0.01), at("regions", 4.38))
        assert timeline.shots["regions"][0]["to"] == pytest.approx(105 / 24, abs=1e-3)
        # The audio has its own half of the track, and its time stays one in frames.
        timeline.drag(at("regions", 3.01, dy=16), at("regions", 2.04, dy=16))
        assert timeline.shots["regions"][1] == {"track": "audio", "from": "f49", "to": "end"}
        timeline.drag(at("control", SECONDS - 0.01, dy=8), at("control", 3.04))
        timeline.drag(at("control", 0.01), at("control", 1.04))
        control = timeline.shots["control"][0]
        assert [control["from"], control["to"]] == pytest.approx([25 / 24, 73 / 24], abs=1e-3)
        page.page.mouse.click(*at("ruler", 4.0))
        page.page.mouse.click(*at("regions", 3.0))
        assert timeline.said.startswith("Region, video")
        timeline.press("s")
        assert [one["to"] for one in timeline.shots["regions"]][:1] == [4]
        assert len(timeline.shots["regions"]) == 3
        timeline.root.get_by_label("Regenerate", exact=True).select_option("both")
        assert timeline.shots["regions"][2]["track"] == "both"
        timeline.root.get_by_label("Timeline").last.focus()
        timeline.press(*["Control+z"] * 7)
        assert timeline.text == before
        assert not any("region" in one.lower() for one in timeline.warnings)


def test_a_region_asks_for_a_source_and_is_added_at_the_playhead(server: Server, chromium: str):
    write_clip(server)
    with comfy_page(server.port, chromium) as page:
        without = {name: value for name, value in SHOTS.items() if name not in ("source", "regions")}
        timeline = Timeline.of(page, {**without, "regions": [{"track": "video"}]})
        assert any("need a source" in one for one in timeline.warnings)
        timeline = Timeline.of(page, {**SHOTS, "regions": []})
        assert any("no region of it" in one for one in timeline.warnings)
        page.page.mouse.click(*timeline.place("ruler", 2.0, SECONDS))
        timeline.button("Regenerate a second").click()
        (region,) = timeline.shots["regions"]
        assert [region["from"], region["to"]] == pytest.approx([2, 3], abs=0.03)


def shown(models: TinyModels) -> dict[str, Any]:
    """A graph whose nodes show a waveform and two videos."""
    g = Graph()
    model = checkpoint(g, models)
    plan = g.add("LTX2AVEmptyLatent", width=64, height=64, frames=9, batch_size=1, fps=8.0)
    videos = [
        g.add(
            "LTX2AVDecodeToVideo",
            video_vae=model[1],
            audio_vae=model[2],
            latent=plan,
            fps=8.0,
            crf=crf,
            batch_index=0,
        )
        for crf in (18, 40)
    ]
    g.add("LTX2AVCompare", before=videos[0], after=videos[1])
    return g.prompt


def test_nodes_show_the_waveform_and_two_videos_with_a_slider(
    server: Server, models: TinyModels, chromium: str
):
    with comfy_page(server.port, chromium) as page:
        page.drop("shown.json", json.dumps(shown(models)))
        page.page.evaluate(
            "() => app.graph.nodes.forEach((one, i) => { one.pos = [(i % 3) * 420, 40 + 500 * (i > 2)]; })"
        )
        ended = page.run()
        assert ended["kind"] == "execution_success", ended["detail"]
        page.fit_view()
        assert page.page.get_by_alt_text("audio: ").count() == 2
        slider = page.page.get_by_label("Slider between before and after")
        slider.focus()
        page.page.keyboard.press("End")
        assert clip_of(page).startswith("inset(0px 0px 0px 100%")
        page.page.keyboard.press("ArrowLeft")
        assert "99%" in clip_of(page)
        page.page.get_by_label("Play both").click()
        page.page.wait_for_function(
            "() => [...document.querySelectorAll('video')].filter((one) => one.currentTime > 0.1).length >= 2"
        )


def clip_of(page: ComfyPage) -> str:
    """What is cut of the video after."""
    return page.page.get_by_label("After", exact=True).evaluate("(one) => getComputedStyle(one).clipPath")
