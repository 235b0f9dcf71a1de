"""The shipped workflows of LTX-Video, and core's own templates of it, on a tiny set and on our loaders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from browser import comfy_page
from host_server import Json, Server
from ltxv_files import tiny_set, with_tiny_files
from saved import decoded, saved_video
from workflow_inputs import FOLDER as INPUTS
from workflow_ltxv_tables import LTXV
from workflow_runs import prompt_of

from ltx2_core.tiny.settings import TEXT_WIDTH
from ltx2_core.tiny.write import TinySet

FRAMES = dict.fromkeys(LTXV, 17) | dict.fromkeys(("ltxv_segment_edit", "ltxv_video_to_video"), 49)
TEMPLATES = ("ltxv_text_to_video", "ltxv_image_to_video")
SIDE = 128


@pytest.fixture(scope="module")
def files(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinySet]:
    for name in ("first.png", "last.png", "clip.mp4"):
        shutil.copy(INPUTS / name, base_dir / "input")
    with tiny_set(base_dir, tmp_path_factory.mktemp("ltxv")) as made:
        yield made


@pytest.mark.parametrize("name", LTXV)
def test_a_workflow_saves_a_video_without_audio(server: Server, files: TinySet, name: str):
    path = saved_video(server.run(with_tiny_files(prompt_of(name), files), timeout_s=300))
    clip = decoded(path)
    assert clip.frames.shape == (FRAMES[name], 3, SIDE, SIDE)
    assert clip.frames.std() > 0.01, "not one flat colour"
    with av.open(str(path)) as file:
        assert not file.streams.audio


@pytest.fixture(scope="module")
def converted(server: Server, chromium: str) -> Iterator[dict[str, Json]]:
    """Core's templates in API format, by core's page."""
    package = pytest.importorskip("comfyui_workflow_templates_json")
    folder = Path(package.__file__).parent / "templates"
    with comfy_page(server.port, chromium) as page:
        yield {name: page.convert((folder / f"{name}.json").read_text("utf-8")) for name in TEMPLATES}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_of_core_runs_on_our_loaders(
    server: Server, files: TinySet, converted: dict[str, Json], name: str
):
    graph = on_our_loader(converted[name], files)
    kinds = {node["class_type"] for node in graph.values()}
    assert "LTX2AVLoadCheckpoint" in kinds
    assert {"LTXVScheduler", "SamplerCustom", "LTXVConditioning", "VAEDecode"} <= kinds
    assert not kinds & {"CheckpointLoaderSimple", "CLIPLoader", "CLIPTextEncode"}
    clip = decoded(saved_video(server.run(graph, timeout_s=300)))
    assert clip.frames.shape == (17, 3, SIDE, SIDE)
    assert clip.frames.std() > 0.01


def on_our_loader(graph: Json, files: TinySet) -> Json:
    """A template with our loader of the tiny checkpoint, small, and with states in place of T5."""
    loads = {key for key, node in graph.items() if node["class_type"] == "CheckpointLoaderSimple"}
    states = 0
    for key, node in list(graph.items()):
        inputs = node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, list) and value[0] in loads:
                inputs[name] = [value[0], {0: 0, 2: 1}[value[1]]]
        if node["class_type"] == "CLIPTextEncode":
            states += 1
            node["class_type"] = "LTX2ProbeTextStates"
            node["inputs"] = {"seed": states, "valid": 3 + 3 * states, "width": TEXT_WIDTH}
        elif node["class_type"] == "CLIPLoader":
            del graph[key]
        elif node["class_type"] == "LoadImage":
            node["inputs"] = {"image": "first.png"}
        for name, small in (("width", SIDE), ("height", SIDE), ("length", 17), ("steps", 3)):
            if isinstance(inputs.get(name), int):
                inputs[name] = small
    for key in loads:
        graph[key] = {"class_type": "LTX2AVLoadCheckpoint", "inputs": {"ckpt_name": files.checkpoint.name}}
    assert states == 2
    return graph
