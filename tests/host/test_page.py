"""A shipped workflow in the real page: drop the file, press Run, and the video plays."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
from browser import chromium_path, comfy_page
from host_server import Server
from test_workflows import WORKFLOWS

NAME = "image_to_video_two_stages"
REPORTS = """() => JSON.stringify(app.graph.nodes.flatMap((node) => node.widgets ?? [])
    .filter((widget) => widget.name === "report").map((widget) => widget.element.textContent))"""
PLAYS = """() => {
    const video = document.querySelector("video");
    return video && video.readyState === 4 && video.duration > 2;
}"""


@pytest.fixture(scope="module")
def chromium() -> str:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("install playwright to run the page test")
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium found on the path; install it or set CHROMIUM to run the page test")
    return path


def test_a_dropped_workflow_runs_and_its_video_plays(server: Server, chromium: str):
    for file in (WORKFLOWS / "input").iterdir():
        shutil.copy(file, server.base / "input" / file.name)
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{NAME}.json", (WORKFLOWS / f"{NAME}.json").read_text(encoding="utf-8"))
        missing = page.missing()
        assert missing == {"types": [], "overlay": []}
        ended = page.run()
        assert ended["kind"] == "execution_success", ended["detail"]
        page.fit_view()
        page.page.wait_for_function(PLAYS, timeout=30_000)
        reports = page.ask(REPORTS)
        assert len(reports) == 2
        for told in ("256 x 192, 49 frames at 24 fps", "16 of 16 layers"):
            assert any(told in report for report in reports), reports
