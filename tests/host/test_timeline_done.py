"""A clip of two shots with images, a voice and a regenerated second, made by mouse from an empty graph."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import ComfyPage, comfy_page
from host_server import Server
from mouse_graph import MouseGraph
from test_shot_list import by_library, close, latents_of
from test_shot_list import inputs as inputs
from timeline_page import Timeline
from tiny_models import TinyModels

from ltx2_core.media import read_audio, read_video

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
    "SaveVideo": (1400, 130),
}
"""Node -> where it is added, and its entries in the menu; without them they are those of the version."""
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
LTX2 = (sys.executable, "-m", "ltx2_core.cli.main")
CPU = ("--device", "cpu", "--dtype", "float32")
REPOSITORY = Path(__file__).resolve().parents[2]
SAVED = "() => JSON.stringify(JSON.stringify(app.graph.serialize()))"


def made(page: ComfyPage, models: TinyModels) -> None:
    """Add and connect the nodes."""
    graph = MouseGraph(page)
    page.page.evaluate("() => app.graph.clear()")
    page.page.evaluate(FAR)
    for kind, (x, y, *path) in NODES.items():
        graph.add(x, y, *(path or graph.menu(kind)))
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


def files_of(server: Server, models: TinyModels) -> dict[str, str]:
    """The model files by the names that a list of served models has."""
    folder = server.base / "models"
    return {
        "checkpoint": str(folder / "checkpoints" / models.checkpoints["2.3"]),
        "text_encoder": str((folder / "text_encoders" / models.text_encoder).parent),
    }


def commanded(files: dict[str, str], shots: Path, clip: Path, *options: str) -> Path:
    """Write ``clip`` by the command, in a process of its own."""
    named = [part for name, file in files.items() for part in (f"--{name.replace('_', '-')}", file)]
    ran = subprocess.run(
        [*LTX2, "generate", "--shots", shots, "-o", clip, *CPU, *named, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return clip


@contextmanager
def serving(folder: Path, files: dict[str, str], inputs: Path) -> Iterator[Any]:
    """A client of ``ltx2 serve`` with the model "made", a process that ends with the block."""
    import httpx

    served = {"checkpoints": [files["checkpoint"]], "text_encoder": files["text_encoder"]}
    (folder / "models.json").write_text(json.dumps({"made": served}))
    options = ["--models", folder / "models.json", "--state", folder / "state", "--inputs", inputs]
    with (folder / "served.txt").open("w") as log:
        process = subprocess.Popen(
            [*LTX2, "serve", "--port", "0", *CPU, *options],
            cwd=REPOSITORY,
            stderr=log,
        )
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", (folder / "served.txt").read_text())):
            assert process.poll() is None, (folder / "served.txt").read_text()
            time.sleep(0.1)
        with httpx.Client(base_url=found.group(), timeout=240) as client:
            yield client
    finally:
        process.kill()
        process.wait()


def by_http(client: Any, shots: Path, clip: Path) -> Path:
    """Write ``clip`` by a job."""
    body = {"model": "made", "request": {}, "shots": json.loads(shots.read_text())}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    address = f"/v1/jobs/{answer.json()['id']}"
    while (job := client.get(address).json())["state"] in ("queued", "running"):
        time.sleep(0.3)
    assert job["state"] == "succeeded", job
    clip.write_bytes(client.get(f"{address}/file").content)
    return clip


@pytest.fixture(scope="module")
def made_list(
    server: Server, models: TinyModels, inputs: Path, chromium: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, torch.Tensor], torch.Tensor]:
    """The shot list made by mouse, as a file, and the LATENT and the frames of its run on the page."""
    tmp_path = tmp_path_factory.mktemp("made")
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
    (finish,) = [name for name, one in prompt.items() if one["class_type"] == "LTX2AVFinishEdit"]
    prompt["frames"] = {"class_type": "LTX2ProbeDump", "inputs": {"name": "frames", "image": [finish, 0]}}
    ran = server.run(prompt, timeout_s=240)
    (frames,) = ran.tensors("frames").values()
    path = inputs / "shots.json"
    # What is a widget of the sampler in the graph is an option of the command.
    path.write_text(json.dumps({**shots, "clip": {**shots["clip"], "distilled": True, "sampler": "euler"}}))
    return path, ran.tensors("made"), frames


def test_a_clip_is_made_by_mouse_saved_reopened_and_run_with_the_latents_of_the_library(
    server: Server, models: TinyModels, made_list: tuple[Path, dict[str, torch.Tensor], torch.Tensor]
):
    path, latents, _ = made_list
    theirs: list[torch.Tensor] = by_library(server, models, path)
    close(latents_of(latents), theirs)


def test_the_command_makes_the_frames_of_the_page_from_the_same_file(
    server: Server,
    models: TinyModels,
    made_list: tuple[Path, dict[str, torch.Tensor], torch.Tensor],
    tmp_path: Path,
):
    path, _, frames = made_list
    lossless = ("--numerics", "comfy", "--video-codec", "h264", "--pixel-format", "yuv444p", "--crf", "0")
    clip = commanded(files_of(server, models), path, tmp_path / "command.mkv", *lossless)
    theirs = read_video(clip).read().permute(0, 2, 3, 1)
    # Colours are rounded to 8 bits, twice.
    assert float((frames - theirs).abs().max()) <= 4 / 255


def test_the_clip_of_a_job_is_that_of_the_command_from_the_same_file(
    server: Server,
    models: TinyModels,
    inputs: Path,
    made_list: tuple[Path, dict[str, torch.Tensor], torch.Tensor],
    tmp_path: Path,
):
    for name in ("fastapi", "uvicorn", "httpx"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"install {name} to serve jobs")
    files = files_of(server, models)
    one = commanded(files, made_list[0], tmp_path / "command.mp4")
    with serving(tmp_path, files, inputs) as client:
        other = by_http(client, made_list[0], tmp_path / "job.mp4")
    for read in (lambda path: read_video(path).read(), lambda path: read_audio(path)[0]):
        assert torch.equal(read(one), read(other))
