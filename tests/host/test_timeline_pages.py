"""The timeline with files that are uploaded, and on a narrow page, a light one, and one of HTML nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import comfy_page
from host_server import Server
from PIL import Image
from timeline_page import Timeline

SHOTS = {"format": "ltx2.shots/1", "clip": {"frames": 121, "fps": 24}, "prompt": "a red ball", "parts": []}
SECONDS = 121 / 24
PLAIN = {"Comfy.VueNodes.Enabled": False, "Comfy.ColorPalette": "dark"}
PAGES: dict[str, tuple[dict[str, Any], int]] = {
    "narrow": ({}, 900),
    "light": ({"Comfy.ColorPalette": "light"}, 1600),
    "HTML nodes": ({"Comfy.VueNodes.Enabled": True}, 1600),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_mouse_adds_and_moves_items_on_every_page(server: Server, chromium: str, name: str):
    settings, width = PAGES[name]
    try:
        with comfy_page(server.port, chromium, {**PLAIN, **settings}) as page:
            page.page.set_viewport_size({"width": width, "height": 900})
            timeline = Timeline.of(page, SHOTS)
            for seconds in (0.0, 2.0):
                page.page.mouse.click(*timeline.place("ruler", seconds, SECONDS))
                timeline.button("Add a prompt at the playhead").click()
                timeline.root.get_by_label("Prompt", exact=True).fill(f"at {seconds:g}")
            assert [part["prompt"] for part in timeline.shots["parts"]] == ["at 0", "at 2"]
            timeline.drag(timeline.place("parts", 2.01, SECONDS), timeline.place("parts", 3.05, SECONDS))
            assert timeline.shots["parts"][1]["from"] == pytest.approx(73 / 24, abs=1e-3)
            assert timeline.root.evaluate("(root) => root.scrollWidth <= root.clientWidth + 1")
    finally:
        # Settings are of the host, which other tests use too.
        with comfy_page(server.port, chromium, PLAIN):
            pass


def test_chosen_files_are_stored_by_the_host_and_added_at_the_playhead(
    server: Server, chromium: str, tmp_path: Path
):
    paths = [tmp_path / name for name in ("timeline up.png", "timeline & <b>.png")]
    for path in paths:
        Image.new("RGB", (64, 64), "green").save(path)
    with comfy_page(server.port, chromium) as page:
        timeline = Timeline.of(page, SHOTS)
        page.page.mouse.click(*timeline.place("ruler", 1.0, SECONDS))
        with page.page.expect_file_chooser() as chooser:
            timeline.button("Add an image at the playhead").click()
        chooser.value.set_files(paths)
        page.page.wait_for_timeout(1500)
        images = timeline.shots["images"]
        assert [one["at"] for one in images] == pytest.approx([1, 1], abs=0.03)
        assert all((server.base / "input" / one["file"]).is_file() for one in images)
        assert not any("not in the input folder" in one for one in timeline.warnings)
        assert timeline.root.locator("b").count() == 0
