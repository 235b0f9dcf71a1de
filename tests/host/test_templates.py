"""Core's own LTX-2 templates, as its page converts them, on our loaders: our models under its nodes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import comfy_page
from host_server import Json, Server
from saved import decoded, saved_video
from test_text_encoder import a_lora
from tiny_models import TinyModels
from workflow_inputs import FOLDER as INPUTS

NAMES = {
    "template_ltx2_3_style_transition": 25,
    "video_ltx2_3_flf2v": 25,
    "video_ltx2_3_i2v": 25,
    "video_ltx2_3_ia2v": 25,
    "video_ltx2_3_ic_lora": 49,
    "video_ltx2_3_id_lora": 25,
    "video_ltx2_3_t2v": 25,
    "video_ltx2_canny_to_video": 17,
    "video_ltx2_depth_to_video": 17,
    "video_ltx2_i2v": 17,
    "video_ltx2_i2v_distilled": 17,
    "video_ltx2_i2v_lora": 17,
    "video_ltx2_t2v": 17,
    "video_ltx2_t2v_distilled": 17,
}
"""Frames that come out of each with the lengths of `small`."""
SIDE = 128
CORE_LOADERS = {
    "CheckpointLoaderSimple": ("LTX2AVLoadCheckpoint", {0: 0, 2: 1}),
    "LTXVAudioVAELoader": ("LTX2AVLoadCheckpoint", {0: 2}),
    "LTXAVTextEncoderLoader": ("LTX2AVLoadTextEncoder", {0: 0}),
    "LatentUpscaleModelLoader": ("LTX2AVLoadUpscaler", {0: 0}),
    "LoraLoaderModelOnly": ("LTX2AVLoadLora", {0: 0}),
}
"""Our node for each loader, and our output for each of its outputs."""
FILES = {"LoadImage": ("image", "first.png"), "LoadAudio": ("audio", "knocks.wav")}
FILES["LoadVideo"] = ("file", "clip.mp4")
ENHANCER = "TextGenerateLTX2Prompt"
ENHANCED = ("video_ltx2_3_i2v", "video_ltx2_3_ia2v", "video_ltx2_3_t2v")
"""Templates in which Gemma writes the prompt, with a LoRA of its own; in another one it looks at an image."""
DEPTH = {"MoGeRender": ("MoGeInference", "image"), "ImageInvert": ("VAEEncode", "pixels")}
"""Ends of the depth estimators, whose models cannot be tiny, and where they get their frames from."""


@pytest.fixture(scope="module")
def converted(server: Server, chromium: str) -> Iterator[dict[str, Json]]:
    """The templates in API format, by core's page."""
    package = pytest.importorskip("comfyui_workflow_templates_json")
    folder = Path(package.__file__).parent / "templates"
    with comfy_page(server.port, chromium) as page:
        yield {name: page.convert((folder / f"{name}.json").read_text("utf-8")) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_of_core_runs_on_our_loaders(
    server: Server, models: TinyModels, converted: dict[str, Json], name: str
):
    for kind in FILES.values():
        shutil.copy(INPUTS / kind[1], server.base / "input")
    graph = chosen_prompt(without_depth(converted[name]), written=name in ENHANCED)
    graph = with_our_loaders(small(without_view(graph)), models, name)
    kinds = {node["class_type"] for node in graph.values()}
    assert "LTX2AVLoadCheckpoint" in kinds
    assert not kinds & CORE_LOADERS.keys()
    assert (ENHANCER in kinds) == (name in ENHANCED)
    a_lora(server.base)
    clip = decoded(saved_video(server.run(graph, timeout_s=300)))
    assert clip.frames.shape == (NAMES[name], 3, SIDE, SIDE)
    assert clip.frames.std() > 0.01, "not one flat colour"
    assert clip.sound is not None
    assert clip.sound.shape[1] / clip.rate > 0.9 * NAMES[name] / 25


def without_depth(graph: Json) -> Json:
    """The graph with the clip itself in place of its depth."""
    return redirected(
        graph,
        {
            end: next(n["inputs"][one] for n in graph.values() if n["class_type"] == begin)
            for end, node in graph.items()
            for kind, (begin, one) in DEPTH.items()
            if node["class_type"] == kind
        },
    )


def chosen_prompt(graph: Json, *, written: bool) -> Json:
    """The graph with the prompt that Gemma writes, or with the one that was typed, where it has both."""
    ends = {}
    for key, node in graph.items():
        if node["class_type"] == "ComfySwitchNode":
            choices = [node["inputs"].get(one) for one in ("on_false", "on_true")]
            of_kind = [one for one in choices if is_written(graph, one) == written]
            if len(of_kind) == 1:
                ends[key] = of_kind[0]
    return redirected(graph, ends)


def without_view(graph: Json) -> Json:
    """The graph with Gemma writing from the typed prompt alone: our text encoder refuses images."""
    for node in graph.values():
        if node["class_type"] == ENHANCER:
            node["inputs"].pop("image", None)
    return graph


def is_written(graph: Json, value: Any) -> bool:
    return isinstance(value, list) and graph[value[0]]["class_type"] == ENHANCER


def small(graph: Json) -> Json:
    """The graph with tiny frames, a second at most, and two steps where it has a number of steps."""
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, int) and not isinstance(value, bool):
                node["inputs"][name] = smaller(node["class_type"], name.rpartition(".")[2], value)
        if node["class_type"] == "PrimitiveFloat" and node["inputs"]["value"] <= 10:
            node["inputs"]["value"] = 1.0
    return graph


def smaller(kind: str, name: str, value: int) -> int:
    if kind == "PrimitiveInt":
        return SIDE if value >= 512 else 17 if value > 100 else 1 if value <= 10 else value
    if name in ("width", "height", "longer_edge") and kind != "SolidMask":
        return SIDE
    if name == "length" and value > 100:
        return 17
    if kind == ENHANCER and name == "max_length":
        return 16
    return min(value, 2) if name == "steps" and kind == "LTXVScheduler" else value


def with_our_loaders(graph: Json, models: TinyModels, name: str) -> Json:
    """What the saved video needs, with our loaders and the tiny files."""
    generation = "2.3" if "2_3" in name else "2.0"
    checkpoint = models.checkpoints[generation]
    files = {
        "LTX2AVLoadCheckpoint": {"ckpt_name": checkpoint},
        "LTX2AVLoadTextEncoder": {"ckpt_name": checkpoint, "text_encoder": models.text_encoder},
        "LTX2AVLoadUpscaler": {"upscaler": models.upsampler},
        "LTX2AVLoadLora": {"lora": models.ic_lora if "ic_lora" in name else models.lora, "strength": 0.5},
    }
    slots = {key: CORE_LOADERS[node["class_type"]][1] for key, node in graph.items() if is_loader(node)}
    for node in graph.values():
        for one, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in slots:
                node["inputs"][one] = [value[0], slots[value[0]][value[1]]]
    for node in graph.values():
        if is_loader(node):
            node["class_type"] = CORE_LOADERS[node["class_type"]][0]
            links = {one: value for one, value in node["inputs"].items() if isinstance(value, list)}
            node["inputs"] = {**links, **files[node["class_type"]]}
        elif node["class_type"] == "LoraLoader":
            node["inputs"]["lora_name"] = "gemma.safetensors"
        elif node["class_type"] in FILES:
            one, file = FILES[node["class_type"]]
            node["inputs"] = {one: file}
    (end,) = (key for key, node in graph.items() if node["class_type"] == "SaveVideo")
    return needed(graph, end)


def is_loader(node: Json) -> bool:
    return node["class_type"] in CORE_LOADERS


def redirected(graph: Json, ends: dict[str, Any]) -> Json:
    """The graph with what read from the nodes ``ends`` reading from their values."""
    for node in graph.values():
        for name, value in node["inputs"].items():
            while isinstance(value, list) and value[0] in ends:
                value = ends[value[0]]
            node["inputs"][name] = value
    return graph


def needed(graph: Json, end: str) -> Json:
    """The part of a graph that a node depends on."""
    found, waiting = {}, [end]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found[key] = graph[key]
            waiting += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return found
