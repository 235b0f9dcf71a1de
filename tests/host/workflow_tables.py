"""The workflows that make a clip from text, images and audio; each is a table of columns."""

from __future__ import annotations

from workflow_format import Workflow, node
from workflow_parts import (
    DISTILLED,
    crop,
    fast_stage,
    guide,
    last_stage,
    lora,
    models,
    next_stage,
    plan,
    prompt,
    saved,
    stage,
)

REAL_TWO, REAL_ONE = "real models: 1280 x 704", "real models: 1024 x 576"
BOUNCE = "a red circle bounces on a blue background, a knock at each bounce"
PULSE = "a magenta triangle pulses on a black background, a tone follows its size"
LEFT = "a green square slides left on a white background, a tone falls as it goes"
SLIDE = "a yellow square slides right on a blue background, a tone rises as it goes"
TO_SOUND = "a cyan triangle bounces on a black background, a knock at each bounce"

WORKFLOWS = {
    "text_to_video_two_stages": Workflow(
        {
            f"Models and size ({REAL_TWO})": {"models": models(True), "plan": plan(2)},
            "Prompt": {"text": prompt(BOUNCE)},
            "First stage: half size, 20 steps": {"first": stage("@plan")},
            "Second stage: full size, 3 steps": {
                "larger": node("LTX2AVLatentUpscale", latent="@first"),
                "distilled": lora(),
                "second": last_stage("@larger", model="@distilled"),
            },
            "Result": saved("text_to_video_two_stages", "@second"),
        }
    ),
    "text_to_video_distilled": Workflow(
        {
            f"Models and size ({REAL_TWO})": {
                "models": models(True),
                "plan": plan(2),
                "distilled": lora(),
            },
            "Prompt": {"text": prompt(LEFT)},
            "First stage: half size, 8 steps": {"first": fast_stage("@plan", model="@distilled")},
            "Second stage: full size, 3 steps": {
                "larger": node("LTX2AVLatentUpscale", latent="@first"),
                "second": last_stage("@larger", model="@distilled"),
            },
            "Result": saved("text_to_video_distilled", "@second"),
        }
    ),
    "text_to_video_guided": Workflow(
        {
            f"Models and size ({REAL_ONE})": {"models": models(), "plan": plan()},
            "Prompt": {"text": prompt(PULSE)},
            "One stage, guided by stream": {"first": stage("@plan", preset="quality res_2s 15")},
            "Result": saved("text_to_video_guided", "@first"),
        }
    ),
    "camera_lora": Workflow(
        {
            f"Models and size ({REAL_TWO})": {"models": models(True), "plan": plan(2)},
            "Prompt, and the LoRA of both stages": {
                "text": prompt(BOUNCE),
                "camera": lora(DISTILLED, strength=0.25),
            },
            "First stage": {"first": stage("@plan", model="@camera")},
            "Second stage": {
                "larger": node("LTX2AVLatentUpscale", latent="@first"),
                "distilled": lora(model="@camera"),
                "second": last_stage("@larger", model="@distilled"),
            },
            "Result": saved("camera_lora", "@second"),
        }
    ),
    "image_to_video_two_stages": Workflow(
        {
            f"Models and length ({REAL_TWO})": {"models": models(True), "plan": plan(2, image="@image")},
            "First image and prompt": {"image": node("LoadImage", image="first.png"), "text": prompt(SLIDE)},
            "First stage: half size, 20 steps": {
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan"),
                "first": stage("@begun"),
            },
            "Second stage: full size, image again": {
                "larger": node("LTX2AVLatentUpscale", latent="@first"),
                "again": node("LTX2AVImgToVideoInplace", image="@image", latent="@larger"),
                "distilled": lora(),
                "second": last_stage("@again", model="@distilled"),
            },
            "Result": saved("image_to_video_two_stages", "@second"),
        }
    ),
    "image_to_video_distilled": Workflow(
        {
            f"Models and length ({REAL_TWO})": {
                "models": models(True),
                "plan": plan(2, image="@image"),
                "distilled": lora(),
            },
            "First image and prompt": {"image": node("LoadImage", image="first.png"), "text": prompt(SLIDE)},
            "First stage: half size, 8 steps": {
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan"),
                "first": fast_stage("@begun", model="@distilled"),
            },
            "Second stage: the image is put back in": {
                "next": next_stage("@first"),
                "second": last_stage("@next", positive="@next", negative="@next", model="@distilled"),
            },
            "Result": saved("image_to_video_distilled", "@second"),
        }
    ),
    "audio_to_video": Workflow(
        {
            f"Models and size ({REAL_TWO})": {"models": models(True), "plan": plan(2)},
            "Audio and prompt": {"sound": node("LoadAudio", audio="knocks.wav"), "text": prompt(TO_SOUND)},
            "First stage: half size, the audio is preserved": {
                "given": node("LTX2AVSetAudio", audio="@sound", latent="@plan"),
                "first": stage("@given.latent"),
            },
            "Second stage: full size, 3 steps": {
                "larger": node("LTX2AVLatentUpscale", latent="@first"),
                "distilled": lora(),
                "second": last_stage("@larger", model="@distilled"),
            },
            "Result, with the input audio": saved("audio_to_video", "@second", audio="@given"),
        }
    ),
    "audio_image_to_video": Workflow(
        {
            f"Distilled models ({REAL_ONE})": {"models": models(), "distilled": lora(), "plan": plan()},
            "First image, audio, prompt": {
                "image": node("LoadImage", image="first.png"),
                "sound": node("LoadAudio", audio="sound.wav"),
                "text": prompt(SLIDE),
            },
            "One stage: full size, 8 steps": {
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan"),
                "given": node("LTX2AVSetAudio", audio="@sound", latent="@begun"),
                "first": fast_stage("@given.latent", model="@distilled"),
            },
            "Result, with the input audio": saved("audio_image_to_video", "@first", audio="@given"),
        }
    ),
    "audio_image_two_stages": Workflow(
        {
            f"Distilled models ({REAL_TWO})": {
                "models": models(True),
                "distilled": lora(),
                "plan": plan(2, image="@image"),
            },
            "First image, audio, prompt": {
                "image": node("LoadImage", image="first.png"),
                "sound": node("LoadAudio", audio="sound.wav"),
                "text": prompt(SLIDE),
            },
            "First stage: half size, 8 steps": {
                "begun": node("LTX2AVImgToVideoInplace", image="@image", latent="@plan"),
                "given": node("LTX2AVSetAudio", audio="@sound", latent="@begun"),
                "first": fast_stage("@given.latent", model="@distilled"),
            },
            "Second stage: image and audio are preserved": {
                "next": next_stage("@first"),
                "second": last_stage("@next", positive="@next", negative="@next", model="@distilled"),
            },
            "Result, with the input audio": saved("audio_image_two_stages", "@second", audio="@given"),
        }
    ),
    "first_last_frame": Workflow(
        {
            f"Models and size ({REAL_ONE})": {"models": models(), "plan": plan()},
            "Both ends and the prompt": {
                "start": node("LoadImage", image="first.png"),
                "end": node("LoadImage", image="last.png"),
                "text": prompt(SLIDE),
            },
            "The first and the last frame": {
                "guide": guide("@start", "@plan", frame=0),
                "guides": guide("@end", "@guide", "@guide", frame=-1),
            },
            "One stage, guides off again": {
                "first": stage("@guides.latent", positive="@guides", negative="@guides"),
                "cropped": crop("@first", "@guides"),
            },
            "Result": saved("first_last_frame", "@cropped.latent"),
        }
    ),
    "keyframes_two_stages": Workflow(
        {
            f"Models and size ({REAL_TWO})": {"models": models(True), "plan": plan(2)},
            "Images and prompt": {
                "begin": node("LoadImage", image="first.png"),
                "between": node("LoadImage", image="middle.png"),
                "text": prompt(SLIDE),
            },
            "The first frame, and a keyframe at 24": {
                "begun": node("LTX2AVImgToVideoInplace", image="@begin", latent="@plan"),
                "guide": guide("@between", "@begun", frame=24),
            },
            "First stage": {"first": stage("@guide.latent", positive="@guide", negative="@guide")},
            "Second stage: both are put back in": {
                "next": next_stage("@first", "@guide"),
                "distilled": lora(),
                "second": last_stage("@next.latent", model="@distilled", positive="@next", negative="@next"),
                "cropped": crop("@second", "@next"),
            },
            "Result": saved("keyframes_two_stages", "@cropped.latent"),
        }
    ),
    "reference_audio": Workflow(
        {
            f"Models and size ({REAL_ONE})": {"models": models(), "plan": plan()},
            "Voice to imitate, and the prompt": {
                "voice": node("LoadAudio", audio="sound.wav"),
                "text": prompt(BOUNCE),
            },
            "The voice next to the audio": {"reference": node("LTX2AVReferenceAudio", audio="@voice")},
            "One stage": {
                "first": stage("@plan", model="@reference", positive="@reference", negative="@reference")
            },
            "Result": saved("reference_audio", "@first"),
        }
    ),
}
