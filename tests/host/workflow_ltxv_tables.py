"""Workflows of LTX-Video, with the files and settings of its distilled 2B; each is a table of columns."""

from __future__ import annotations

from typing import Any

from workflow_files import LTXV2B, T5, UPSCALER_LTXV
from workflow_format import Node, Workflow, node
from workflow_parts import BY_HAND, crop, guide, save, source

FPS = 30.0
PROMPT = (
    "A woman in a yellow raincoat walks along a pier at dusk. She stops, turns to the camera and smiles. "
    "Waves break against the wood. Tracking shot, soft light."
)
OTHER = "The same pier in a snowstorm, thick flakes fall, the wood is white. Tracking shot, cold light."


def models(upscaler: bool = False) -> Node:
    return node(
        "LTX2AVLoadAll",
        ckpt_name=LTXV2B.name,
        text_encoder=T5.name,
        upscaler=UPSCALER_LTXV.name if upscaler else "none",
    )


def plan(stages: int = 1, **more: Any) -> Node:
    width, height = (1280, 704) if stages == 2 else (768, 512)
    size = {"width": width, "height": height, "length_unit": "seconds", "length": 4.0}
    return node("LTX2AVClipPlan", **size, fps=FPS, stages=str(stages), with_audio=False, **more)


def text(prompt: str = PROMPT, fps: Any = FPS) -> Node:
    return node("LTX2AVPrompt", positive=prompt, fps=fps)


def stage(latent: str, sigmas: str = "@sigmas", seed: int = 42, conditioning: str = "@text") -> Node:
    return node(
        "LTX2AVSampleStage",
        positive=conditioning,
        negative=conditioning,
        latent=latent,
        seed=seed,
        cfg=1.0,
        sigmas=sigmas,
        preset=BY_HAND,
    )


def listed(schedule: str) -> Node:
    """The noise levels that distilled LTX-Video was published with."""
    return node("LTX2AVDistilledSigmas", schedule=schedule)


def saved(name: str, latent: str, fps: Any = FPS) -> dict[str, Node]:
    return {"video": node("LTX2AVDecodeToVideo", latent=latent, fps=fps), "save": save(name)}


LTXV = {
    "ltxv_text_to_video": Workflow(
        {
            "Models and size": {"models": models(), "plan": plan()},
            "Prompt": {"text": text()},
            "One stage: 8 steps": {"sigmas": listed("ltxv_distilled"), "first": stage("@plan.latent")},
            "Result": saved("ltxv_text_to_video", "@first"),
        }
    ),
    "ltxv_image_to_video": Workflow(
        {
            "Models": {"models": models()},
            "First image, prompt and length": {
                "image": node("LoadImage", image="first.png"),
                "text": text(),
                "plan": plan(image="@image", megapixels=0.4),
            },
            "One stage: 8 steps": {
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan.latent"),
                "sigmas": listed("ltxv_distilled"),
                "first": stage("@begun"),
            },
            "Result": saved("ltxv_image_to_video", "@first"),
        }
    ),
    "ltxv_two_stages": Workflow(
        {
            "Models and size": {"models": models(True), "plan": plan(2)},
            "Prompt": {"text": text()},
            "First pass: half size, 7 steps": {
                "sigmas": listed("ltxv_distilled_first"),
                "first": stage("@plan.latent"),
            },
            "Second pass: full size, 3 steps": {
                "larger": node("LTX2AVLatentUpscale", latent="@first"),
                "levels": listed("ltxv_distilled_stage2"),
                "second": stage("@larger", "@levels", 43),
            },
            "Result": saved("ltxv_two_stages", "@second"),
        }
    ),
    "ltxv_keyframes": Workflow(
        {
            "Models": {"models": models()},
            "Images, prompt and length": {
                "begin": node("LoadImage", image="first.png"),
                "end": node("LoadImage", image="last.png"),
                "text": text(),
                "plan": plan(image="@begin", megapixels=0.4),
            },
            "The first and the last frame": {
                "begun": node("LTX2AVImgToVideoInplace", image="@begin", latent="@plan.latent"),
                "guide": guide("@end", "@begun", frame=-1),
            },
            "One stage: 8 steps": {
                "sigmas": listed("ltxv_distilled"),
                "first": stage("@guide.latent", conditioning="@guide"),
                "cropped": crop("@first", "@guide"),
            },
            "Result": saved("ltxv_keyframes", "@cropped.latent"),
        }
    ),
    "ltxv_segment_edit": Workflow(
        {
            "Clip, and models": {**source("clip.mp4"), "models": models()},
            "Encoded, with the seconds to regenerate": {
                "encoded": node("VAEEncode", pixels="@clip.images"),
                "edit": node(
                    "LTX2AVTimeMask",
                    latent="@encoded",
                    video_regions="0.6-1.3",
                    audio_regions="",
                    fps="@clip",
                ),
            },
            "Prompt of the whole clip": {"text": text(fps="@clip")},
            "One stage: 8 steps": {"sigmas": listed("ltxv_distilled"), "first": stage("@edit.latent")},
            "Result": saved("ltxv_segment_edit", "@first", fps="@clip"),
        }
    ),
    "ltxv_video_to_video": Workflow(
        {
            "Clip, and models": {**source("clip.mp4"), "models": models()},
            "Encoded": {"encoded": node("VAEEncode", pixels="@clip.images")},
            "Prompt of the new clip": {"text": text(OTHER, fps="@clip")},
            "From 0.909 of the noise on: 3 steps": {
                "sigmas": listed("ltxv_distilled_stage2"),
                "first": stage("@encoded"),
            },
            "Result": saved("ltxv_video_to_video", "@first", fps="@clip"),
        }
    ),
}
