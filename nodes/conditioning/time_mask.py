"""What to make anew in time, in seconds, of picture and sound apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.masks import expand_mask, mask_like
from ...ltx2_core.conditioning.regions import (
    Rounding,
    TimeRegions,
    covered,
    extended,
    parse_regions,
    spatial_cells,
)
from ...ltx2_core.conditioning.timeline import draw_timeline
from ...ltx2_core.shapes import ClipPlan, audio_latents_of, frames_of, latent_frames_of
from ...ltx2_core.types import AVLatent, LatentState, Numerics
from ..clip.plan import fps_input, plan_input
from ..convert import Streams, split
from ..host.latents import Latent
from .attached import refuse_guides
from .images import CATEGORY

KEEP, EXTEND = "keep the length", "extend"


class LTX2AVTimeMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVTimeMask",
            has_intermediate_output=True,
            display_name="LTX-2 Audio Video Mask",
            category=CATEGORY,
            description="Makes some seconds of a clip anew and keeps the rest, picture and sound apart; it "
            "can also make the clip longer.",
            inputs=[
                io.Latent.Input("latent", tooltip="Encoded clip: audio-video, or one of the two."),
                io.String.Input(
                    "video_regions",
                    default="2-4",
                    tooltip="Seconds of the picture to make anew, such as 2-4, 5.5-6; empty keeps it all.",
                ),
                io.String.Input(
                    "audio_regions",
                    default="2-4",
                    tooltip="Seconds of the sound to make anew; empty keeps all of it.",
                ),
                fps_input("Frames per second of the clip; a connected plan overrides it."),
                io.Combo.Input(
                    "rounding",
                    options=[r.value for r in (Rounding.COVER, Rounding.INSIDE, Rounding.TOUCH)],
                    tooltip="cover takes every latent frame that a region overlaps, inside only those that "
                    "lie in it, touch also those that it only touches.",
                ),
                io.Combo.Input(
                    "length",
                    options=[KEEP, EXTEND],
                    tooltip="extend makes the clip as long as the last region; what is added is made anew.",
                ),
                io.Combo.Input(
                    "existing_mask",
                    options=["replace", "add"],
                    tooltip="replace forgets the mask that the latent has, add opens the regions besides.",
                ),
                io.Mask.Input(
                    "where",
                    optional=True,
                    tooltip="Part of the picture to make anew within the regions: one mask, or one a frame.",
                ),
                plan_input("Takes the frame rate from an LTX-2 Clip Plan."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The latent with its mask."),
                io.String.Output(display_name="report", tooltip="The seconds that are really covered."),
                io.Image.Output(display_name="timeline", tooltip="The same as a picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        latent: Latent,
        video_regions: str,
        audio_regions: str,
        fps: float,
        rounding: str,
        length: str,
        existing_mask: str,
        where: Tensor | None = None,
        plan: ClipPlan | None = None,
    ) -> io.NodeOutput:
        refuse_guides(latent, "LTX-2 Audio Video Mask")
        rate = fps if plan is None else plan.fps
        regions = TimeRegions(
            video=parse_regions(video_regions),
            audio=parse_regions(audio_regions),
            rounding=Rounding(rounding),
            add=existing_mask == "add",
        )
        streams = split(latent)
        samples, mask = _av(streams, existing_mask == "add")
        if length == EXTEND:
            samples, mask = extended(samples, mask, *_length(regions, rate))
        state = regions.apply(LatentState(latent=samples, mask=mask, fps=rate))
        opened = _within(state.mask, where)
        if length == EXTEND:
            opened = _open_tail(opened, streams)
        found = covered(opened, rate)
        report = "\n".join(str(one) for one in found)
        picture = draw_timeline(found)[None]
        made = Streams(
            _with(streams.video, samples.video, opened.video),
            _with(streams.audio, samples.audio, opened.audio),
        )
        return io.NodeOutput(made.joined(), report, picture, ui=ui.PreviewText(report))


def _av(streams: Streams, keep_mask: bool) -> tuple[AVLatent, AVLatent]:
    """Samples and expanded masks of a LATENT; what has no mask is kept."""
    samples = AVLatent(*(None if one is None else one["samples"] for one in streams))
    mask = mask_like(samples, 0.0)
    if keep_mask:
        own = [
            None if none is None else (one or {}).get("noise_mask", none)[:, :1]
            for one, none in zip(streams, (mask.video, mask.audio), strict=True)
        ]
        audio = own[1] if own[1] is None else own[1][..., :1]
        mask = expand_mask(AVLatent(own[0], audio), samples)
    return samples, mask


def _length(regions: TimeRegions, fps: float) -> tuple[int, int]:
    """Latent frames and audio latents up to the end of the last region."""
    end = max((end for _, end in (*regions.video, *regions.audio)), default=0.0)
    frames = latent_frames_of(max(1, math.ceil(end * fps - 1e-6)) + 7)
    return frames, audio_latents_of(frames_of(frames), fps, Numerics.COMFY)


def _within(mask: AVLatent, where: Tensor | None) -> AVLatent:
    if where is None or mask.video is None:
        return mask
    frames, rows, columns = mask.video.shape[2:]
    masks = where if where.ndim == 3 else where[None]
    return AVLatent(mask.video * spatial_cells(masks, frames, rows, columns).to(mask.video), mask.audio)


def _open_tail(mask: AVLatent, before: Streams) -> AVLatent:
    """What was added to the clip is made anew wherever it is."""
    video, audio = mask.video, mask.audio
    if video is not None and before.video is not None:
        video = video.clone()
        video[:, :, before.video["samples"].shape[2] :] = 1
    if audio is not None and before.audio is not None:
        audio = audio.clone()
        audio[:, :, before.audio["samples"].shape[2] :] = 1
    return AVLatent(video, audio)


def _with(latent: Latent | None, samples: Tensor | None, mask: Tensor | None) -> Any:
    if latent is None or samples is None or mask is None:
        return None
    return {**latent, "samples": samples, "noise_mask": mask.contiguous().clone().to(torch.float32)}
