"""LTX-2 Shot List: a graph makes the latents of ``ltx2 generate --shots``, and refuses what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from PIL import Image
from tiny_models import TinyModels

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.editing.shots import retake_of
from ltx2_core.media import VideoWriter, read_video, write_wav
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
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(33, 3, 4, 4, generator=generator)
    with VideoWriter(folder / "shots_clip.mp4", width=64, height=64, fps=8, sample_rate=16_000) as writer:
        writer.write_frames(torch.nn.functional.interpolate(frames, size=(64, 64)))
        writer.write_audio(torch.rand(2, 66_000, generator=generator) - 0.5)
    yield folder
    for name in ("shots_first.png", "shots_last.png", "voice.wav", "shots_clip.mp4", "shots.json"):
        (folder / name).unlink(missing_ok=True)


def loaded(g: Graph, models: TinyModels) -> Link:
    """Model, text encoder, video VAE and audio VAE, by one node."""
    files = {"ckpt_name": models.checkpoints["2.3"], "text_encoder": models.text_encoder, "upscaler": "none"}
    return g.add("LTX2AVLoadAll", **files, network="LTX-2")


def listed(g: Graph, model: Link, text: str) -> Link:
    return g.add("LTX2AVShotList", clip=model[1], video_vae=model[2], audio_vae=model[3], shots=text)


def shots_graph(models: TinyModels, text: str) -> tuple[Graph, Link, Link, Link]:
    """A graph that samples a shot list, and its loader, list and LATENT without guides, saved as made."""
    g = Graph()
    model = loaded(g, models)
    node = listed(g, model, text)
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
    return g, model, node, cropped[2]


def sampled(server: Server, models: TinyModels, text: str) -> dict[str, torch.Tensor]:
    return server.run(shots_graph(models, text)[0].prompt, timeout_s=240).tensors("made")


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
    if shots.source is not None:
        retake = retake_of(shots, beside(path), {}, numerics=Numerics.COMFY)
        runs: list[Any] = []
        retake.task().make(pipeline, on_sampled=runs.append)
        return [runs[0].latents.video, runs[0].latents.audio]
    request = Request(prompt="", width=64, height=64, fps=8.0, num_frames=33, stages=1)
    clip = pipeline.stages(pipeline.resolve(request))[-1].finished
    made = mapped(shots, clip, beside(path))
    latents = pipeline(made.prompt, **made.fields).latents
    return [latents.video, latents.audio]


def close(ours: Iterable[torch.Tensor], theirs: Iterable[torch.Tensor]) -> None:
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.shape == expected.shape
        assert float((mine - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def latents_of(made: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Video and audio of a saved LATENT; masks are saved too, and have one channel."""
    return [next(one for one in made.values() if one.shape[1:2] == (c,)) for c in (128, 8)]


GAPS = [{"track": "audio", "to": 0.5}, {"track": "audio", "from": 3}]


@pytest.mark.parametrize("parts", ["all", "generated gaps", "no images", "no audio", "one prompt"])
def test_a_graph_makes_the_latents_of_the_command(
    server: Server, models: TinyModels, inputs: Path, tmp_path: Path, parts: str
) -> None:
    left_out = {"no images": "images", "no audio": "audio", "one prompt": "parts"}.get(parts)
    values = {name: value for name, value in SHOTS.items() if name != left_out}
    if parts == "generated gaps":
        values["regions"] = GAPS
    path = inputs / "shots.json"
    path.write_text(json.dumps(values))
    made = sampled(server, models, path.read_text())
    theirs = by_library(server, models, path)
    path.unlink()
    close(latents_of(made), theirs)


REGIONS = [{"track": "video", "from": 2, "to": 3}, {"track": "audio", "from": 3}]
LISTS: dict[str, dict[str, Any]] = {
    "preserved start": {},
    "source alone": {"images": [], "audio": [], "parts": []},
    "first frame": {"regions": [{"track": "video", "to": 1}]},
}


@pytest.mark.parametrize("name", LISTS)
def test_regions_of_a_source_have_the_latents_of_the_command(
    server: Server, models: TinyModels, inputs: Path, name: str
) -> None:
    path = inputs / "shots.json"
    path.write_text(
        json.dumps({**SHOTS, "source": {"file": "shots_clip.mp4"}, "regions": REGIONS, **LISTS[name]})
    )
    g, model, node, latent = shots_graph(models, path.read_text())
    done = g.add("LTX2AVFinishEdit", edit=node[6], latent=latent, video_vae=model[2], audio_vae=model[3])
    g.add("SaveVideo", video=done[3], filename_prefix="regions", format="auto", codec="auto")
    assert len([one for one in g.prompt.values() if one["class_type"] != "LTX2ProbeDump"]) == 6
    g.dump("frames", image=done)
    made = server.run(g.prompt, timeout_s=240)
    theirs = by_library(server, models, path)
    path.unlink()
    close(latents_of(made.tensors("made")), theirs)
    (frames,) = made.tensors("frames").values()
    own = read_video(inputs / "shots_clip.mp4").read().permute(0, 2, 3, 1)
    # Latent frames 2 and 3 of the first region are frames 9 to 24.
    assert torch.equal(frames[25:], own[25:])
    assert not torch.equal(frames, own)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({}, "line 1"),
    "an unknown key": ({"colour": 1}, "colour is no key"),
    "a file that is not there": ({"images": [{"file": "gone.png"}]}, "not in ComfyUI's input folder"),
    "a file outside": ({"images": [{"file": "../models/x.png"}]}, "outside of ComfyUI's input folder"),
    "an absolute path": ({"images": [{"file": "/etc/passwd"}]}, "outside of ComfyUI's input folder"),
    "embedded data": ({"images": [{"file": "data:image/png;base64,AA"}]}, "files are named"),
    "two stages": ({"clip": {"stages": 2}}, "set stages of clip to 1"),
    "a LoRA": ({"loras": [{"file": "a.safetensors"}]}, "LTX-2 Load LoRA"),
    "another size": (
        {"source": {"file": "shots_clip.mp4"}, "regions": REGIONS, "clip": {"width": 96}},
        "width must be that of the source, which has 64x64",
    ),
    "after the end": ({"images": [{"file": "shots_first.png", "at": 99}]}, "outside of the clip"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_met_is_an_error_of_the_node(
    server: Server, models: TinyModels, inputs: Path, name: str
) -> None:
    changes, message = WRONG[name]
    text = json.dumps({**SHOTS, **changes}) if changes else "{"
    g = Graph()
    node = listed(g, loaded(g, models), text)
    g.add("PreviewAny", source=node[5])
    with pytest.raises(GraphError, match=message):
        server.run(g.prompt)
