"""Nodes that add guides (images and clips as extra tokens next to the video), and that remove them again."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io, ui
from torch import Tensor

from ..convert import compress
from ..host.latents import Latent
from ..host.values import Conditioning, Vae
from ..inputs import (
    conditioning_inputs,
    conditioning_outputs,
    downscale_input,
    iclora_parameters_input,
    image_crf_input,
    strength_input,
)
from .attached import AttachedGuide
from .guide_latents import add_guide, crop_guides
from .iclora import downscale_of, every_of
from .images import CATEGORY, chosen_crf


class LTX2AVAddGuide(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVAddGuide",
            has_intermediate_output=True,
            display_name="LTX-2 Add Guide",
            search_aliases=[
                "keyframe",
                "last frame",
                "end frame",
                "middle frame",
                "first last frame",
                "flf2v",
                "control video",
                "ic-lora",
                "pose",
                "depth",
                "reference video",
                "controlnet",
                "ic lora",
                "video to video",
                "v2v",
                "transition",
                "morph",
            ],
            category=CATEGORY,
            description="Conditions the video on an image or a clip: a keyframe at any frame, or a control "
            "or reference video for an IC-LoRA. Remove guides after sampling with LTX-2 Crop Guides.",
            inputs=[
                *conditioning_inputs("From LTX-2 Prompt or another LTX-2 Add Guide."),
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes the guide."),
                io.Latent.Input("latent", tooltip="Latent of this stage: audio-video, or video only."),
                io.Image.Input(
                    "image",
                    tooltip="Image or clip, cropped around its centre to the clip's aspect ratio. A clip has "
                    "8k + 1 frames at frame 0 and 8k elsewhere; further frames are not used.",
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-99999,
                    max=99999,
                    tooltip="Frame at which the guide begins; negative values count from the end, -1 is the "
                    "last. After frame 0 a clip begins at a frame 8k + 1: other values are rounded down to "
                    "one.",
                ),
                strength_input(
                    "strength",
                    1.0,
                    "1 fixes the guide, lower values let the model change it; above 1 only its attention "
                    "rises.",
                ),
                strength_input(
                    "attention_strength",
                    0.0,
                    "Weight of the attention between video and guide: more follows the guide more "
                    "closely, 1 is the plain attention; 0 means the same as strength.",
                ),
                image_crf_input("A clip of several frames is then not compressed."),
                downscale_input(
                    "Encode the guide this many times smaller than the clip, as some IC-LoRAs require: a "
                    "larger factor is faster. 0 takes it from iclora_parameters, or 1."
                ),
                io.Mask.Input(
                    "attention_mask",
                    optional=True,
                    tooltip="Parts of the guide to follow, one mask or one a frame: it multiplies the "
                    "attention strength.",
                ),
                iclora_parameters_input(),
                io.Boolean.Input(
                    "double_frames",
                    default=False,
                    optional=True,
                    tooltip="For HDR that flickers less, in twice the time: every frame of the clip but the "
                    "last is there twice, and N frames guide a clip of 2N - 1. every_second_frame of LTX-2 "
                    "Decode HDR then returns N.",
                ),
            ],
            outputs=[
                *conditioning_outputs("For the sampler's positive.", "For the sampler's negative."),
                io.Latent.Output(display_name="latent", tooltip="The latent with the guide at its end."),
                io.String.Output(display_name="report", tooltip="Which frames are used, and where."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        video_vae: Vae,
        latent: Latent,
        image: Tensor,
        frame: int,
        strength: float,
        attention_strength: float,
        crf: int,
        downscale: int,
        attention_mask: Tensor | None = None,
        iclora_parameters: Mapping[str, object] | None = None,
        double_frames: bool = False,
    ) -> io.NodeOutput:
        if double_frames:
            # As in the official HDR pipeline: the clip ends with a frame of the source, not with its copy.
            image = image.repeat_interleave(2, dim=0)[:-1]
        crf, compressed = chosen_crf(video_vae, crf, len(image))
        guide = AttachedGuide(
            image=compress(image, crf),
            frame=frame,
            strength=strength,
            # ComfyUI has one strength for both, so that 0 means the same as there.
            attention=attention_strength or strength,
            mask=attention_mask,
            downscale=downscale or downscale_of(iclora_parameters),
            every=every_of(iclora_parameters),
        )
        positive, negative, latent, line = add_guide(positive, negative, video_vae, latent, guide)
        report = f"{line}; {compressed}"
        return io.NodeOutput(positive, negative, latent, report, ui=ui.PreviewText(report))


class LTX2AVCropGuides(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVCropGuides",
            display_name="LTX-2 Crop Guides",
            search_aliases=["remove guides", "keyframe", "trim guides"],
            category=CATEGORY,
            description="Removes the guide frames from a sampled latent and from the conditioning. Use it "
            "right after the sampler, before LTX-2 Latent Upscale and before decoding.",
            inputs=[
                *conditioning_inputs("The conditioning that the latent was sampled with."),
                io.Latent.Input("latent", tooltip="Sampled latent: audio-video, or video only."),
            ],
            outputs=[
                *conditioning_outputs(*["For the next stage, without guides."] * 2),
                io.Latent.Output(display_name="latent", tooltip="The clip without guide frames."),
            ],
        )

    @classmethod
    def execute(cls, positive: Conditioning, negative: Conditioning, latent: Latent) -> io.NodeOutput:
        return io.NodeOutput(*crop_guides(positive, negative, latent))
