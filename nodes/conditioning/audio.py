"""Sound without a video, and the voice of a reference."""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
import node_helpers
import torch
from comfy.model_management import intermediate_device
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.audio.mel import resample, to_stereo
from ...ltx2_core.conditioning.patchify import patchify_audio
from ...ltx2_core.shapes import AUDIO_BINS, AUDIO_CHANNELS, AUDIO_LATENTS_PER_SECOND, VIDEO_CHANNELS
from ...ltx2_core.types import AVLatent
from ..host.guider import without_reference
from ..host.latents import AUDIO_ONLY, concat_av, from_av
from .attached import marked_guides
from .images import CATEGORY

SIDE = 2
"""Rows and columns of the video latent of sound alone, which no one looks at."""


class LTX2AVTextToAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVTextToAudio",
            has_intermediate_output=True,
            display_name="LTX-2 Text To Audio",
            category="LTX-2/editing",
            description="Prepares sound without any video: the model leaves its video stream out, which is "
            "many times faster. Sample one stage and decode with LTX-2 Decode Audio.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with LoRAs if any."),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.04,
                    max=100000.0,
                    step=0.01,
                    tooltip="Exact length of the sound.",
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=64, tooltip="How many sounds to make at once."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For LTX-2 Sample Stage."),
                io.Latent.Output(display_name="latent", tooltip="For LTX-2 Sample Stage."),
                io.Float.Output(display_name="seconds", tooltip="For LTX-2 Decode Audio."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, seconds: float, batch_size: int) -> io.NodeOutput:
        return io.NodeOutput(audio_only(model), audio_only_latent(seconds, batch_size), seconds)


class LTX2AVReferenceAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVReferenceAudio",
            has_intermediate_output=True,
            display_name="LTX-2 Reference Audio",
            category=CATEGORY,
            description="Lets the model hear a voice, or another sound, that the new sound shall be like: "
            "the tokens of it stand before the clip and do not appear in it. For LoRAs trained so.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with the LoRA."),
                io.Conditioning.Input("positive", tooltip="From LTX-2 Prompt."),
                io.Conditioning.Input("negative", tooltip="Goes along with positive."),
                io.Vae.Input("audio_vae", tooltip="Audio VAE that encodes the reference."),
                io.Audio.Input("audio", tooltip="The reference."),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.01,
                    tooltip="Where in the sound the reference begins, in seconds.",
                ),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.0,
                    max=600.0,
                    step=0.01,
                    tooltip="How much of it to take; 5 is what such LoRAs are trained with, 0 takes all.",
                ),
                io.Float.Input(
                    "identity",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="How strongly to sound like it, at one more evaluation a step. 0 is off: then "
                    "LTX-2 Stream Guidance may do it with the other passes.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the schedule identity begins.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the schedule identity ends.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with identity."),
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative."),
                io.String.Output(display_name="report", tooltip="How long the reference is."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        audio_vae: Any,
        audio: Any,
        start: float,
        seconds: float,
        identity: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        tokens = patchify_audio(encoded_reference(audio_vae, audio, start, seconds))
        given = {"ref_audio": {"tokens": tokens}}
        patched = with_identity(model, identity, start_percent, end_percent) if identity else model
        length = tokens.shape[1] / AUDIO_LATENTS_PER_SECOND
        report = f"reference of {length:.2f} s, {tokens.shape[1]} audio latents"
        return io.NodeOutput(
            patched,
            *(node_helpers.conditioning_set_values(one, given) for one in (positive, negative)),
            report,
            ui=ui.PreviewText(report),
        )


def audio_only(model: Any) -> Any:
    """A clone of MODEL whose video stream does not run."""
    clone = model.clone()
    options = clone.model_options
    off = dict.fromkeys(("run_vx", "a2v_cross_attn", "v2a_cross_attn"), False)
    clone.model_options = {
        **options,
        "transformer_options": {**options.get("transformer_options", {}), **off},
    }
    return clone


def audio_only_latent(seconds: float, batch: int) -> dict[str, Any]:
    """The LATENT of sound alone; one latent more than the sound, whose end a vocoder cuts short."""
    device, length = intermediate_device(), math.ceil(seconds * AUDIO_LATENTS_PER_SECOND) + 1
    video = torch.zeros(batch, VIDEO_CHANNELS, 1, SIDE, SIDE, device=device)
    audio = torch.zeros(batch, AUDIO_CHANNELS, length, AUDIO_BINS, device=device)
    joined = concat_av(
        {"samples": video, "noise_mask": torch.zeros_like(video)},
        from_av(AVLatent(None, audio), {"type": "audio"}),
    )
    return marked_guides({**joined, AUDIO_ONLY: True}, 0)


def encoded_reference(audio_vae: Any, audio: dict[str, Any] | None, start_s: float, seconds: float) -> Tensor:
    """A part of an AUDIO as latents (B, 8, T, 16); 0 ``seconds`` is all of it.

    Raises ValueError if there is no sound from ``start_s`` on.
    """
    if audio is None:
        raise ValueError("there is no reference sound: the file that it comes from has no audio track")
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    first = round(start_s * rate)
    part = waveform[..., first : first + round(seconds * rate) if seconds else None]
    if not part.shape[-1]:
        raise ValueError(
            f"the reference lasts {waveform.shape[-1] / rate:.2f} s and nothing is left from {start_s:g} s "
            "on: choose an earlier start"
        )
    sound = resample(to_stereo(part), rate, audio_vae.audio_sample_rate)
    encoded: Tensor = audio_vae.encode(sound.movedim(1, -1))
    return encoded


def with_identity(model: Any, scale: float, start_percent: float, end_percent: float) -> Any:
    """A clone of MODEL that adds ``scale`` times what the reference changes, as the host's own node does."""
    sampling = model.get_model_object("model_sampling")
    first, last = sampling.percent_to_sigma(start_percent), sampling.percent_to_sigma(end_percent)

    def add_identity(args: dict[str, Any]) -> Tensor:
        result: Tensor = args["denoised"]
        if not last <= float(args["sigma"][0]) <= first:
            return result
        plain = [without_reference(entry) for entry in args["cond"]]
        (without,) = comfy.samplers.calc_cond_batch(
            args["model"], [plain], args["input"], args["sigma"], args["model_options"].copy()
        )
        return result + (args["cond_denoised"] - without) * scale

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(add_identity)
    return clone
