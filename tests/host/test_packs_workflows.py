"""Every workflow that ComfyUI-LTXVideo ships, on core's loaders and on ours: the same frames and audio.

``COMFYUI_PACKS`` names a folder with packs; without ComfyUI-LTXVideo in it this file is skipped. What their
graphs take of packs that are not there, such as depth estimators, is left out, and so is what Gemma would
write: their node for it builds a Gemma of 12B.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import comfy_page
from foreign_changes import TOLERANCE, knows
from host_server import Json, Result, Server
from test_templates import needed
from tiny_models import TinyModels
from torch import Tensor
from workflow_inputs import FOLDER as INPUTS

WORKFLOWS = Path(os.environ.get("COMFYUI_PACKS") or os.devnull) / "ComfyUI-LTXVideo" / "example_workflows"
NAMES = sorted(path.relative_to(WORKFLOWS).as_posix() for path in WORKFLOWS.glob("2*/*.json"))
SIDE, FRAMES = 128, 33
SIZES = ("width", "height", "longer_edge", "shorter_size", "longer_size", "largest_size", "target_width")
SIZES = (*SIZES, "target_height")
FILES = {"LoadImage": {"image": "first.png"}, "LoadVideo": {"file": "clip.mp4"}}
SETTINGS: dict[str, Json] = {
    "LTXVLoopingSampler": {"temporal_tile_size": 24, "temporal_overlap": 16},
    "LTXVTiledVAEDecode": {"overlap": 1},
    "LTXVSpatioTemporalTiledVAEDecode": {"spatial_tiles": 2, "spatial_overlap": 1},
    "VAEDecodeTiled": {"tile_size": 64, "overlap": 32},
    "VAEEncodeTiled": {"tile_size": 64, "overlap": 32},
    "MultimodalGuider": {"skip_blocks": "1"},
    # OpenCV does not write this format as it is installed.
    "LTXVHDRDecodePostprocess": {"save_exr": False},
}
"""What fits clips of this size and a network of two blocks."""
MODEL = ("CheckpointLoaderSimple", "LowVRAMCheckpointLoader")
AUDIO = ("LTXVAudioVAELoader", "LowVRAMAudioVAELoader")
UPSCALER = ("LatentUpscaleModelLoader", "LowVRAMLatentUpscaleModelLoader")
TEXT = ("LTXAVTextEncoderLoader", "LTXVGemmaCLIPModelLoader")
Loader = tuple[str, Json, dict[int, int]]
"""Class and inputs of the node in place of a loader, and its output for each of the loader's."""


@pytest.fixture(scope="module")
def converted(server: Server, chromium: str) -> Iterator[dict[str, Json]]:
    """The workflows in API format, by core's page."""
    if not knows(server, "LTXVImgToVideoConditionOnly"):
        pytest.skip("ComfyUI-LTXVideo cannot be imported here")
    for file in INPUTS.iterdir():
        shutil.copy(file, server.base / "input" / file.name)
    with comfy_page(server.port, chromium) as page:
        yield {name: page.convert((WORKFLOWS / name).read_text("utf-8")) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_gives_the_same_on_our_loaders(
    server: Server, models: TinyModels, converted: dict[str, Json], name: str, streams_off: str
) -> None:
    if streams_off:
        pytest.skip("core of this version is no oracle for attention between the streams")
    found = {}
    for ours in (True, False):
        graph = small(without_absent(converted[name]), models)
        watched = dumped(loaded(graph, loaders(models, name[:3], ours=ours)))
        found[ours] = tensors_of(server.run(watched, timeout_s=300))
    assert found[True].keys() == found[False].keys()
    assert any("image" in key or "waveform" in key for key in found[True])
    for key, core in found[False].items():
        # A picture may be black.
        assert (core - found[True][key]).norm() <= TOLERANCE * core.norm(), key


def loaders(models: TinyModels, generation: str, *, ours: bool) -> dict[str, Loader]:
    """The node in place of each loader. The text encoder is always ours: the host's cannot be tiny."""
    checkpoint = {"ckpt_name": models.checkpoints[generation]}
    text: Loader = ("LTX2AVLoadTextEncoder", {**checkpoint, "text_encoder": models.text_encoder}, {0: 0})
    if ours:
        model: Loader = ("LTX2AVLoadCheckpoint", checkpoint, {0: 0, 2: 1})
        audio: Loader = ("LTX2AVLoadCheckpoint", checkpoint, {0: 2})
        upscaler: Loader = ("LTX2AVLoadUpscaler", {"upscaler": models.upsampler}, {0: 0})
    else:
        model = ("CheckpointLoaderSimple", checkpoint, {0: 0, 2: 2})
        audio = ("LTXVAudioVAELoader", checkpoint, {0: 0})
        upscaler = ("LatentUpscaleModelLoader", {"model_name": models.upsampler}, {0: 0})
    kinds = ((MODEL, model), (AUDIO, audio), (UPSCALER, upscaler), (TEXT, text))
    return {name: node for names, node in kinds for name in names}


def loaded(graph: Json, nodes: dict[str, Loader]) -> Json:
    """The graph with other loaders."""
    slots = {key: nodes[node["class_type"]][2] for key, node in graph.items() if node["class_type"] in nodes}

    def moved(value: Any) -> Any:
        return [value[0], slots[value[0]][value[1]]] if is_link(value) and value[0] in slots else value

    made = {}
    for key, node in graph.items():
        inputs = {one: moved(value) for one, value in node["inputs"].items()}
        kind, changed, _ = nodes.get(node["class_type"], (node["class_type"], inputs, {}))
        made[key] = {"class_type": kind, "inputs": dict(changed)}
    return made


def without_absent(graph: Json) -> Json:
    """The graph without nodes that are not installed, and without Gemma's prompts.

    What read from such a node reads what came into it, a frame rate as a whole number, or a size.
    """
    ends: dict[str, list[Any]] = {}
    for key, node in graph.items():
        inputs = node["inputs"]
        if node.get("class_type") == "LTXVGemmaEnhancePrompt":
            ends[key] = [inputs["prompt"]]
        elif "class_type" not in node:
            ends[key] = _passed(inputs)

    def followed(value: Any) -> Any:
        while is_link(value) and value[0] in ends:
            outputs = ends[value[0]]
            value = outputs[min(value[1], len(outputs) - 1)]
        return value

    return {
        key: {**node, "inputs": {one: followed(value) for one, value in node["inputs"].items()}}
        for key, node in graph.items()
        if key not in ends
    }


def _passed(inputs: Json) -> list[Any]:
    """What the outputs of a node that is not installed stand for."""
    if "switch" in inputs:
        return [inputs["on_true"]]
    if "signal" in inputs:
        return [inputs["signal"], inputs["value"]]
    if "a" in inputs:
        return [64 if inputs["UNKNOWN"] == "a*32" else 24]
    return [next((inputs[one] for one in ("image", "images", "depths", "vda_model") if one in inputs), None)]


def small(graph: Json, models: TinyModels) -> Json:
    """The graph with tiny files, frames and lengths, and two steps."""
    made = {}
    for key, node in graph.items():
        kind = node["class_type"]
        changed = {one: _smaller(kind, one, value, models) for one, value in node["inputs"].items()}
        made[key] = {"class_type": kind, "inputs": FILES.get(kind) or {**changed, **SETTINGS.get(kind, {})}}
    return made


def _smaller(kind: str, name: str, value: Any, models: TinyModels) -> Any:
    last = name.rpartition(".")[2]
    if last == "lora_name":
        return models.ic_lora if "ICLoRA" in kind else models.lora
    if kind == "ManualSigmas":
        return "1.0, 0.9, 0.0" if value.startswith("1") else "0.8, 0.4, 0.0"
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if last in SIZES:
        return SIDE if value >= 2 * SIDE else value
    if (kind == "PrimitiveInt" or last == "length") and value > 100:
        return FRAMES
    return 2 if last == "steps" else value


def dumped(graph: Json) -> Json:
    """What the results of a graph depend on, with probes in place of the nodes that save them."""
    probes: Json = {}
    for key, node in graph.items():
        inputs = node["inputs"]
        if node["class_type"] == "CreateVideo":
            probes[key] = {
                "image": inputs["images"],
                **{one: inputs[one] for one in ("audio",) if one in inputs},
            }
        elif node["class_type"] == "PreviewAudio":
            probes[key] = {"audio": inputs["audio"]}
    assert probes
    ends = {
        f"probe {key}": {"class_type": "LTX2ProbeDump", "inputs": {"name": key, **p}}
        for key, p in probes.items()
    }
    whole = {**graph, **ends}
    return {key: node for end in ends for key, node in needed(whole, end).items()}


def tensors_of(result: Result) -> dict[str, Tensor]:
    """All that probes saw of a run, as numbers."""
    names = [name for output in result.outputs.values() for name in output.get("dump_name", [])]
    found = {f"{name}: {key}": tensor for name in names for key, tensor in result.tensors(name).items()}
    return {key: tensor.double() for key, tensor in found.items()}


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
