"""Nodes that many workflows share, set for the tiny model set and its world of 128 x 128 pixels at 25 fps."""

from __future__ import annotations

from typing import Any

from workflow_format import Node, node

FPS = 25.0
BY_HAND = "as above"
"""No preset, stated since the page keeps that of the workflow before."""
DISTILLED = "ltx2-tiny-distilled-lora.safetensors"
EDGES = "ltx2-tiny-edges-ic-lora.safetensors"


def models(upscaler: bool = False) -> Node:
    return node(
        "LTX2AVLoadAll",
        ckpt_name="ltx2-tiny-2.3.safetensors",
        text_encoder="gemma-tiny/model.safetensors",
        upscaler="ltx2-tiny-spatial-upscaler-x2.safetensors" if upscaler else "none",
    )


def plan(
    stages: int = 1,
    *,
    width: int = 128,
    height: int = 128,
    seconds: float = 1.96,
    fps: float | str = FPS,
    image: str | None = None,
) -> Node:
    """Size and length; with an ``image`` its shape, at about the same number of pixels."""
    shape = {} if image is None else {"image": image, "megapixels": 0.02}
    return node(
        "LTX2AVClipPlan",
        width=width,
        height=height,
        length_unit="seconds",
        length=seconds,
        fps=fps,
        stages=str(stages),
        **shape,
    )


def control_plan() -> Node:
    """The size and length that the edge LoRA of the tiny set was trained at."""
    return plan(width=128, height=96, seconds=1.0)


def prompt(text: str, fps: float | str = FPS) -> Node:
    return node("LTX2AVPrompt", positive=text, fps=fps)


def stage(latent: str, seed: int = 42, **changes: Any) -> Node:
    """A stage of the full model: 20 steps, guided."""
    return node("LTX2AVSampleStage", latent=latent, seed=seed, **{"cfg": 3.0, "preset": BY_HAND, **changes})


def fast_stage(latent: str, seed: int = 42, **changes: Any) -> Node:
    """A stage of a distilled model: 8 steps without guidance."""
    return stage(latent, seed, schedule="distilled 8", cfg=1.0, **changes)


def last_stage(latent: str, seed: int = 43, **changes: Any) -> Node:
    """A second stage: 3 steps without guidance."""
    return stage(latent, seed, schedule="second stage, by the model", cfg=1.0, **changes)


def lora(file: str = DISTILLED, model: str = "@models", strength: float | None = None) -> Node:
    """A LoRA; without a strength that is 1, or for a distilled one what the model takes."""
    # Stated, since the page takes an API file without it for one that could not leave it to the model.
    given: dict[str, Any] = {"distilled_strength": "by the model"}
    if strength is not None:
        given = {"strength": strength, "distilled_strength": "as above"}
    return node("LTX2AVLoadLora", model=model, lora=file, **given)


def next_stage(latent: str, text: str = "@text") -> Node:
    return node("LTX2AVNextStage", positive=text, negative=text, latent=latent)


def guide(image: str, latent: str, text: str = "@text", **changes: Any) -> Node:
    return node("LTX2AVAddGuide", positive=text, negative=text, latent=latent, image=image, **changes)


def crop(latent: str, text: str) -> Node:
    return node("LTX2AVCropGuides", positive=text, negative=text, latent=latent)


def source(file: str) -> dict[str, Node]:
    """A video file and its frames, audio and frame rate."""
    return {"file": node("LoadVideo", file=file), "clip": node("GetVideoComponents", video="@file")}


def editing(kind: str, **changes: Any) -> Node:
    """A node that prepares the clip of `source` to be edited."""
    return node(kind, images="@clip", fps="@clip", **changes)


def saved(name: str, latent: str, **changes: Any) -> dict[str, Node]:
    """Decoding, and the file."""
    decoded = node("LTX2AVDecodeToVideo", latent=latent, **{"fps": FPS, **changes})
    return {"video": decoded, "save": save(name)}


def finished(name: str, latent: str) -> dict[str, Node]:
    """The end of an edit, and the file."""
    return {"video": node("LTX2AVFinishEdit", latent=latent), "save": save(name)}


def save(name: str) -> Node:
    return node("SaveVideo", video="@video.video", filename_prefix=f"video/{name}")
