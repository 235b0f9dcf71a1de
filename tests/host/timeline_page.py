"""The timeline of LTX-2 Shot List in the real page: where things are, and what a user does there."""

from __future__ import annotations

import json
from typing import Any

from browser import ComfyPage
from host_server import Json

ADD = """(text) => {
    const node = LiteGraph.createNode("LTX2AVShotList");
    node.pos = [20, 60];
    app.graph.add(node);
    const shots = node.widgets.find((one) => one.name === "shots");
    if (text) { shots.value = text; shots.callback?.(text); }
    return JSON.stringify(node.id);
}"""
TEXTS = """() => JSON.stringify(app.graph.nodes.filter((node) => node.type === "LTX2AVShotList")
    .sort((a, b) => a.pos[0] - b.pos[0])
    .map((node) => node.widgets.find((one) => one.name === "shots").value))"""
ORDER = """() => JSON.stringify([...document.querySelectorAll(".ltx2-timeline")]
    .map((one, index) => [one.getBoundingClientRect().x, index])
    .sort((a, b) => a[0] - b[0]).map((one) => one[1]))"""
LABELS, RULER = 62, 22
ROWS = {"parts": 46, "images": 93, "control": 132, "audio": 171, "regions": 206}
"""The middle of each track, of regions that of the video, in pixels from the top of the tracks."""
VIEW = "() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [40, 20]; app.canvas.setDirty(true, true); }"


class Timeline:
    """The only timeline on the page, or one of several by its number from the left, from 0."""

    def __init__(self, page: ComfyPage, number: int = 0) -> None:
        self.page, self.number = page.page, number
        self.ask = page.ask
        self.root = self.page.locator(".ltx2-timeline").nth(self.ask(ORDER)[number])

    @classmethod
    def of(cls, page: ComfyPage, shots: Json | str | None = None) -> Timeline:
        """A new node with ``shots`` alone on the page, and its timeline."""
        page.page.evaluate("() => app.graph.clear()")
        page.ask(ADD, shots if isinstance(shots, str | None) else json.dumps(shots))
        page.page.evaluate(VIEW)
        page.page.locator(".ltx2-timeline").first.wait_for()
        page.page.wait_for_timeout(600)
        return cls(page)

    @property
    def text(self) -> str:
        """The text of the node's widget."""
        return self.ask(TEXTS)[self.number]

    @property
    def shots(self) -> Json:
        return json.loads(self.text)

    @property
    def said(self) -> str:
        return self.root.locator(".said").inner_text()

    @property
    def warnings(self) -> list[str]:
        return self.root.locator("li").all_inner_texts()

    def place(self, track: str, seconds: float, clip_seconds: float, dy: float = 0) -> tuple[float, float]:
        """Where a time of a track is on the screen."""
        box = self.root.locator("canvas").bounding_box()
        width = self.root.locator("canvas").evaluate("(canvas) => canvas.offsetWidth")
        zoom = box["width"] / width
        x = LABELS + seconds / clip_seconds * (width - LABELS - 8)
        return box["x"] + x * zoom, box["y"] + (ROWS.get(track, RULER / 2) + dy) * zoom

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=steps)
        mouse.up()
        self.page.wait_for_timeout(80)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(60)

    def button(self, name: str) -> Any:
        return self.root.get_by_role("button", name=name, exact=False)
