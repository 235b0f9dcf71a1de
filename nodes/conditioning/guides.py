"""Nodes that add guides (images and clips as extra tokens next to the video), and that remove them again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames, dilate
from ...ltx2_core.conditioning.guides import GuidePlacement, place_guide
from ...ltx2_core.media import fit_image
from ...ltx2_core.shapes import SPATIAL_SCALE
from ..convert import Streams, compress, frames_from_image, image_from_frames, split, video_of
from ..host.guides import Entry, guide_frames_of, with_guide, without_guides
from ..host.latents import Latent
from ..host.masks import frame_mask
from ..host.values import Conditioning, Vae
from ..inputs import (
    ICLoraParameters,
    downscale_input,
    iclora_parameters_input,
    image_crf_input,
    strength_input,
)
from .attached import AttachedGuide, marked_guides, remember
from .images import CATEGORY, chosen_crf

__all__ = [
    "ICLoraParameters",
    "LTX2AVAddGuide",
    "LTX2AVCropGuides",
    "add_guide",
    "attach_guide",
    "crop_guides",
    "downscale_of",
    "every_of",
]


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
            ],
            category=CATEGORY,
            description="Conditions the video on an image or a clip: a keyframe at any frame, or a control "
            "or reference video for an IC-LoRA. Remove guides after sampling with LTX-2 Crop Guides.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="From LTX-2 Prompt or another LTX-2 Add Guide."),
                io.Conditioning.Input(
                    "negative", tooltip="The negative conditioning that belongs to positive."
                ),
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
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative."),
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
    ) -> io.NodeOutput:
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
                io.Conditioning.Input(
                    "positive", tooltip="The conditioning that the latent was sampled with."
                ),
                io.Conditioning.Input(
                    "negative", tooltip="The negative conditioning that belongs to positive."
                ),
                io.Latent.Input("latent", tooltip="Sampled latent: audio-video, or video only."),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="For the next stage, without guides."
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="For the next stage, without guides."
                ),
                io.Latent.Output(display_name="latent", tooltip="The clip without guide frames."),
            ],
        )

    @classmethod
    def execute(cls, positive: Conditioning, negative: Conditioning, latent: Latent) -> io.NodeOutput:
        return io.NodeOutput(*crop_guides(positive, negative, latent))


def add_guide(
    positive: Conditioning, negative: Conditioning, video_vae: Vae, latent: Latent, guide: AttachedGuide
) -> tuple[Conditioning, Conditioning, Latent, str]:
    """Encode a guide and append it to the video.

    Returns both conditionings, the LATENT, and a line that says which frames are used. Raises ValueError if
    the latent's size is not a multiple of the guide's, or if the guide is too long.
    """
    video = video_of(latent)
    samples = video["samples"]
    rows, columns = samples.shape[3:]
    # Frames of earlier guides are no part of the clip, in which the new guide is placed.
    before = guide_frames_of(positive, samples)
    scale = guide.downscale
    if rows % scale or columns % scale:
        raise ValueError(
            f"the latent is {columns} x {rows} cells and the guide {scale} times smaller: choose a width and "
            f"height that are multiples of {SPATIAL_SCALE * scale} pixels"
        )
    # The LoRA was trained with every so manyth frame of its reference.
    guide_image = guide.image[:: guide.every]
    placed = place_guide(len(guide_image), guide.frame, samples.shape[2] - before)
    encoded = placed.latent(video_vae.encode(_pixels(guide_image, placed, rows // scale, columns // scale)))
    item = GuideFrames(
        latent=encoded,
        frame=placed.frame,
        strength=guide.strength,
        attention=guide.attention,
        scale=scale,
        single_frame=placed.single_frame,
        time_scale=guide.every,
    )
    positive, negative, latent = attach_guide(positive, negative, latent, item, guide.mask)
    every = f", every {guide.every}. frame" if guide.every > 1 else ""
    return positive, negative, remember(latent, guide), placed.describe() + every


def attach_guide(
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
    guide: GuideFrames,
    mask: Tensor | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Append an encoded guide to the video; returns both conditionings and the LATENT.

    ``mask`` (N, H, W) multiplies the attention to the parts of the guide.
    """
    video = video_of(latent)
    before = guide_frames_of(positive, video["samples"])
    spread, keep = dilate(guide.latent.to(video["samples"]), guide.scale)
    entry: Entry = {
        "pre_filter_count": spread[0, 0].numel(),
        # The host calls the weight of the attention the strength of a guide.
        "strength": float(guide.attention),
        "pixel_mask": None if mask is None else mask[None, None],
        "latent_shape": list(guide.latent.shape[2:]),
    }
    coordinates = _coordinates(guide, spread)
    joined = Streams(_with_frames(video, spread, keep, guide.strength), split(latent).audio).joined()
    return (
        with_guide(positive, coordinates, entry),
        with_guide(negative, coordinates, entry),
        marked_guides(joined, before + guide.latent.shape[2]),
    )


def crop_guides(
    positive: Conditioning, negative: Conditioning, latent: Latent
) -> tuple[Conditioning, Conditioning, Latent]:
    """Remove all guides from the video; returns both conditionings and the LATENT.

    The LATENT always gets a noise mask. Without guides the conditioning is returned unchanged.
    """
    video = video_of(latent)
    # The conditioning also states guides that nodes of the host added.
    frames = guide_frames_of(positive, video["samples"])
    own = video["samples"].shape[2] - frames
    # A slice alone would hold the guide frames in memory.
    samples, mask = video["samples"][:, :, :own].clone(), frame_mask(video)[:, :, :own]
    cropped = {**video, "samples": samples, "noise_mask": mask}
    joined = marked_guides(Streams(cropped, split(latent).audio).joined(), 0)
    if not frames:
        return positive, negative, joined
    return without_guides(positive), without_guides(negative), joined


def _pixels(image: Tensor, placed: GuidePlacement, rows: int, columns: int) -> Tensor:
    """Take the frames of a guide that are used, and fit them: (N, H, W, 3).

    ``rows`` and ``columns`` are the size in latent cells of 32 pixels.
    """
    # With the doubled first frame of a clip inside the video, which core's Add Guide has and most other guide
    # nodes lack: their content is misaligned by up to seven frames.
    frames = placed.frames_to_encode(frames_from_image(image))
    return image_from_frames(fit_image(frames, columns * SPATIAL_SCALE, rows * SPATIAL_SCALE, mode="comfy"))


def _coordinates(guide: GuideFrames, spread: Tensor) -> Tensor:
    """Coordinates (1, 3, G, 2) of the G guide tokens: start and end in pixel frames, rows and columns."""
    frames, rows, columns = spread.shape[2:]
    # At one frame a second these are frame numbers; the host divides them by the rate itself.
    return guide.positions(frames, rows, columns, fps=1.0).to(spread.device)


def _with_frames(video: Latent, guide: Tensor, keep: Tensor | None, strength: float) -> Latent:
    """Append the guide to the video LATENT in time.

    ``keep`` marks the cells that a smaller guide occupies; all other cells get a negative mask.
    """
    samples, mask = video["samples"], frame_mask(video)[:, :1]
    if keep is None:
        added = mask.new_full((len(mask), 1, guide.shape[2], *mask.shape[3:]), max(0.0, 1 - strength))
    else:
        # A spread guide has holes in single cells, so the mask needs the full grid.
        mask = mask.expand(-1, -1, -1, *samples.shape[3:])
        cells = torch.where(keep, 1.0, -1.0).to(mask) - strength
        # A strength above 1 acts on attention only; a mask below 0 would mark a hole.
        cells = torch.where(keep, cells.clamp(min=0), cells)
        added = cells.expand(len(mask), 1, -1, -1, -1)
    guide = guide.expand(len(samples), -1, -1, -1, -1)
    return {
        **video,
        "samples": torch.cat((samples, guide), dim=2),
        "noise_mask": torch.cat((mask, added), dim=2),
    }


def downscale_of(parameters: Mapping[str, object] | None) -> int:
    """How many times smaller than the clip the reference of an IC-LoRA is, from its ``parameters``."""
    return _factor(parameters, "reference_downscale_factor")


def every_of(parameters: Mapping[str, object] | None) -> int:
    """Every how many frames of its reference an IC-LoRA uses one, from its ``parameters``; 1 uses all."""
    return _factor(parameters, "reference_temporal_scale_factor")


def _factor(parameters: Mapping[str, object] | None, name: str) -> int:
    """Read the factor ``name`` from parameters, at least 1; 1 if it is missing or not a number."""
    value = (parameters or {}).get(name, 1)
    try:
        # Metadata of third parties may hold strings or zeros, which mean no scaling.
        return max(1, round(float(value)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 1
