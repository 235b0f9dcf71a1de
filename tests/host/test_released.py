"""Shipped workflows in the page without the tiny models: released files, whose download it offers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import ComfyPage, comfy_page
from host_server import Server
from workflow_notes import NOTES
from workflow_runs import EXAMPLES, Runs

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
DIALOGS = ("camera_lora", "ltx25_text_to_video")
"""Workflows of tiny and of released files whose list of missing files is looked at."""
HELD = """() => JSON.stringify(app.graph.nodes.filter((node) => node.properties.models).flatMap((node) =>
    node.widgets.map((widget) => widget.value).filter((value) => /[.]safetensors$/.test(value))))"""
SIZES = """() => JSON.stringify(app.graph.nodes.filter((node) => node.type === "LTX2AVClipPlan").map((node) =>
    ["width", "height"].map((name) => node.widgets.find((widget) => widget.name === name).value)))"""
OFFERED = """() => JSON.stringify([...document.querySelectorAll("button")]
    .filter((button) => button.textContent.trim() === "Download").map((button) => button.ariaLabel))"""
MISSING = "[data-testid=error-overlay] button >> text=/errors|details|models/i"
USE_RELEASED = "() => app.extensionManager.command.execute('comfyui-ltx2.released')"


def absent(text: str) -> str:
    """A workflow whose tiny files this host does not have."""
    return text.replace("ltx2-tiny", "not-here").replace("gemma-tiny", "not-here")


def files_of(name: str) -> set[str]:
    return {file.name for file in NOTES[name].files}


def read(name: str) -> str:
    return (EXAMPLES / f"{name}.json").read_text(encoding="utf-8")


def test_without_the_tiny_models_every_workflow_opens_on_the_files_of_its_note(
    server: Server, runs: Runs, chromium: str
):
    with comfy_page(server.port, chromium) as page:
        for name in NAMES:
            page.convert(absent(read(name)))
            assert set(page.ask(HELD)) == files_of(name), name
            for width, height in page.ask(SIZES):
                # 768 x 512 is that of LTX-Video in one stage.
                assert (width, height) in ((1024, 576), (1280, 704), (768, 512)), name


@pytest.mark.parametrize("name", DIALOGS)
def test_the_page_offers_to_download_the_files_of_the_note(
    server: Server, runs: Runs, chromium: str, name: str
):
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{name}.json", absent(read(name)))
        assert offered(page) == len(files_of(name))
        text = page.page.inner_text("body")
        for file in NOTES[name].files:
            assert file.name in text
            assert file.folder in text


def offered(page: ComfyPage) -> int:
    """How many downloads the list of missing files offers."""
    page.page.locator(MISSING).last.dispatch_event("click")
    page.page.wait_for_function(f"() => JSON.parse(({OFFERED})()).length > 0")
    return len(page.ask(OFFERED))


def test_with_the_tiny_models_a_command_of_the_menu_uses_the_released_files(
    server: Server, runs: Runs, chromium: str
):
    name = "text_to_video_two_stages"
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{name}.json", read(name))
        assert page.ask(SIZES) == [[128, 128]]
        page.page.evaluate(USE_RELEASED)
        assert set(page.ask(HELD)) == files_of(name)
        assert page.ask(SIZES) == [[1280, 704]]
        assert offered(page) == len(files_of(name))


def test_a_downloaded_file_is_chosen_under_the_name_by_which_this_comfyui_lists_it(
    server: Server, runs: Runs, folder: Path, chromium: str
):
    text = read("ltx25_text_to_video")
    graph = json.loads(text)
    (models,) = (node for node in graph["nodes"] if node["type"] == "LTX2AVLoadAll")
    text = text.replace(models["widgets_values"][0], "only.safetensors")
    with comfy_page(server.port, chromium) as page:
        page.convert(text)
        assert "diffusion_models/only.safetensors" in page.ask(HELD)
