"""The workflows that begin with a clip: editing it, or following it; each is a table of columns."""

from __future__ import annotations

from workflow_format import Workflow, node
from workflow_parts import (
    EDGES,
    control_plan,
    crop,
    editing,
    fast_stage,
    finished,
    guide,
    last_stage,
    lora,
    models,
    next_stage,
    plan,
    prompt,
    saved,
    source,
    stage,
)

REAL = "real models: 1024 x 576"
BOUNCE = "a red circle bounces on a blue background, a knock at each bounce"
OTHER = "a green circle bounces on a white background, a knock at each bounce"
CONTROL = "a white triangle bounces on a red background, a knock at each bounce"
REDRAWN = "a yellow triangle bounces on a blue background, a knock at each bounce"
GUIDED = {"positive": "@guide", "negative": "@guide"}
DUBBED = {"positive": "@edit", "negative": "@edit"}
NEXT = {"positive": "@next", "negative": "@next"}

EDITING = {
    "extend_video": Workflow(
        {
            "Clip to extend": source("clip.mp4"),
            f"Models ({REAL})": {
                "models": models(),
                "edit": editing(
                    "LTX2AVExtend",
                    audio="@clip",
                    length_unit="seconds",
                    length=1.28,
                    keep_frames=17,
                    stages="1",
                ),
            },
            "Prompt of the whole clip": {"text": prompt(BOUNCE)},
            "What comes next, video and audio": {"first": stage("@edit")},
            "Joined to the clip": finished("extend_video", "@first"),
        }
    ),
    "retake_two_stages": Workflow(
        {
            "Clip to work on": source("clip.mp4"),
            "Models, and what to regenerate": {
                "models": models(True),
                "edit": editing(
                    "LTX2AVRetake", audio="@clip", video_regions="1-1.9", audio_regions="1.4-1.7", stages="2"
                ),
            },
            "Prompt": {"text": prompt(OTHER)},
            "First stage: half size": {"first": stage("@edit")},
            "Second stage: the clip again, at full size": {
                "next": next_stage("@first"),
                "distilled": lora(),
                "second": last_stage("@next.latent", model="@distilled"),
            },
            "Joined to the clip": finished("retake_two_stages", "@second"),
        }
    ),
    "mask_past_the_end": Workflow(
        {
            "Clip, and models": {**source("clip.mp4"), "models": models()},
            "Encoded": {
                "picture": node("VAEEncode", pixels="@clip.images"),
                "sound": node("LTXVAudioVAEEncode", audio="@clip"),
                "joined": node("LTX2AVConcatLatent", video_latent="@picture", audio_latent="@sound"),
            },
            "Regenerated from 1.4 s on, and longer": {
                "edit": node(
                    "LTX2AVTimeMask",
                    latent="@joined",
                    video_regions="1.4-2.6",
                    audio_regions="1.4-2.6",
                    fps="@clip",
                    length="extend",
                ),
                "text": prompt(BOUNCE, fps="@clip"),
            },
            "One stage": {"first": stage("@edit")},
            "Result": saved("mask_past_the_end", "@first", fps="@clip"),
        }
    ),
    "video_to_audio": Workflow(
        {
            "Clip to make audio for": source("clip.mp4"),
            "Models": {
                "models": models(),
                "edit": editing("LTX2AVSound", ceiling=-3.0),
            },
            "Prompt": {"text": prompt(BOUNCE)},
            "Audio only; the video is preserved": {"first": stage("@edit")},
            "The clip with its audio": finished("video_to_audio", "@first"),
        }
    ),
    "dub_video": Workflow(
        {
            "Clip to dub": source("clip.mp4"),
            "Models, and both LoRAs": {
                "models": models(True),
                "distilled": lora(),
                "dubit": lora(EDGES, model="@distilled"),
            },
            "What is said": {
                "text": prompt(BOUNCE, fps="@clip"),
                "edit": editing("LTX2AVDub", audio="@clip", iclora_parameters="@dubit"),
            },
            "First stage: half size, new speech": {
                "first": fast_stage("@edit.latent", model="@dubit", sampler="euler", **DUBBED),
            },
            "Second stage: the speech is preserved": {
                "next": next_stage("@first", "@edit"),
                "second": last_stage("@next.latent", model="@dubit", sampler="euler", **NEXT),
                "cropped": crop("@second", "@next"),
            },
            "The dubbed clip": finished("dub_video", "@cropped.latent"),
        }
    ),
    "hdr_from_video": Workflow(
        {
            "SDR clip": source("clip.mp4"),
            f"Models and size ({REAL})": {
                "models": models(),
                "plan": plan(seconds=1.96, fps="@clip"),
                "video": node("LTX2AVSeparateLatent", latent="@plan"),
            },
            "Prompt and LoRAs": {
                "text": prompt(BOUNCE, fps="@clip"),
                "distilled": lora(),
                "hdr": lora(EDGES, model="@distilled"),
            },
            "The clip next to the new one": {
                "guide": guide("@clip.images", "@video", iclora_parameters="@hdr"),
            },
            "Video alone, guide off again": {
                "first": fast_stage("@guide.latent", model="@hdr", **GUIDED),
                "cropped": crop("@first", "@guide"),
            },
            "Light, saved as EXR and as HLG master": {
                "light": node(
                    "LTX2AVDecodeHDR",
                    latent="@cropped.latent",
                    curve="logc3",
                    colours="srgb-linear",
                    iclora_parameters="@hdr",
                ),
                "save": node(
                    "LTX2AVSaveHDR",
                    images="@light",
                    colours="srgb-linear",
                    audio="@clip",
                    fps="@clip",
                    filename_prefix="hdr/hdr_from_video",
                ),
            },
        }
    ),
    "video_to_video": Workflow(
        {
            "Clip, and models": {**source("clip.mp4"), "models": models()},
            "Encoded; the audio is preserved": {
                "picture": node("VAEEncode", pixels="@clip.images"),
                "silence": node("LTXVAudioVAEEncode", audio="@clip"),
                "joined": node("LTX2AVConcatLatent", video_latent="@picture", audio_latent="@silence"),
                "given": node("LTX2AVSetAudio", audio="@clip", latent="@joined"),
            },
            "Prompt of the new clip": {"text": prompt(OTHER, fps="@clip")},
            "From 0.909 of the noise on": {
                "first": stage("@given.latent", schedule="distilled 3 (second stage)")
            },
            "Result": saved("video_to_video", "@first", audio="@given", fps="@clip"),
        }
    ),
    "ic_lora_control": Workflow(
        {
            "Control video": source("edges.mp4"),
            f"Models and size ({REAL})": {"models": models(), "plan": control_plan()},
            "Prompt and IC-LoRA": {"text": prompt(CONTROL), "control": lora(EDGES)},
            "The control video next to the clip": {"guide": guide("@clip.images", "@plan")},
            "One stage, guide off again": {
                "first": stage("@guide.latent", model="@control", **GUIDED),
                "cropped": crop("@first", "@guide"),
            },
            "Result": saved("ic_lora_control", "@cropped.latent"),
        }
    ),
    "ic_lora_canny": Workflow(
        {
            "Video whose edges to follow": {
                **source("source.mp4"),
                "edges": node("LTX2AVCanny", image="@clip.images"),
            },
            f"Models and size ({REAL})": {"models": models(), "plan": control_plan()},
            "Prompt and IC-LoRA": {"text": prompt(REDRAWN), "control": lora(EDGES)},
            "The edges next to the clip": {"guide": guide("@edges", "@plan")},
            "One stage, guide off again": {
                "first": stage("@guide.latent", model="@control", **GUIDED),
                "cropped": crop("@first", "@guide"),
            },
            "Result": saved("ic_lora_canny", "@cropped.latent"),
        }
    ),
    "ic_lora_two_stages": Workflow(
        {
            "Control video": source("edges.mp4"),
            "Models and size (real models: 1280 x 704)": {
                "models": models(True),
                "plan": plan(2, seconds=1.0),
            },
            "Prompt and IC-LoRA": {"text": prompt(CONTROL), "control": lora(EDGES)},
            "First stage: half size, with the guide": {
                "guide": guide("@clip.images", "@plan"),
                "first": stage("@guide.latent", model="@control", **GUIDED),
            },
            "Second stage: no guide, no IC-LoRA": {
                "cropped": crop("@first", "@guide"),
                "larger": node("LTX2AVLatentUpscale", latent="@cropped"),
                "distilled": lora(),
                "second": last_stage("@larger", model="@distilled", positive="@cropped", negative="@cropped"),
            },
            "Result": saved("ic_lora_two_stages", "@second"),
        }
    ),
    "ic_lora_image": Workflow(
        {
            "Control video and first image": {
                **source("edges.mp4"),
                "image": node("LoadImage", image="control_first.png"),
            },
            f"Models and size ({REAL})": {"models": models(), "plan": control_plan()},
            "Prompt and IC-LoRA": {"text": prompt(CONTROL), "control": lora(EDGES)},
            "The image first, then the guide": {
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan"),
                "guide": guide("@clip.images", "@begun"),
            },
            "One stage, guide off again": {
                "first": stage("@guide.latent", model="@control", **GUIDED),
                "cropped": crop("@first", "@guide"),
            },
            "Result": saved("ic_lora_image", "@cropped.latent"),
        }
    ),
    "ic_lora_image_two_stages": Workflow(
        {
            "Control video and first image": {
                **source("edges.mp4"),
                "image": node("LoadImage", image="control_first.png"),
            },
            "Models and size (real models: 1280 x 704)": {
                "models": models(True),
                "plan": plan(2, seconds=1.0),
            },
            "Prompt and IC-LoRA": {"text": prompt(CONTROL), "control": lora(EDGES)},
            "First stage: the image, then the guide": {
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan"),
                "guide": guide("@clip.images", "@begun"),
                "first": stage("@guide.latent", model="@control", **GUIDED),
            },
            "Second stage: the image again, no guide": {
                "cropped": crop("@first", "@guide"),
                "larger": node("LTX2AVLatentUpscale", latent="@cropped"),
                "again": node("LTX2AVImgToVideoInplace", image="@image", latent="@larger"),
                "distilled": lora(),
                "second": last_stage("@again", model="@distilled", positive="@cropped", negative="@cropped"),
            },
            "Result": saved("ic_lora_image_two_stages", "@second"),
        }
    ),
    "ic_lora_union": Workflow(
        {
            "Control video": source("edges.mp4"),
            f"Models and size ({REAL})": {"models": models(), "plan": plan(seconds=1.0)},
            "Prompt and IC-LoRA": {"text": prompt(CONTROL), "control": lora(EDGES)},
            "The guide, at the size that the LoRA requires": {
                "guide": guide("@clip.images", "@plan", iclora_parameters="@control"),
            },
            "One stage, guide off again": {
                "first": stage("@guide.latent", model="@control", **GUIDED),
                "cropped": crop("@first", "@guide"),
            },
            "Result": saved("ic_lora_union", "@cropped.latent"),
        }
    ),
}
