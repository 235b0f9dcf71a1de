"""A node that masks time regions: which seconds of the video and of the audio are regenerated."""

from __future__ import annotations

import math

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
from ..convert import Streams, split
from ..host.latents import Latent
from ..inputs import audio_regions_input, fps_input, plan_input, rounding_input, video_regions_input
from .attached import refuse_guides
from .images import CATEGORY

KEEP, EXTEND = "keep the length", "extend"
BEFORE_GUIDES = (
    "put the mask before LTX-2 Add Guide, or after a sampled stage put LTX-2 Crop Guides before the mask"
)


class LTX2AVTimeMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVTimeMask",
            has_intermediate_output=True,
            display_name="LTX-2 Audio Video Mask",
            search_aliases=[
                "inpaint",
                "mask",
                "preserve",
                "noise mask",
                "freeze audio",
                "freeze video",
                "temporal mask",
                "extend",
                "audio mask",
                "mask audio",
                "latent noise mask",
            ],
            category=CATEGORY,
            description="Regenerates some seconds of a clip and preserves the rest, with separate regions "
            "for video and audio; it can also make the clip longer.",
            inputs=[
                io.Latent.Input("latent", tooltip="Encoded clip: audio-video, or one of the two."),
                video_regions_input(),
                audio_regions_input(),
                fps_input("A wrong rate shifts the regions. A connected plan overrides it."),
                rounding_input(),
                io.Combo.Input(
                    "length",
                    options=[KEEP, EXTEND],
                    tooltip="extend lengthens the clip to the end of the last region and generates what "
                    "is added.",
                ),
                io.Combo.Input(
                    "existing_mask",
                    options=["replace", "add"],
                    tooltip="replace discards the mask that the latent has, add regenerates the regions in "
                    "addition to it.",
                ),
                io.Mask.Input(
                    "where",
                    optional=True,
                    tooltip="Part of the frame to regenerate within the regions: one mask, or one a frame.",
                ),
                plan_input("Takes the frame rate from an LTX-2 Clip Plan."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The latent with its mask."),
                io.String.Output(
                    display_name="report", tooltip="The seconds that are regenerated after rounding."
                ),
                io.Image.Output(display_name="timeline", tooltip="The same drawn as an image."),
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
        refuse_guides(latent, "LTX-2 Audio Video Mask", advice=BEFORE_GUIDES)
        rate = fps if plan is None else plan.fps
        regions = TimeRegions(
            video=parse_regions(video_regions),
            audio=parse_regions(audio_regions),
            rounding=Rounding(rounding),
            add=existing_mask == "add",
        )
        streams = split(latent)
        samples, mask = _av(streams, regions.add)
        if length == EXTEND:
            samples, mask = extended(samples, mask, *_length(regions, rate))
        state = regions.apply(LatentState(latent=samples, mask=mask, fps=rate))
        regenerated = _within(state.mask, where)
        if length == EXTEND:
            # After the mask of the frame was applied, which would leave holes of zeros in what was added.
            regenerated = _open_tail(regenerated, streams)
        spans = covered(regenerated, rate)
        report = "\n".join(str(span) for span in spans)
        timeline = draw_timeline(spans)[None]
        masked = Streams(
            _with(streams.video, samples.video, regenerated.video),
            _with(streams.audio, samples.audio, regenerated.audio),
        )
        return io.NodeOutput(masked.joined(), report, timeline, ui=ui.PreviewText(report))


def _av(streams: Streams, add: bool) -> tuple[AVLatent, AVLatent]:
    """Return the samples and the noise masks of ``streams``, the video and the audio of a LATENT.

    With ``add`` the masks are those that the LATENT has. Without it, and for a stream that has no mask, they
    are zeros, which preserve everything.
    """
    samples = AVLatent(*(None if one is None else one["samples"] for one in streams))
    mask = mask_like(samples, 0.0)
    if add:
        own = [
            None if none is None else (one or {}).get("noise_mask", none)[:, :1]
            for one, none in zip(streams, (mask.video, mask.audio), strict=True)
        ]
        audio = own[1] if own[1] is None else own[1][..., :1]
        mask = expand_mask(AVLatent(own[0], audio), samples)
    return samples, mask


def _length(regions: TimeRegions, fps: float) -> tuple[int, int]:
    """How many latent frames and audio latent frames a clip at ``fps`` needs to contain the last region."""
    end = max((end for _, end in (*regions.video, *regions.audio)), default=0.0)
    # Rounded up to whole latent frames; the tolerance is for ends such as 0.1 s times 30 fps.
    frames = latent_frames_of(max(1, math.ceil(end * fps - 1e-6)) + 7)
    return frames, audio_latents_of(frames_of(frames), fps, Numerics.COMFY)


def _within(mask: AVLatent, where: Tensor | None) -> AVLatent:
    """Limit the video's mask to a part of the frame; the audio's mask is unchanged.

    ``where`` (height, width) or (masks, height, width), in pixels, is 1 in that part; None does not limit it.
    """
    if where is None or mask.video is None:
        return mask
    frames, rows, columns = mask.video.shape[2:]
    masks = where if where.ndim == 3 else where[None]
    return AVLatent(mask.video * spatial_cells(masks, frames, rows, columns).to(mask.video), mask.audio)


def _open_tail(mask: AVLatent, before: Streams) -> AVLatent:
    """Set the mask to 1 in the latent frames of video and audio by which the clip was lengthened.

    ``before`` are the streams of the shorter clip.
    """
    video, audio = mask.video, mask.audio
    if video is not None and before.video is not None:
        video = video.clone()
        # There is nothing to preserve past the end of the clip.
        video[:, :, before.video["samples"].shape[2] :] = 1
    if audio is not None and before.audio is not None:
        audio = audio.clone()
        audio[:, :, before.audio["samples"].shape[2] :] = 1
    return AVLatent(video, audio)


def _with(latent: Latent | None, samples: Tensor | None, mask: Tensor | None) -> Latent | None:
    """Return a copy of a LATENT of one stream with new samples and mask; None if one of the three is None."""
    if latent is None or samples is None or mask is None:
        return None
    # A copy, since an expanded mask cannot be written to by the nodes that follow.
    return {**latent, "samples": samples, "noise_mask": mask.contiguous().clone().to(torch.float32)}
