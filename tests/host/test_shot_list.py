"""LTX-2 Shot List: a graph makes the latents of ``ltx2 generate --shots``, and refuses what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import checkpoint, text_encoder
from PIL import Image
from tiny_models import TinyModels

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.media import write_wav
from ltx2_core.run.shots import mapped, read_shots
from ltx2_core.run.shots.mapping import beside
from ltx2_core.types import Numerics

CLIP = {
    "width": 64,
    "height": 64,
    "fps": 8.0,
    "frames": 33,
    "seed": 42,
    "distilled": True,
    "sampler": "euler",
}
SHOTS = {
    "format": "ltx2.shots/1",
    "clip": {**CLIP, "stages": 1},
    "prompt": "a ball",
    "negative": "noise",
    "parts": [{"from": 0, "prompt": "red, rolls"}, {"from": "50%", "prompt": "blue, stops"}],
    "images": [
        {"file": "shots_first.png", "strength": 0.9},
        {"file": "shots_last.png", "at": "end", "strength": 0.8},
    ],
    "audio": [{"file": "voice.wav", "at": 0.5, "gain_db": -3, "fade": 0.05}],
}


@pytest.fixture(scope="module")
def inputs(server: Server) -> Iterator[Path]:
    """The host's input folder with two images and a voice."""
    folder = server.base / "input"
    for name, colour in (("shots_first", "red"), ("shots_last", "blue")):
        image = Image.new("RGB", (64, 64), colour)
        image.paste("white", (16, 16, 40, 48))
        image.save(folder / f"{name}.png")
    waveform = torch.sin(torch.arange(32_000) * 0.05)[None] * 0.4
    write_wav(folder / "voice.wav", waveform, 16_000)
    yield folder
    for name in ("shots_first.png", "shots_last.png", "voice.wav", "shots.json"):
        (folder / name).unlink(missing_ok=True)


def listed(g: Graph, models: TinyModels, model: Link, text: str) -> Link:
    return g.add(
        "LTX2AVShotList", clip=text_encoder(g, models), video_vae=model[1], audio_vae=model[2], shots=text
    )


def sampled(server: Server, models: TinyModels, text: str) -> dict[str, torch.Tensor]:
    g = Graph()
    model = checkpoint(g, models)
    node = listed(g, models, model, text)
    stage = g.add(
        "LTX2AVSampleStage",
        model=model,
        positive=node,
        negative=node[1],
        latent=node[2],
        seed=node[4],
        schedule="distilled 8",
        steps=8,
        cfg=1.0,
        audio_cfg=0.0,
        sampler="euler",
    )
    cropped = g.add("LTX2AVCropGuides", positive=node, negative=node[1], latent=stage)
    g.dump("made", latent=cropped[2])
    return server.run(g.prompt, timeout_s=240).tensors("made")


def by_library(server: Server, models: TinyModels, path: Path) -> list[torch.Tensor]:
    """The latents that the command makes of the same file with ComfyUI's numerics."""
    folder = server.base / "models"
    pipeline = LTX2Pipeline(
        folder / "checkpoints" / models.checkpoints["2.3"],
        text_encoder=(folder / "text_encoders" / models.text_encoder).parent,
        device="cpu",
        dtype=torch.float32,
        numerics=Numerics.COMFY,
    )
    shots = read_shots(path)
    request = Request(prompt="", width=64, height=64, fps=8.0, num_frames=33, stages=1)
    clip = pipeline.stages(pipeline.resolve(request))[-1].finished
    made = mapped(shots, clip, beside(path))
    latents = pipeline(made.prompt, **made.fields).latents
    return [latents.video, latents.audio]


@pytest.mark.parametrize("parts", ["all", "no images", "no audio", "one prompt"])
def test_a_graph_makes_the_latents_of_the_command(
    server: Server, models: TinyModels, inputs: Path, tmp_path: Path, parts: str
) -> None:
    left_out = {"no images": "images", "no audio": "audio", "one prompt": "parts"}.get(parts)
    values = {name: value for name, value in SHOTS.items() if name != left_out}
    path = inputs / "shots.json"
    path.write_text(json.dumps(values))
    made = sampled(server, models, path.read_text()).values()
    # Masks are saved too, and have one channel.
    ours = [next(one for one in made if one.shape[1:2] == (channels,)) for channels in (128, 8)]
    theirs = by_library(server, models, path)
    path.unlink()
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.shape == expected.shape
        assert float((mine - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({}, "line 1"),
    "an unknown key": ({"colour": 1}, "colour is no key"),
    "a file that is not there": ({"images": [{"file": "gone.png"}]}, "not in ComfyUI's input folder"),
    "a file outside": ({"images": [{"file": "../models/x.png"}]}, "outside of ComfyUI's input folder"),
    "an absolute path": ({"images": [{"file": "/etc/passwd"}]}, "outside of ComfyUI's input folder"),
    "embedded data": ({"images": [{"file": "data:image/png;base64,AA"}]}, "files are named"),
    "two stages": ({"clip": {"stages": 2}}, "set stages of clip to 1"),
    "a LoRA": ({"loras": [{"file": "a.safetensors"}]}, "LTX-2 Load LoRA"),
    "after the end": ({"images": [{"file": "shots_first.png", "at": 99}]}, "outside of the clip"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_met_is_an_error_of_the_node(
    server: Server, models: TinyModels, inputs: Path, name: str
) -> None:
    changes, message = WRONG[name]
    text = json.dumps({**SHOTS, **changes}) if changes else "{"
    g = Graph()
    node = listed(g, models, checkpoint(g, models), text)
    g.add("PreviewAny", source=node[5])
    with pytest.raises(GraphError, match=message):
        server.run(g.prompt)
