"""Given content: a first image or clip in place, and sound to make a video for."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.audio import with_noise_floor
from ...ltx2_core.shapes import AUDIO_LATENTS_PER_SECOND, latent_frames_of
from ..convert import Streams, clip_audio, compress, encoder_audio, image_at_stage, split, split_av, video_of
from ..host.latents import Latent, concat_av
from ..host.masks import frame_mask
from .attached import AttachedImage, remember

CATEGORY = "LTX-2/conditioning"


class LTX2AVPreprocess(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVPreprocess",
            display_name="LTX-2 Preprocess Image",
            category=CATEGORY,
            description="Makes stills look like video frames by one H.264 round trip: images that are "
            "too clean tend to stay frozen.",
            inputs=[
                io.Image.Input("image", tooltip="Images to compress, each by itself."),
                crf_input(33, "Strength of the compression: 0 is off, 33 is usual for LTX-2.0, 18 for 2.3."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The compressed images, cut to even sizes.")
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, crf: int) -> io.NodeOutput:
        return io.NodeOutput(compress(image, crf))


class LTX2AVImgToVideoInplace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVImgToVideoInplace",
            display_name="LTX-2 Img To Video Inplace",
            category=CATEGORY,
            description="Puts an image, or a clip of 8k + 1 frames, in the place of the first frames. In a "
            "two-stage graph use it before both stages: after the upscaler, not before it.",
            inputs=[
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes the image."),
                io.Image.Input(
                    "image", tooltip="First image or clip; it is cut around its centre to the clip's shape."
                ),
                io.Latent.Input("latent", tooltip="Latent of this stage: audio-video, or video only."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 keeps the image exactly; less lets the model change it, 0 ignores it.",
                ),
                crf_input(
                    0, "Compress the image like LTX-2 Preprocess Image, at the size of this stage; 0 is off."
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The latent with the image and its mask.")
            ],
        )

    @classmethod
    def execute(
        cls, video_vae: Any, image: Tensor, latent: Latent, strength: float, crf: int
    ) -> io.NodeOutput:
        return io.NodeOutput(place_image(video_vae, latent, AttachedImage(image, strength, crf)))


class LTX2AVSetAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSetAudio",
            has_intermediate_output=True,
            display_name="LTX-2 Set Audio",
            category=CATEGORY,
            description="Gives the clip its sound: the video is made for it and the sound itself stays "
            "as it is, in every later stage too.",
            inputs=[
                io.Vae.Input("audio_vae", tooltip="Audio VAE that encodes the sound."),
                io.Audio.Input(
                    "audio", tooltip="The sound. Longer than the clip: cut. Shorter: silence follows."
                ),
                io.Latent.Input("latent", tooltip="Audio-video latent of the first stage."),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.01,
                    tooltip="Where in the sound the clip begins, in seconds.",
                ),
                io.Float.Input(
                    "noise_floor",
                    default=0.0,
                    min=-120.0,
                    max=0.0,
                    step=1.0,
                    optional=True,
                    tooltip="A soft noise that only the model hears, in dB of full scale, such as -60: "
                    "digital silence is unlike a recording. 0 is off.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The latent with the sound kept fixed."),
                io.Audio.Output(
                    display_name="audio", tooltip="The sound cut to the clip, for LTX-2 Decode To Video."
                ),
                io.String.Output(display_name="report", tooltip="What was cut or added."),
            ],
        )

    @classmethod
    def execute(
        cls, audio_vae: Any, audio: Any, latent: Latent, start: float, noise_floor: float = 0.0
    ) -> io.NodeOutput:
        video, own = split_av(latent)
        latents = own["samples"].shape[2]
        waveform, rate, silence_s = clip_audio(audio, start, latents)
        heard = with_noise_floor(waveform, noise_floor) if noise_floor else waveform
        encoded = audio_vae.encode(encoder_audio(heard, rate, audio_vae.audio_sample_rate, latents))
        samples = encoded.to(own["samples"]).expand_as(own["samples"]).clone()
        frozen = {**own, "samples": samples, "noise_mask": torch.zeros_like(samples)}
        report = f"sound of {latents / AUDIO_LATENTS_PER_SECOND:.2f} s from {start:g} s on"
        if silence_s:
            report += f"; it is too short for the clip: {silence_s:.2f} s of silence added at the end"
        sound = {"waveform": waveform, "sample_rate": rate}
        return io.NodeOutput(concat_av(video, frozen), sound, report, ui=ui.PreviewText(report))


def place_image(video_vae: Any, latent: Latent, given: AttachedImage) -> Latent:
    """The LATENT with an image in the place of its first frames; it remembers it.

    Raises ValueError for more images than the clip has frames.
    """
    video = video_of(latent)
    frames = latent_frames_of(len(given.image))
    if frames > video["samples"].shape[2]:
        raise ValueError(
            f"{len(given.image)} images are {frames} latent frames and the clip has only "
            f"{video['samples'].shape[2]}: give fewer images or plan a longer clip"
        )
    encoded = video_vae.encode(image_at_stage(given.image, video, given.crf))
    joined = Streams(put_in_place(video, encoded, given.strength), split(latent).audio).joined()
    return remember(joined, given)


def put_in_place(video: Latent, given: Tensor, strength: float) -> Latent:
    """The LATENT of a video whose first frames are ``given`` (1 or B, C, K, H, W), with its mask."""
    samples, mask, frames = video["samples"].clone(), frame_mask(video), given.shape[2]
    samples[:, :, :frames] = given
    mask[:, :, :frames] = 1.0 - strength
    return {**video, "samples": samples, "noise_mask": mask}


def crf_input(default: int, tooltip: str) -> io.Input:
    return io.Int.Input("crf", default=default, min=0, max=100, tooltip=tooltip)
