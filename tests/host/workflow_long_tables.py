"""The workflows made of windows, of audio alone, or of training; each is a table of columns."""

from __future__ import annotations

from workflow_format import Workflow, node
from workflow_parts import BY_HAND, DISTILLED, lora, models, plan, prompt, save, saved, source, stage

PARTS = (
    "0-2.4: a red circle bounces on a blue background, a knock at each bounce\n"
    "2.4-5: a green circle bounces on a white background, a knock at each bounce"
)
BOUNCE = "a red circle bounces on a blue background, a knock at each bounce"

LONG = {
    "long_video": Workflow(
        {
            "Models and length (real models: a minute)": {
                "models": models(),
                "distilled": lora(),
                "plan": plan(seconds=4.84),
            },
            "A prompt for each part": {
                "long": node(
                    "LTX2AVLongVideo",
                    model="@distilled",
                    prompts=PARTS,
                    seed=42,
                    schedule="distilled 8",
                    cfg=1.0,
                    preset=BY_HAND,
                    window_frames=49,
                    overlap_frames=16,
                    folder="long_video",
                )
            },
            "Result": {"video": node("LTX2AVDecodeLongVideo", windows="@long"), "save": save("long_video")},
        }
    ),
    "detailer": Workflow(
        {
            "Small clip": source("small.mp4"),
            "Models, LoRA and final size": {
                "models": models(),
                "detailer": lora(DISTILLED),
                "plan": plan(fps="@clip"),
            },
            "Noised to 0.909 and drawn again, window by window": {
                "long": node(
                    "LTX2AVLongVideo",
                    model="@detailer",
                    prompts=BOUNCE,
                    audio="@clip",
                    source="@clip.images",
                    seed=42,
                    schedule="distilled 3 (second stage)",
                    cfg=1.0,
                    preset=BY_HAND,
                    window_frames=33,
                    overlap_frames=16,
                    folder="detailer",
                )
            },
            "Result, with the clip's audio": {
                "video": node("LTX2AVDecodeLongVideo", windows="@long"),
                "save": save("detailer"),
            },
        }
    ),
    "text_to_audio": Workflow(
        {
            "Models": {"models": models(), "text": prompt("a knock at each bounce")},
            "Audio alone, no video": {
                "alone": node("LTX2AVTextToAudio", seconds=1.96),
                "first": stage("@alone", model="@alone"),
            },
            "Result": {
                "sound": node("LTX2AVDecodeAudio", latent="@first", seconds="@alone"),
                "save": node("SaveAudio", audio="@sound", filename_prefix="audio/text_to_audio"),
            },
        }
    ),
    "train_lora": Workflow(
        {
            "Models": {"models": models(), "plan": plan()},
            "Training": {
                "train": node(
                    "LTX2AVTrainLora",
                    model="@models",
                    ckpt_name="ltx2-tiny-2.3.safetensors",
                    text_encoder="gemma-tiny/model.safetensors",
                    dataset="zorb_clips.csv",
                    name="zorb",
                    trigger="zorb",
                    buckets="128x128x17",
                    preset="24 GB",
                    steps=100,
                    learning_rate=3e-3,
                    seed=42,
                    preview_prompt="zorb",
                    preview_every=50,
                    settings="rank = 16",
                )
            },
            "Prompt with the trigger word": {"text": prompt("zorb")},
            "One stage with the LoRA": {"first": stage("@plan", model="@train")},
            "Result": saved("train_lora", "@first"),
        }
    ),
}
