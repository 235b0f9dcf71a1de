"""Nodes for audio without video, and for a reference audio whose voice the clip imitates."""

from __future__ import annotations

import math

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
from ..host.audio_vae import audio_rate_of, encode_audio
from ..host.guider import without_reference
from ..host.latents import AUDIO_ONLY, Latent, concat_av, from_av
from ..host.values import Audio, Conditioning, Model, Options, ReferenceAudio, Vae
from ..inputs import (
    MAX_SECONDS,
    batch_input,
    identity_input,
    model_input,
    percent_inputs,
    positive_input,
    start_input,
)
from ..numbers import real_input
from ..quantity import quantity
from .attached import marked_guides
from .images import CATEGORY

SIDE = 2
"""Rows and columns of the unused video latent that goes with audio alone."""


class LTX2AVTextToAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVTextToAudio",
            has_intermediate_output=True,
            display_name="LTX-2 Text To Audio",
            search_aliases=[
                "text to audio",
                "t2a",
                "music",
                "sound",
                "audio only",
                "tts",
                "text to speech",
                "voice over",
                "voiceover",
            ],
            category="LTX-2/editing",
            description="Prepares the generation of audio without video: the model skips its video stream, "
            "which is many times faster. Sample one stage and decode with LTX-2 Decode Audio.",
            inputs=[
                model_input(),
                real_input(
                    "seconds",
                    default=5.0,
                    low=0.04,
                    high=MAX_SECONDS,
                    step=0.01,
                    tooltip="Exact length of the audio. Longer audio needs more memory and time.",
                ),
                batch_input("audio clips"),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For LTX-2 Sample Stage."),
                io.Latent.Output(display_name="latent", tooltip="For LTX-2 Sample Stage."),
                io.Float.Output(display_name="seconds", tooltip="For LTX-2 Decode Audio."),
            ],
        )

    @classmethod
    def execute(cls, model: Model, seconds: float, batch_size: int) -> io.NodeOutput:
        return io.NodeOutput(audio_only(model), audio_only_latent(seconds, batch_size), seconds)


class LTX2AVReferenceAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVReferenceAudio",
            has_intermediate_output=True,
            display_name="LTX-2 Reference Audio",
            search_aliases=[
                "voice",
                "voice clone",
                "speaker",
                "same voice",
                "timbre",
                "identity",
                "voice cloning",
                "voice reference",
            ],
            category=CATEGORY,
            description="Conditions the model on a reference whose voice, or other audio, it imitates: the "
            "tokens of the reference precede the clip and do not appear in it. For LoRAs trained this way.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with the LoRA."),
                positive_input(),
                io.Conditioning.Input("negative", tooltip="From LTX-2 Prompt; it gets the same reference."),
                io.Vae.Input("audio_vae", tooltip="Audio VAE that encodes the reference."),
                io.Audio.Input("audio", tooltip="The reference."),
                start_input(text="Where in the audio the reference begins, in seconds"),
                quantity(
                    "reference_s",
                    5.0,
                    name="seconds",
                    high=600.0,
                    step=0.01,
                    flags={"reference-audio": "the audio"},
                    more="Such LoRAs are trained with 5; more costs time, and 0 takes all of the audio.",
                ),
                identity_input(
                    3.0,
                    "More imitates it more strongly. It costs one more forward pass a sampling step; LTX-2 "
                    "Stream Guidance may do it instead.",
                ),
                *percent_inputs("identity"),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with identity guidance."),
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative."),
                io.String.Output(display_name="report", tooltip="Length of the reference."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
        audio_vae: Vae,
        audio: Audio | None,
        start: float,
        seconds: float,
        identity: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        tokens = patchify_audio(encoded_reference(audio_vae, audio, start, seconds))
        reference = ReferenceAudio(tokens=tokens)
        # At 0 the extra forward pass of each step would be multiplied by 0.
        patched = with_identity(model, identity, start_percent, end_percent) if identity else model
        length = tokens.shape[1] / AUDIO_LATENTS_PER_SECOND
        report = f"reference of {length:.2f} s, {tokens.shape[1]} audio latents"
        return io.NodeOutput(
            patched,
            *(
                node_helpers.conditioning_set_values(prompt, {"ref_audio": reference})
                for prompt in (positive, negative)
            ),
            report,
            ui=ui.PreviewText(report),
        )


def audio_only(model: Model) -> Model:
    """Clone a MODEL and switch its video stream off, so that only audio is computed."""
    clone = model.clone()
    options = clone.model_options
    # Without the cross attentions the placeholder video cannot influence the audio.
    off = dict.fromkeys(("run_vx", "a2v_cross_attn", "v2a_cross_attn"), False)
    clone.model_options = {
        **options,
        "transformer_options": {**options.get("transformer_options", {}), **off},
    }
    return clone


def audio_only_latent(seconds: float, batch: int) -> Latent:
    """Make an empty LATENT for ``seconds`` of audio alone, of ``batch`` clips.

    Its video is one latent frame that is not used. The audio is one latent frame longer than ``seconds``,
    because the vocoder shortens the end.
    """
    device, length = intermediate_device(), math.ceil(seconds * AUDIO_LATENTS_PER_SECOND) + 1
    # ComfyUI's model takes an audio-video latent; the placeholder is as large as that of LTXVideo's
    # ``LTXVAudioOnlyModel``.
    video = torch.zeros(batch, VIDEO_CHANNELS, 1, SIDE, SIDE, device=device)
    audio = torch.zeros(batch, AUDIO_CHANNELS, length, AUDIO_BINS, device=device)
    joined = concat_av(
        # Preserved, so that the placeholder gets no noise.
        {"samples": video, "noise_mask": torch.zeros_like(video)},
        from_av(AVLatent(None, audio), {"type": "audio"}),
    )
    return marked_guides({**joined, AUDIO_ONLY: True}, 0)


def encoded_reference(audio_vae: Vae, audio: Audio | None, start_s: float, seconds: float) -> Tensor:
    """Encode a part of an AUDIO to a normalised latent (B, 8, audio latent frames, 16).

    The part begins at ``start_s`` and lasts ``seconds``; 0 takes all that follows. Raises ValueError if
    ``audio`` is None, or if it ends before ``start_s``.
    """
    if audio is None:
        raise ValueError("there is no reference audio: the file that it comes from has no audio track")
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    # The waveform is cut before encoding, because the encoder's latents cannot be cut at an exact sample.
    first = round(start_s * rate)
    part = waveform[..., first : first + round(seconds * rate) if seconds else None]
    if not part.shape[-1]:
        raise ValueError(
            f"the reference lasts {waveform.shape[-1] / rate:.2f} s and nothing is left from {start_s:g} s "
            "on: choose an earlier start"
        )
    target = audio_rate_of(audio_vae)
    return encode_audio(audio_vae, resample(to_stereo(part), rate, target), target)


def with_identity(model: Model, scale: float, start_percent: float, end_percent: float) -> Model:
    """Clone a MODEL with guidance towards the reference audio, as ComfyUI's LTXVReferenceAudio does it.

    The guidance adds ``scale`` times the difference that the reference makes to the conditional estimate, in
    the part of the schedule from ``start_percent`` to ``end_percent`` (0 to 1).
    """
    sampling = model.get_model_object("model_sampling")
    # Per cent of the model's schedule and not of this run's steps, as in ComfyUI's own ranges.
    first, last = sampling.percent_to_sigma(start_percent), sampling.percent_to_sigma(end_percent)

    def add_identity(args: Options) -> Tensor:
        result: Tensor = args["denoised"]
        # Levels fall during sampling, so the start of the range is its upper end.
        if not last <= float(args["sigma"][0]) <= first:
            return result
        # The difference to a pass without the reference is what the reference adds.
        plain = [without_reference(entry) for entry in args["cond"]]
        (without,) = comfy.samplers.calc_cond_batch(
            args["model"], [plain], args["input"], args["sigma"], args["model_options"].copy()
        )
        added: Tensor = (args["cond_denoised"] - without) * scale
        return result + added

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(add_identity)
    return clone
