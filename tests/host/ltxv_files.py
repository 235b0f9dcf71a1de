"""A tiny set of LTX-Video among the models of a host, and graphs of released files set to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from host_server import Json

from ltx2_core.tiny.settings import TEXT_WIDTH
from ltx2_core.tiny.write import TinySet, write_tiny_set


@contextmanager
def tiny_set(base_dir: Path, folder: Path) -> Iterator[TinySet]:
    """Write a tiny set of LTX-Video to ``folder``, and have it among the host's models inside the context.

    Other tests name all models that their lists hold.
    """
    made = write_tiny_set(folder, generation="ltxv-2b", dtype=torch.float32)
    places = {
        made.checkpoint: Path("checkpoints", made.checkpoint.name),
        made.upsampler: Path("latent_upscale_models", upscaler_name(made)),
        made.lora: Path("loras", lora_name(made)),
    }
    copies = [base_dir / "models" / place for place in places.values()]
    for file, copy in zip(places, copies, strict=True):
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    try:
        yield made
    finally:
        for copy in copies:
            copy.unlink()


def lora_name(files: TinySet) -> str:
    """The LoRA's name in the host, apart from that of the tiny LTX-2."""
    return f"ltxv-{files.lora.name}"


def upscaler_name(files: TinySet) -> str:
    """The upscaler's name in the host, apart from that of the tiny LTX-2."""
    return f"ltxv-{files.upsampler.name}"


def with_tiny_files(graph: Json, files: TinySet) -> Json:
    """A graph of ours with the tiny files, small, and with states in place of T5.

    ComfyUI's T5 has one size alone, so that no tiny one can be loaded there.
    """
    made: Json = {}
    loads = {key for key, node in graph.items() if node["class_type"] == "LTX2AVLoadAll"}
    prompts = {key for key, node in graph.items() if node["class_type"] == "LTX2AVPrompt"}
    for key, node in graph.items():
        inputs = {name: moved(value, loads) for name, value in node["inputs"].items()}
        made[key] = {"class_type": node["class_type"], "inputs": inputs}
        if node["class_type"] == "LTX2AVClipPlan":
            inputs |= {"width": 128, "height": 128, "length": 0.5, "megapixels": 0.02}
    for key in loads:
        made[key] = {"class_type": "LTX2AVLoadCheckpoint", "inputs": {"ckpt_name": files.checkpoint.name}}
        name = {"upscaler": upscaler_name(files)}
        made[f"{key}u"] = {"class_type": "LTX2AVLoadUpscaler", "inputs": name}
    for key in prompts:
        fps = made[key]["inputs"]["fps"]
        for end, seed, valid in (("p", 1, 9), ("n", 2, 4)):
            states = {"seed": seed, "valid": valid, "width": TEXT_WIDTH}
            made[f"{key}{end}"] = {"class_type": "LTX2ProbeTextStates", "inputs": states}
        pair = {"positive": [f"{key}p", 0], "negative": [f"{key}n", 0], "frame_rate": fps}
        made[key] = {"class_type": "LTXVConditioning", "inputs": pair}
    return made


def moved(value: object, loads: set[str]) -> object:
    """A link to one of our loaders, as a link to the tiny loader that has this output."""
    if not isinstance(value, list) or value[0] not in loads:
        return value
    key, output = value
    return {0: [key, 0], 2: [key, 1], 3: [key, 2], 4: [f"{key}u", 0]}.get(output)
