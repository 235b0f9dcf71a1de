"""The main workflows with the files and settings of released generations; each is a table of columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workflow_files import (
    AUDIO_VAE25,
    DEV23,
    DISTILLED23,
    DISTILLED25,
    GEMMA3,
    GEMMA4,
    TEMPORAL23,
    UPSCALER23,
    UPSCALER25,
    VIDEO_VAE25,
    File,
)
from workflow_format import Node, Workflow, node
from workflow_ltxv_tables import LTXV
from workflow_parts import BY_HAND, crop, guide, lora, next_stage, save

PROMPT = (
    "A woman in a yellow raincoat walks along a pier at dusk. She stops, turns to the camera and smiles. "
    "Waves break against the wood, gulls call, the wind is heard in the microphone."
)


@dataclass(frozen=True)
class Release:
    """What differs between generations: files and frame rate; sampler and strengths follow the model."""

    checkpoint: File
    text_encoder: File
    upscaler: File
    fps: float
    lora: File | None = None
    parts: dict[str, str] = field(default_factory=dict)

    def models(self) -> dict[str, Node]:
        loaded = node(
            "LTX2AVLoadAll",
            ckpt_name=self.checkpoint.name,
            text_encoder=self.text_encoder.name,
            upscaler=self.upscaler.name,
            **self.parts,
        )
        nodes = {"models": loaded}
        if self.lora is not None:
            nodes["distilled"] = lora(self.lora.name)
        return nodes

    def stage(self, latent: str, seed: int, text: str = "@text", *, schedule: str = "distilled 8") -> Node:
        return node(
            "LTX2AVSampleStage",
            model="@models" if self.lora is None else "@distilled",
            positive=text,
            negative=text,
            latent=latent,
            seed=seed,
            schedule=schedule,
            cfg=1.0,
            preset=BY_HAND,
        )

    def second(self, latent: str, text: str = "@text") -> Node:
        return self.stage(latent, 43, text, schedule="second stage, by the model")


LTX23 = Release(DEV23, GEMMA3, UPSCALER23, 25.0, DISTILLED23)
LTX25 = Release(
    DISTILLED25,
    GEMMA4,
    UPSCALER25,
    24.0,
    parts={"video_vae": VIDEO_VAE25.name, "audio_vae": AUDIO_VAE25.name, "text_parts": GEMMA4.name},
)


def text_to_video(name: str, release: Release) -> Workflow:
    return Workflow(
        {
            "Models and size": {**release.models(), "plan": plan(release)},
            "Prompt": {"text": node("LTX2AVPrompt", positive=PROMPT, fps=release.fps)},
            "First stage: half size, 8 steps": {"first": release.stage("@plan", 42)},
            "Second stage: full size, 3 steps": {
                "larger": node("LTX2AVLatentUpscale", latent="@first"),
                "second": release.second("@larger"),
            },
            "Result": saved(name, release),
        }
    )


def image_to_video(name: str, release: Release) -> Workflow:
    return Workflow(
        {
            "Models": release.models(),
            "First image, prompt and length": {
                "image": node("LoadImage", image="first.png"),
                "text": node("LTX2AVPrompt", positive=PROMPT, fps=release.fps),
                "plan": plan(release, image="@image"),
            },
            "First stage: half size, 8 steps": {
                # -1 is the strength of each stage in the published graphs, with which the clip moves more.
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan", strength=-1.0),
                "first": release.stage("@begun", 42),
            },
            "Second stage: full size, image again": {
                "next": node("LTX2AVNextStage", latent="@first"),
                "second": release.second("@next.latent", "@next"),
            },
            "Result": saved(name, release),
        }
    )


def first_last_frame(name: str, release: Release) -> Workflow:
    return Workflow(
        {
            "Models": release.models(),
            "Both ends, prompt and length": {
                "start": node("LoadImage", image="first.png"),
                "end": node("LoadImage", image="last.png"),
                "text": node("LTX2AVPrompt", positive=PROMPT, fps=release.fps),
                "plan": plan(release, image="@start"),
            },
            "The first and the last frame": {
                "begun": node("LTX2AVImgToVideoInplace", image="@start", latent="@plan"),
                "guide": guide("@end", "@begun", frame=-1),
            },
            "First stage: half size, 8 steps": {"first": release.stage("@guide.latent", 42, "@guide")},
            "Second stage: full size, both ends again": {
                "next": next_stage("@first", "@guide"),
                "second": release.second("@next.latent", "@next"),
                "cropped": crop("@second", "@next"),
            },
            "Result": saved(name, release, "@cropped.latent"),
        }
    )


def dfr(name: str, release: Release) -> Workflow:
    return Workflow(
        {
            "Models": {
                **release.models(),
                "temporal": node("LTX2AVLoadUpscaler", upscaler=TEMPORAL23.name),
            },
            "Prompt and size": {
                "text": node("LTX2AVPrompt", positive=PROMPT, fps=release.fps),
                "plan": plan(release),
            },
            "Two stages, then twice the frame rate": {
                "sampled": node(
                    "LTX2AVSampleDFR",
                    positive="@text",
                    plan="@plan",
                    upscale_model="@models",
                    temporal_upscale_model="@temporal",
                    seed=42,
                    temporal_rounds=1,
                ),
            },
            "Result": {
                "video": node("LTX2AVDecodeToVideo", latent="@sampled", plan="@sampled", fps="@sampled"),
                "save": save(name),
            },
        }
    )


def plan(release: Release, **more: Any) -> Node:
    return node(
        "LTX2AVClipPlan",
        width=1280,
        height=704,
        length_unit="seconds",
        length=5.0,
        fps=release.fps,
        stages="2",
        **more,
    )


def saved(name: str, release: Release, latent: str = "@second") -> dict[str, Node]:
    video = node("LTX2AVDecodeToVideo", latent=latent, fps=release.fps)
    return {"video": video, "save": save(name)}


RELEASED = {
    "ltx23_text_to_video": text_to_video("ltx23_text_to_video", LTX23),
    "ltx23_image_to_video": image_to_video("ltx23_image_to_video", LTX23),
    "ltx25_text_to_video": text_to_video("ltx25_text_to_video", LTX25),
    "ltx25_image_to_video": image_to_video("ltx25_image_to_video", LTX25),
    "ltx25_first_last_frame": first_last_frame("ltx25_first_last_frame", LTX25),
    "ltx25_dfr": dfr("ltx25_dfr", LTX25),
    **LTXV,
}
