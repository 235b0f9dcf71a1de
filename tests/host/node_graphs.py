"""Graphs of our nodes, and of core's for the same, that the tests of nodes share."""

from __future__ import annotations

import re

from host_graph import Graph, Link
from host_server import Result
from tiny_models import TinyModels

FRAMES, FPS, SIDE = 9, 24.0, 64
OF_A_STAGE = re.compile(r"\d+ steps? from noise level")
"""How the report of LTX-2 Sample Stage begins."""


def checkpoint(g: Graph, models: TinyModels) -> Link:
    return g.add("LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"])


def text_encoder(g: Graph, models: TinyModels) -> Link:
    name = models.checkpoints["2.3"]
    return g.add("LTX2AVLoadTextEncoder", text_encoder=models.text_encoder, ckpt_name=name)


def core_latent(g: Graph, audio_vae: Link, frames: int = FRAMES, batch: int = 1) -> Link:
    video = g.add("EmptyLTXVLatentVideo", width=SIDE, height=SIDE, length=frames, batch_size=batch)
    audio = g.add(
        "LTXVEmptyLatentAudio",
        frames_number=frames,
        frame_rate=int(FPS),
        batch_size=batch,
        audio_vae=audio_vae,
    )
    return g.add("LTXVConcatAVLatent", video_latent=video, audio_latent=audio)


def our_latent(g: Graph, frames: int = FRAMES, batch: int = 1) -> Link:
    return g.add("LTX2AVEmptyLatent", width=SIDE, height=SIDE, frames=frames, fps=FPS, batch_size=batch)


def prompt(g: Graph, clip: Link) -> Link:
    return g.add("LTX2AVPrompt", clip=clip, positive="a red ball", negative="noise", fps=FPS)


def stage(g: Graph, model: Link, text: Link, latent: Link, **changes) -> Link:
    values = {
        "positive": text,
        "seed": 42,
        "schedule": "distilled 3 (second stage)",
        "steps": 2,
        "cfg": 3.0,
        "audio_cfg": 0.0,
        "sampler": "euler",
        **changes,
    }
    return g.add("LTX2AVSampleStage", model=model, negative=text[1], latent=latent, **values)


def image(g: Graph, frames: int = 1, width: int = 90, height: int = SIDE) -> Link:
    return g.add("LTX2ProbeImage", seed=3, frames=frames, width=width, height=height)


def sound_of(g: Graph, seconds: float, rate: int, channels: int) -> Link:
    return g.add("LTX2ProbeAudio", samples=int(seconds * rate), sample_rate=rate, channels=channels)


def masked(g: Graph, latent: Link, values: str) -> Link:
    """An AV latent whose video has a noise mask of one value per latent frame."""
    parts = g.add("LTXVSeparateAVLatent", av_latent=latent)
    video = g.add("LTX2ProbeFrameMask", latent=parts, values=values)
    return g.add("LTXVConcatAVLatent", video_latent=video, audio_latent=parts[1])


def assert_equal(result: Result, ours: str = "ours", core: str = "core") -> None:
    left, right = result.tensors(ours), result.tensors(core)
    assert left.keys() == right.keys()
    for name in right:
        difference = (left[name].float() - right[name].float()).abs().max()
        assert difference == 0, f"{name}: {difference:.1e}"


def distance(result: Result, ours: str, exact: str) -> float:
    """Of the videos of two dumped latents, in units of the second."""
    left, right = (result.tensors(name)["latent/video"] for name in (ours, exact))
    return float((left - right).norm() / right.norm())


def report(result: Result) -> str:
    """The one text that the graph showed, other than those of sampling stages."""
    texts = [o["text"][0] for o in result.outputs.values() if "text" in o]
    (text,) = (text for text in texts if not OF_A_STAGE.match(text))
    return text


def reports(result: Result) -> str:
    """All texts that the graph showed."""
    return "\n".join(o["text"][0] for o in result.outputs.values() if "text" in o)


def lora(g: Graph, models: TinyModels, name: str) -> Link:
    return g.add("LTX2AVLoadLora", model=checkpoint(g, models), lora=name, strength=1.0)


def plan_node(g: Graph, **changes) -> Link:
    values = {
        "width": 128,
        "height": 128,
        "length_unit": "seconds",
        "length": 0.4,
        "fps": FPS,
        "snap": "nearest",
        "stages": "2",
        "batch_size": 1,
    }
    return g.add("LTX2AVClipPlan", **{**values, **changes})
