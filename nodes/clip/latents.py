"""Nodes that make empty latents, join and separate video and audio, and upscale."""

from __future__ import annotations

from comfy_api.latest import io

from ...ltx2_core.shapes import Snap, plan_clip
from ...ltx2_core.types import Numerics
from ..conditioning.attached import refuse_guides
from ..convert import Streams, split, split_av, video_of
from ..host.latents import Latent, concat_av
from ..host.upscaling import upscale_video
from ..host.values import UpscaleModel, Vae
from ..inputs import batch_input, fps_input, frames_input, size_input
from .plan import CATEGORY, empty_latent


class LTX2AVEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVEmptyLatent",
            display_name="LTX-2 Empty AV Latent",
            search_aliases=["empty latent", "latent size", "t2v"],
            category=CATEGORY,
            description="An empty latent of video and audio of equal length. Values off the grid are an "
            "error; LTX-2 Clip Plan rounds them instead.",
            inputs=[
                size_input("width", 768, "In pixels"),
                size_input("height", 512, "In pixels"),
                frames_input(97, "More need more memory and time."),
                fps_input("A higher rate makes clip and audio shorter."),
                batch_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Empty video and audio, for sampling.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, frames: int, fps: float, batch_size: int) -> io.NodeOutput:
        # The numerics of ComfyUI round the length of the audio up, as its own node for empty audio does.
        plan = plan_clip(width, height, frames=frames, fps=fps, snap=Snap.ERROR, numerics=Numerics.COMFY)
        return io.NodeOutput(empty_latent(plan, batch_size))


class LTX2AVConcatLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVConcatLatent",
            display_name="LTX-2 Concat AV Latent",
            search_aliases=["combine latents", "join audio video", "merge"],
            category=CATEGORY,
            description="Joins a video and an audio latent into one, with their noise masks.",
            inputs=[
                io.Latent.Input("video_latent", tooltip="Video latent; its noise mask is joined too."),
                io.Latent.Input("audio_latent", tooltip="Audio latent; its noise mask is joined too."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Both in one latent.")],
        )

    @classmethod
    def execute(cls, video_latent: Latent, audio_latent: Latent) -> io.NodeOutput:
        video, more_audio = split(video_latent)
        more_video, audio = split(audio_latent)
        # The one mistake with an obvious way out has a message of its own.
        if video is None and audio is None:
            raise ValueError("video_latent holds audio and audio_latent holds video: swap the two")
        if video is None or more_audio is not None or audio is None or more_video is not None:
            raise ValueError(
                "video_latent must hold video only and audio_latent audio only: separate an audio-video "
                "latent with LTX-2 Separate AV Latent first"
            )
        return io.NodeOutput(concat_av(video, audio))


class LTX2AVSeparateLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSeparateLatent",
            display_name="LTX-2 Separate AV Latent",
            search_aliases=["split latent", "separate audio video", "unpack", "split audio"],
            category=CATEGORY,
            description="Separates an audio-video latent. Each part has its own noise mask.",
            inputs=[io.Latent.Input("latent", tooltip="Latent that holds video and audio.")],
            outputs=[
                io.Latent.Output(display_name="video_latent", tooltip="The video with its mask."),
                io.Latent.Output(display_name="audio_latent", tooltip="The audio with its mask."),
            ],
        )

    @classmethod
    def execute(cls, latent: Latent) -> io.NodeOutput:
        return io.NodeOutput(*split_av(latent))


class LTX2AVLatentUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVLatentUpscale",
            display_name="LTX-2 Latent Upscale",
            search_aliases=["upscale", "hires", "hi-res fix", "upscaler", "2x", "second stage", "enlarge"],
            category=CATEGORY,
            description="Upscales the video between two stages. Audio and its mask are unchanged; the video "
            "mask is dropped, so insert the first image again after this node.",
            inputs=[
                io.Latent.Input("latent", tooltip="Result of the first stage, without guide frames."),
                io.LatentUpscaleModel.Input(
                    "upscale_model",
                    tooltip="Latent upscaler, such as spatial x2. A temporal one doubles the frames: decode "
                    "with twice the fps.",
                ),
                io.Vae.Input(
                    "video_vae", tooltip="Video VAE of the checkpoint: it holds the latent statistics."
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Upscaled video, same audio.")],
        )

    @classmethod
    def execute(cls, latent: Latent, upscale_model: UpscaleModel, video_vae: Vae) -> io.NodeOutput:
        # Guide frames have coordinates of this size, which would not fit the enlarged latent.
        refuse_guides(latent, "LTX-2 Latent Upscale")
        return io.NodeOutput(enlarged(latent, upscale_model, video_vae))


def enlarged(latent: Latent, upscale_model: UpscaleModel, video_vae: Vae) -> Latent:
    """Return a copy of the LATENT with its video upscaled and without the video's noise mask.

    ``video_vae`` has the mean and deviation by which latents are normalised. Raises ValueError if
    ``upscale_model`` is None.
    """
    if upscale_model is None:
        raise ValueError("no upscaler was loaded: choose one in LTX-2 Load All instead of none")
    video, audio = video_of(latent), split(latent).audio
    # The mask has the size of the earlier stage, and the upscaler has changed what it preserved.
    larger = {key: value for key, value in video.items() if key != "noise_mask"}
    larger["samples"] = upscale_video(upscale_model, video["samples"], video_vae)
    return Streams(larger, audio).joined()
