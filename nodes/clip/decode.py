"""Nodes that decode latents to frames, to audio, or directly to a video file."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from einops import rearrange
from torch import Tensor

from ...ltx2_core.editing import limit_loudness
from ...ltx2_core.run.generation import as_long_as
from ...ltx2_core.shapes import ClipPlan, frames_of
from ..conditioning.attached import refuse_guides
from ..convert import audio_from_decoder, audio_of, track_of, video_of
from ..host.audio_vae import audio_rate_of
from ..host.latents import Latent
from ..host.values import Audio, Vae
from ..host.video import write_video
from ..host.video_vae import checked_video_vae, decoder_noise
from ..inputs import ceiling_input, decoder_seed_input, file_crf_input, fps_input, plan_input
from ..numbers import real_input
from ..sampling.checks import CROP, check_audio
from .audio_levels import shown_levels
from .image_checks import checks_of, report_of

CATEGORY = "LTX-2/decode"


class LTX2AVDecodeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDecodeVideo",
            display_name="LTX-2 Decode Video",
            search_aliases=["vae decode", "latent to image", "latent to frames", "tiled decode"],
            category=CATEGORY,
            description="Decodes the video of a latent to images, all of them in memory. LTX-2 Decode To "
            "Video needs far less.",
            inputs=[
                io.Vae.Input("video_vae", tooltip="Video VAE of the checkpoint."),
                io.Latent.Input("latent", tooltip="Sampled latent: audio-video, or video only."),
                decoder_seed_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="The frames; clips of a batch follow one another."
                )
            ],
        )

    @classmethod
    def execute(cls, video_vae: Vae, latent: Latent, decoder_seed: int = 0) -> io.NodeOutput:
        # Guide frames would be decoded as frames at the end of the clip.
        refuse_guides(latent, "LTX-2 Decode Video")
        with decoder_noise(video_vae, decoder_seed):
            return io.NodeOutput(decoded_images(video_vae, latent))


class LTX2AVDecodeAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDecodeAudio",
            has_intermediate_output=True,
            display_name="LTX-2 Decode Audio",
            search_aliases=["vae decode", "latent to audio", "sound", "vocoder", "audio decode"],
            category=CATEGORY,
            description="Decodes the audio of a latent to a stereo waveform.",
            inputs=[
                io.Vae.Input("audio_vae", tooltip="Audio VAE of the checkpoint."),
                io.Latent.Input("latent", tooltip="Sampled latent: audio-video, or audio only."),
                real_input(
                    "seconds",
                    default=0.0,
                    low=0.0,
                    high=100000.0,
                    step=0.001,
                    optional=True,
                    tooltip="Exact length of the audio: longer audio is cut, shorter followed by silence; 0 "
                    "leaves the length.",
                ),
                ceiling_input(0.0, "0 is off.", optional=True),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip="The audio, at the rate of the vocoder.")],
        )

    @classmethod
    def execute(
        cls, audio_vae: Vae, latent: Latent, seconds: float = 0.0, ceiling: float = 0.0
    ) -> io.NodeOutput:
        audio = decoded_audio(audio_vae, latent)
        waveform, rate = audio["waveform"], audio["sample_rate"]
        if seconds:
            waveform = as_long_as(waveform, rate, seconds)
        # Each clip of a batch has a loudness of its own.
        limited = torch.stack([limit_loudness(one, ceiling) for one in waveform]) if ceiling else waveform
        return io.NodeOutput({"waveform": limited, "sample_rate": rate}, ui=shown_levels((limited[0], rate)))


class LTX2AVDecodeToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVDecodeToVideo",
            has_intermediate_output=True,
            display_name="LTX-2 Decode To Video",
            search_aliases=["vae decode", "create video", "save video", "mp4", "latent to video"],
            category=CATEGORY,
            description="Decodes straight into a video file with audio: frames are encoded as they are "
            "decoded, so a clip of any length fits in memory. Connect Save Video to save it.",
            inputs=[
                io.Vae.Input("video_vae", tooltip="Video VAE of the checkpoint."),
                io.Latent.Input("latent", tooltip="Sampled latent: audio-video, or video only."),
                fps_input("A higher rate plays faster. A connected plan overrides it."),
                file_crf_input(),
                io.Int.Input(
                    "batch_index",
                    default=0,
                    min=0,
                    max=63,
                    tooltip="Which clip of a batch to decode; 0 is the first.",
                ),
                io.Vae.Input(
                    "audio_vae",
                    optional=True,
                    tooltip="Audio VAE of the checkpoint; without it, and without audio, the video is "
                    "silent.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Audio to use instead of the latent's, such as that of LTX-2 Set Audio.",
                ),
                plan_input("Takes the frame rate from an LTX-2 Clip Plan and checks the length against it."),
                decoder_seed_input(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The finished clip, for Save Video."),
                io.String.Output(
                    display_name="report",
                    tooltip="For a clip whose first frame LTX-2 Img To Video Inplace has set: how much it "
                    "moves and how close its first frame is to the image, with advice where that is little.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        video_vae: Vae,
        latent: Latent,
        fps: float,
        crf: int,
        batch_index: int,
        audio_vae: Vae | None = None,
        audio: Audio | None = None,
        plan: ClipPlan | None = None,
        decoder_seed: int = 0,
    ) -> io.NodeOutput:
        # Guide frames would be decoded as frames at the end of the clip.
        refuse_guides(latent, "LTX-2 Decode To Video")
        rate = fps if plan is None else plan.fps
        samples = _one(video_of(latent)["samples"], batch_index)
        _check_length(samples.shape[2], plan)
        if audio is None and audio_vae is not None:
            own = audio_of(latent)["samples"]
            # Only for audio of the latent: connected audio is cut to the clip, or silence follows it.
            check_audio(samples.shape[2], own.shape[2], rate)
            audio = decoded_audio(audio_vae, {"samples": _one(own, batch_index)})
        track = None if audio is None else track_of(audio, batch_index)
        checks = checks_of(latent, samples, rate)
        with decoder_noise(video_vae, decoder_seed):
            video = write_video(
                video_vae, samples, rate, track, crf, on_frames=None if checks is None else checks.add
            )
        report = report_of(checks)
        # A clip without a first image has nothing to tell under the node.
        text = {} if checks is None else ui.PreviewText(report).as_dict()
        return io.NodeOutput(video, report, ui={**text, **shown_levels(track)})


def decoded_images(video_vae: Vae, latent: Latent) -> Tensor:
    """Decode the video of a LATENT to an IMAGE (frames, height, width, 3).

    The clips of a batch follow one another.
    """
    # Through the host's VAE, which loads weights, frees memory and falls back to tiles as for its own
    # networks.
    images: Tensor = checked_video_vae(video_vae).decode(video_of(latent)["samples"])
    return rearrange(images, "b f h w c -> (b f) h w c")


def decoded_audio(audio_vae: Vae, latent: Latent) -> Audio:
    """Decode the audio of a LATENT to AUDIO, at the sample rate of the vocoder.

    Raises ValueError if the LATENT has no audio.
    """
    audio_rate_of(audio_vae)
    decoded = audio_vae.decode(audio_of(latent)["samples"])
    return audio_from_decoder(decoded, audio_vae.first_stage_model.output_sample_rate)


def _one(samples: Tensor, index: int) -> Tensor:
    """Take clip number ``index``, from 0, from a batch, as a batch of one.

    Raises ValueError if ``index`` is past the end.
    """
    if index >= len(samples):
        raise ValueError(f"batch_index={index} is not in a batch of {len(samples)}: the first clip is 0")
    return samples[index : index + 1]


def _check_length(latent_frames: int, plan: ClipPlan | None) -> None:
    if plan is not None and latent_frames != plan.latent_frames:
        raise ValueError(
            f"the latent has {frames_of(latent_frames)} frames and the plan {plan.frames}: connect the "
            f"plan that the latent was made from. If guide frames were added: {CROP}"
        )
