"""A clip of two shots with images, a voice and a regenerated second, made by mouse from an empty graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from browser import ComfyPage, comfy_page
from host_server import Server
from mouse_graph import MouseGraph
from test_shot_list import by_library, close, latents_of
from test_shot_list import inputs as inputs
from timeline_page import Timeline
from tiny_models import TinyModels

FILES = {
    "photo_a.png": "shots_first.png",
    "photo_b.png": "shots_last.png",
    "talk.wav": "voice.wav",
    "take.mp4": "shots_clip.mp4",
}
"""Name of a file that is chosen -> the file of the shot lists of other tests."""
FAR = "() => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true); }"
NEAR = """() => {
    const { pos } = app.graph.nodes.find((one) => one.type === "LTX2AVShotList");
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [40 - pos[0], 60 - pos[1]];
    app.canvas.setDirty(true, true);
}"""
NODES = {
    "LTX2AVLoadAll": (250, 130, "LTX-2", "loaders", "LTX-2 Load All"),
    "LTX2AVShotList": (450, 130, "LTX-2", "conditioning", "LTX-2 Shot List"),
    "LTX2AVSampleStage": (900, 130, "LTX-2", "sampling", "LTX-2 Sample Stage"),
    "LTX2AVCropGuides": (900, 500, "LTX-2", "conditioning", "LTX-2 Crop Guides"),
    "LTX2AVFinishEdit": (1150, 130, "LTX-2", "editing", "LTX-2 Finish Edit"),
    "SaveVideo": (1400, 130, "video", "Save Video"),
}
"""Node -> where it is added, and its entries in the menu."""
LINKS = (
    ("LTX2AVLoadAll", "clip", "LTX2AVShotList", "clip"),
    ("LTX2AVLoadAll", "video_vae", "LTX2AVShotList", "video_vae"),
    ("LTX2AVLoadAll", "audio_vae", "LTX2AVShotList", "audio_vae"),
    ("LTX2AVLoadAll", "model", "LTX2AVSampleStage", "model"),
    ("LTX2AVShotList", "positive", "LTX2AVSampleStage", "positive"),
    ("LTX2AVShotList", "negative", "LTX2AVSampleStage", "negative"),
    ("LTX2AVShotList", "latent", "LTX2AVSampleStage", "latent"),
    ("LTX2AVShotList", "positive", "LTX2AVCropGuides", "positive"),
    ("LTX2AVShotList", "negative", "LTX2AVCropGuides", "negative"),
    ("LTX2AVSampleStage", "latent", "LTX2AVCropGuides", "latent"),
    ("LTX2AVShotList", "edit", "LTX2AVFinishEdit", "edit"),
    ("LTX2AVCropGuides", "latent", "LTX2AVFinishEdit", "latent"),
    ("LTX2AVLoadAll", "video_vae", "LTX2AVFinishEdit", "video_vae"),
    ("LTX2AVLoadAll", "audio_vae", "LTX2AVFinishEdit", "audio_vae"),
    ("LTX2AVFinishEdit", "video", "SaveVideo", "video"),
)
SENT = "async () => JSON.stringify((await app.graphToPrompt()).output)"
LISTED = """() => app.graph.nodes.map((one) => one.widgets?.find((two) => two.name === "shots")?.value)"""
SAVED = "() => JSON.stringify(JSON.stringify(app.graph.serialize()))"


def made(page: ComfyPage, models: TinyModels) -> None:
    """Add and connect the nodes."""
    graph = MouseGraph(page)
    page.page.evaluate("() => app.graph.clear()")
    page.page.evaluate(FAR)
    for place in NODES.values():
        graph.add(*place)
    for link in LINKS:
        graph.link(*link)
    graph.choose("LTX2AVLoadAll", "ckpt_name", models.checkpoints["2.3"])
    graph.choose("LTX2AVLoadAll", "text_encoder", models.text_encoder)
    graph.choose("LTX2AVSampleStage", "preset", "distilled 8")


def listed(page: ComfyPage, folder: Path) -> None:
    """Fill the timeline: prompts, images, a voice, and a second of a source."""
    page.page.evaluate(NEAR)
    page.page.wait_for_timeout(1500)
    timeline = Timeline(page)

    def chosen(button: str, name: str) -> None:
        before = timeline.text
        with page.page.expect_file_chooser() as chooser:
            timeline.button(button).click()
        chooser.value.set_files(folder / name)
        page.page.wait_for_function(f"(before) => !({LISTED})().includes(before)", arg=before)

    # The source first: size and length of the clip are its own.
    page.page.mouse.click(*timeline.place("ruler", 1.0, 4))
    chosen("Regenerate a second", "take.mp4")
    seconds = 33 / 8
    page.page.mouse.click(*timeline.place("ruler", 0, seconds))
    chosen("Add an image at the playhead", "photo_a.png")
    page.page.mouse.click(*timeline.place("ruler", seconds, seconds))
    chosen("Add an image at the playhead", "photo_b.png")
    page.page.mouse.click(*timeline.place("ruler", 0.5, seconds))
    chosen("Add audio at the playhead", "talk.wav")
    for at, prompt in ((0.3, "red, rolls"), (3.0, "blue, stops")):
        page.page.mouse.click(*timeline.place("parts", at, seconds))
        timeline.root.get_by_label("Prompt", exact=True).fill(prompt)


def test_a_clip_is_made_by_mouse_saved_reopened_and_run_with_the_latents_of_the_command(
    server: Server, models: TinyModels, inputs: Path, chromium: str, tmp_path: Path
):
    for name, source in FILES.items():
        shutil.copy(inputs / source, tmp_path / name)
    with comfy_page(server.port, chromium) as page:
        made(page, models)
        listed(page, tmp_path)
        saved = page.ask(SAVED)
    with comfy_page(server.port, chromium) as page:
        page.drop("made.json", saved)
        assert len(json.loads(saved)["nodes"]) == 6
        prompt: dict[str, Any] = page.ask(SENT)
        ended = page.run()
        assert ended["kind"] == "execution_success", ended["detail"]
    (text,) = [one["inputs"]["shots"] for one in prompt.values() if "shots" in one["inputs"]]
    shots = json.loads(text)
    assert [len(shots[name]) for name in ("parts", "images", "audio", "regions")] == [2, 2, 1, 1]
    assert [image["at"] for image in shots["images"]] == [0, "end"]
    (crop,) = [name for name, one in prompt.items() if one["class_type"] == "LTX2AVCropGuides"]
    prompt["dump"] = {"class_type": "LTX2ProbeDump", "inputs": {"name": "made", "latent": [crop, 2]}}
    by_page = server.run(prompt, timeout_s=240).tensors("made")
    path = inputs / "shots.json"
    # What is a widget of the sampler in the graph is an option of the command.
    path.write_text(json.dumps({**shots, "clip": {**shots["clip"], "distilled": True, "sampler": "euler"}}))
    theirs: list[torch.Tensor] = by_library(server, models, path)
    close(latents_of(by_page), theirs)
