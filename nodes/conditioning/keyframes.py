"""Nodes for the keyframes that LTX-2.5 generates next to a clip: add, take out again, use as guides."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ...ltx2_core.conditioning.guide_frames import GuideFrames
from ...ltx2_core.conditioning.slots import keyframes_every
from ...ltx2_core.shapes import frames_of
from ..convert import video_of
from ..host.guides import guide_frames_of
from ..host.latents import Latent
from ..host.values import Conditioning, Vae
from ..inputs import conditioning_inputs, conditioning_outputs
from ..quantity import quantity
from .guide_latents import attach_guide
from .images import CATEGORY
from .keyframe_latents import (
    attach_keyframes,
    each_keyframe,
    encoded_at,
    frames_on,
    occupied,
    parse_frames,
    take_keyframes,
)

_BEFORE = "From LTX-2 Prompt, or the node before."
_NEXT = "For the next node's positive.", "For the next node's negative."


class LTX2AVAddGeneratedKeyframes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVAddGeneratedKeyframes",
            has_intermediate_output=True,
            display_name="LTX-2 Add Generated Keyframes",
            search_aliases=["keyframe slots", "generated keyframes", "anchor frames"],
            category=CATEGORY,
            description="Lets LTX-2.5 generate single frames next to the clip, which hold it together. Take "
            "them out after sampling with LTX-2 Separate Generated Keyframes.",
            inputs=[
                *conditioning_inputs(_BEFORE),
                io.Latent.Input("latent", tooltip="Latent to sample: audio-video, or video only."),
                io.Int.Input(
                    "interval_frames",
                    default=24,
                    min=1,
                    max=10000,
                    tooltip="About how many frames lie between two keyframes. Frames with an image or a "
                    "keyframe are left out.",
                ),
                io.String.Input(
                    "frame_indices",
                    default="",
                    tooltip="Frames of the keyframes, such as 24, 48, -1, in place of interval_frames.",
                ),
                io.Latent.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Keyframes to start from, of an earlier stage; without them, from noise.",
                ),
            ],
            outputs=[
                *conditioning_outputs(*_NEXT),
                _latent_output("keyframes"),
                _report_output(),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        latent: Latent,
        interval_frames: int,
        frame_indices: str,
        keyframes: Latent | None = None,
    ) -> io.NodeOutput:
        samples = video_of(latent)["samples"]
        clip = frames_of(samples.shape[2] - guide_frames_of(positive, samples))
        if frame_indices.strip():
            frames = parse_frames(frame_indices, clip)
        elif keyframes is not None:
            frames = frames_on(keyframes, clip)
        else:
            frames = keyframes_every(interval_frames, clip, occupied(positive, latent))
        initial = None if keyframes is None else video_of(keyframes)["samples"]
        positive, negative, latent = attach_keyframes(positive, negative, latent, frames, initial)
        report = f"{len(frames)} keyframes to generate at frames {', '.join(map(str, frames))} of {clip}"
        return io.NodeOutput(positive, negative, latent, report, ui=ui.PreviewText(report))


class LTX2AVSeparateGeneratedKeyframes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVSeparateGeneratedKeyframes",
            display_name="LTX-2 Separate Generated Keyframes",
            search_aliases=["keyframe slots", "extract keyframes", "generated keyframes"],
            category=CATEGORY,
            description="Takes generated keyframes out of a sampled latent and out of the conditioning. Use "
            "it before LTX-2 Crop Guides, which would drop them, and before an upscaler.",
            inputs=[
                *conditioning_inputs(_BEFORE),
                io.Latent.Input("latent", tooltip="Sampled latent with generated keyframes."),
                io.Boolean.Input(
                    "keyframes_to_batch",
                    default=False,
                    tooltip="Return the keyframes as a batch of clips of one frame, to decode as images.",
                ),
            ],
            outputs=[
                *conditioning_outputs(*_NEXT),
                _latent_output("the clip"),
                io.Latent.Output(display_name="keyframes", tooltip="The generated keyframes alone."),
            ],
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, latent: Latent, keyframes_to_batch: bool
    ) -> io.NodeOutput:
        return io.NodeOutput(*take_keyframes(positive, negative, latent, batch=keyframes_to_batch))


class LTX2AVGeneratedKeyframesToGuides(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVGeneratedKeyframesToGuides",
            has_intermediate_output=True,
            display_name="LTX-2 Generated Keyframes To Guides",
            search_aliases=["keyframe slots", "pin keyframes", "generated keyframes"],
            category=CATEGORY,
            description="Adds generated keyframes of an earlier stage as guides. On a latent of another size "
            "they are decoded and encoded again; on a longer one they keep their place in time.",
            inputs=[
                *conditioning_inputs(_BEFORE),
                io.Vae.Input("video_vae", tooltip="Video VAE, for keyframes of another size."),
                io.Latent.Input("latent", tooltip="Latent of the next stage."),
                io.Latent.Input("keyframes", tooltip="From LTX-2 Separate Generated Keyframes."),
                quantity(
                    "image_strength", 1.0, name="strength", step=0.01, text="How much of them is preserved"
                ),
                io.String.Input(
                    "override_frame_indices",
                    default="",
                    tooltip="Frames of the guides, such as 24, 48, -1, in place of the keyframes' own.",
                ),
            ],
            outputs=[
                *conditioning_outputs(*_NEXT),
                _latent_output("guides"),
                _report_output(),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        video_vae: Vae,
        latent: Latent,
        keyframes: Latent,
        strength: float,
        override_frame_indices: str,
    ) -> io.NodeOutput:
        text, samples = override_frame_indices.strip(), video_of(latent)["samples"]
        clip = frames_of(samples.shape[2] - guide_frames_of(positive, samples))
        frames = parse_frames(text, clip) if text else frames_on(keyframes, clip)
        own = each_keyframe(keyframes, len(frames))
        again = own[0].shape[3:] != samples.shape[3:]
        for frame, one in zip(frames, own, strict=True):
            guide = GuideFrames(
                latent=encoded_at(video_vae, one, samples) if again else one,
                frame=frame,
                strength=strength,
                attention=strength,
                single_frame=True,
            )
            positive, negative, latent = attach_guide(positive, negative, latent, guide)
        where = ", ".join(map(str, frames))
        report = f"{len(frames)} keyframes as guides at frames {where} of {clip}" + (
            ", encoded again at this size" if again else ""
        )
        return io.NodeOutput(positive, negative, latent, report, ui=ui.PreviewText(report))


def _latent_output(what: str) -> io.Output:
    return io.Latent.Output(display_name="latent", tooltip=f"The latent with {what}.")


def _report_output() -> io.Output:
    return io.String.Output(display_name="report", tooltip="How many keyframes there are, and where.")
