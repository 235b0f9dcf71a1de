"""The keywords of a request in one list: their types, and in which part of the request each is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypedDict

from torch import Tensor

from ..conditioning.inputs import AudioSource, Fit, ImageAt, SourceClip, VideoReference
from ..media.images import ImageSource
from ..sampling.caching import StepCache
from ..sampling.guidance import Guidance, GuidanceSchedule, Nag
from ..sampling.settings import ScheduleOf
from ..shapes import Snap
from ..text.prompt import Method, PromptEmbeds
from ..transformer.tiles import Tiles
from ..types import AVLatent


class RequestOptions(TypedDict, total=False):
    """The keywords of :class:`Request` except the prompt; a pipeline is called with the same keywords."""

    negative_prompt: str | None
    trigger: str | None
    prompts_at: str | None
    prompt_fade: float
    prompt_method: Method
    prompt_embeds: PromptEmbeds | None
    width: int | None
    height: int | None
    num_frames: int | None
    seconds: float | Literal["auto"] | None
    fps: float | None
    snap: Snap | str
    video: bool
    image: ImageSource | None
    image_strength: float | None
    stage2_image_strength: float | None
    image_crf: int | None
    images: Sequence[ImageAt]
    references: Sequence[VideoReference]
    fit: Fit
    background: str
    audio: AudioSource | None
    audio_start_s: float
    audio_noise_db: float | None
    audio_regions: Sequence[tuple[float, float]]
    reference_audio: AudioSource | None
    reference_s: float
    identity: float
    latents: AVLatent | Tensor | None
    noise: AVLatent | None
    source_clip: SourceClip | Mapping[str, Any] | None
    hdr: Literal["srgb-linear", "acescg", "acescct"] | None
    steps: int | None
    sigmas: Sequence[float] | None
    schedule: ScheduleOf | None
    denoise: float
    sampler: str | None
    eta: float | None
    distilled: bool
    cfg: float | None
    audio_cfg: float | None
    guidance: Guidance | GuidanceSchedule | None
    nag: Nag | None
    cache: StepCache | None
    tiles: Tiles | None
    generated_keyframes: Sequence[int] | int | None
    seed: int | None
    noise_device: str
    stages: Literal[1, 2]
    stage2_sigmas: Sequence[float] | None
    stage2_sampler: str | None
    stage2_tiles: int
    audio_stage: Literal[1, 2] | None
    pipeline_kind: Literal["dfr"] | None
    temporal_rounds: int


class RequestFields(RequestOptions, total=False):
    """All keywords of :class:`Request`, with the prompt."""

    prompt: str


FIELDS: dict[str, str] = {
    "prompt": "text.prompt",
    "negative_prompt": "text.negative",
    "trigger": "text.trigger",
    "prompts_at": "text.at",
    "prompt_fade": "text.fade_s",
    "prompt_method": "text.method",
    "prompt_embeds": "text.embeds",
    **{name: f"size.{name}" for name in ("width", "height", "num_frames", "seconds", "fps", "snap", "video")},
    "image": "inputs.image.source",
    "image_strength": "inputs.image.strength",
    "stage2_image_strength": "inputs.image.stage2_strength",
    "image_crf": "inputs.image.crf",
    "images": "inputs.images",
    "references": "inputs.references",
    "fit": "inputs.fit",
    "background": "inputs.background",
    "audio": "inputs.audio.source",
    "audio_start_s": "inputs.audio.start_s",
    "audio_noise_db": "inputs.audio.noise_db",
    "audio_regions": "inputs.audio.regions",
    "reference_audio": "inputs.reference_audio.source",
    "reference_s": "inputs.reference_audio.seconds",
    "identity": "inputs.reference_audio.identity",
    "latents": "inputs.latents",
    "noise": "inputs.noise",
    "source_clip": "inputs.source_clip",
    "hdr": "inputs.hdr",
    **{
        name: f"sampling.{name}"
        for name in (
            *("steps", "sigmas", "schedule", "denoise", "sampler", "eta", "distilled", "cfg", "audio_cfg"),
            *("guidance", "nag", "cache", "tiles", "generated_keyframes", "seed", "noise_device"),
        )
    },
    "stages": "staging.count",
    "stage2_sigmas": "staging.sigmas",
    "stage2_sampler": "staging.sampler",
    "stage2_tiles": "staging.tiles",
    "audio_stage": "staging.audio_stage",
    "pipeline_kind": "staging.pipeline",
    "temporal_rounds": "staging.temporal_rounds",
}
"""Keyword -> the path of its value in a :class:`Request`, such as "inputs.image.crf"."""

OTHER_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg",
    "audio_guidance_scale": "audio_cfg",
    "generator": "seed",
    "frame_rate": "fps",
    "frames": "num_frames",
    "strength": "image_strength",
    "conditions": "images",
    "keyframes": "images",
    "negative": "negative_prompt",
    "scheduler": "sampler",
    "timesteps": "sigmas",
    "prompt_embeddings": "prompt_embeds",
    "keyframe": "images",
    "control_video": "references",
    "num_videos_per_prompt": "seed, with one call for each clip",
    "num_images_per_prompt": "seed, with one call for each clip",
    "callback": "on_step",
    "callback_on_step_end": "on_step",
    "callback_on_step_end_tensor_inputs": "on_step",
    "output_type": "a method of the result: array(), frames(), audio() or save()",
    "return_dict": "a method of the result: array(), frames(), audio() or save()",
    "prompt_attention_mask": "prompt",
    "negative_prompt_embeds": "prompt_embeds, of encode_prompt(prompt, negative_prompt)",
    "negative_prompt_attention_mask": "negative_prompt",
    "guidance_rescale": "guidance, with StreamGuidance(rescale=...)",
    "audio_guidance_rescale": "guidance, with StreamGuidance(rescale=...)",
    "stg_scale": "guidance, with StreamGuidance(stg=...)",
    "modality_scale": "guidance, with StreamGuidance(modality=...)",
    "spatio_temporal_guidance_blocks": "guidance, with Guidance(stg_blocks=...)",
    "noise_scale": "denoise",
    "audio_latents": "latents, an AVLatent of video and audio",
    "attention_kwargs": "loras of the pipeline",
    "max_sequence_length": "fixed to 1024 tokens",
    "decode_timestep": "part of the checkpoint",
    "decode_noise_scale": "part of the checkpoint",
    "length": "num_frames",
    "duration": "seconds",
    "image_cond_strength": "image_strength",
}
"""Name in diffusers or other libraries -> the keyword of a request, or words that say what to use."""


def check_names(options: Mapping[str, Any]) -> None:
    """Raise TypeError for names that a request does not have; the message suggests a similar name."""
    for name in options:
        if name in FIELDS:
            continue
        if name in OTHER_NAMES:
            raise TypeError(f"{name!r} is not an option of a request: here it is {OTHER_NAMES[name]}")
        near = get_close_matches(name, FIELDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(sorted(FIELDS))}"
        raise TypeError(f"{name!r} is not an option of a request: {hint}")
