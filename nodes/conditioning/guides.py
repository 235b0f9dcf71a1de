"""Guides: images and clips that the model sees beside the video, and taking them off again."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...ltx2_core.conditioning.guides import GuidePlacement, place_guide
from ...ltx2_core.conditioning.items import GuideFrames, dilate
from ...ltx2_core.media import fit_image
from ...ltx2_core.shapes import SPATIAL_SCALE
from ..convert import Streams, compress, frames_from_image, image_from_frames, split, video_of
from ..host.guides import guide_frames_of, with_guide, without_guides
from ..host.latents import Latent
from ..host.masks import frame_mask
from .attached import AttachedGuide, marked_guides, remember
from .images import CATEGORY, crf_input

ICLoraParameters = io.Custom("IC_LORA_PARAMETERS")


class LTX2AVAddGuide(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVAddGuide",
            has_intermediate_output=True,
            display_name="LTX-2 Add Guide",
            category=CATEGORY,
            description="Shows the model an image or a clip beside the video: a keyframe at any frame, or a "
            "control or reference video for an IC-LoRA. Take guides off again with LTX-2 Crop Guides.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="From LTX-2 Prompt or another LTX-2 Add Guide."),
                io.Conditioning.Input("negative", tooltip="Goes along with positive."),
                io.Vae.Input("video_vae", tooltip="Video VAE that encodes the guide."),
                io.Latent.Input("latent", tooltip="Latent of this stage: audio-video, or video only."),
                io.Image.Input(
                    "image",
                    tooltip="Image or clip, cut around its centre to the clip's shape. A clip has 8k + 1 "
                    "frames at frame 0 and 8k elsewhere; the frames beyond are not used.",
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-99999,
                    max=99999,
                    tooltip="Frame that it begins at; negative counts from the end, -1 is the last. A clip "
                    "amid the video begins at 8k + 1, which is rounded down to.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 shows it clean, less lets the model change it; more only adds attention.",
                ),
                io.Float.Input(
                    "attention_strength",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much the video looks at it, 1 is plain; 0 means the same as strength.",
                ),
                crf_input(0, "Compress the guide like LTX-2 Preprocess Image; 0 is off."),
                io.Int.Input(
                    "downscale",
                    default=0,
                    min=0,
                    max=8,
                    tooltip="Encode the guide this many times smaller than the clip, as some IC-LoRAs want; "
                    "0 takes the factor from iclora_parameters, or 1.",
                ),
                io.Mask.Input(
                    "attention_mask",
                    optional=True,
                    tooltip="Where to look at the guide, one mask or one a frame: it is multiplied by the "
                    "attention strength.",
                ),
                ICLoraParameters.Input(
                    "iclora_parameters",
                    optional=True,
                    tooltip="From Get IC-LoRA Parameters: the factor that the LoRA was trained with.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative."),
                io.Latent.Output(display_name="latent", tooltip="The latent with the guide at its end."),
                io.String.Output(display_name="report", tooltip="Which pictures are used, and where."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        video_vae: Any,
        latent: Latent,
        image: Tensor,
        frame: int,
        strength: float,
        attention_strength: float,
        crf: int,
        downscale: int,
        attention_mask: Tensor | None = None,
        iclora_parameters: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        guide = AttachedGuide(
            image=compress(image, crf),
            frame=frame,
            strength=strength,
            attention=attention_strength or strength,
            mask=attention_mask,
            downscale=downscale or downscale_of(iclora_parameters),
            every=every_of(iclora_parameters),
        )
        positive, negative, latent, report = add_guide(positive, negative, video_vae, latent, guide)
        return io.NodeOutput(positive, negative, latent, report, ui=ui.PreviewText(report))


class LTX2AVCropGuides(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LTX2AVCropGuides",
            display_name="LTX-2 Crop Guides",
            category=CATEGORY,
            description="Takes the guide frames off a sampled latent and out of the conditioning. It belongs "
            "right after the sampler, before LTX-2 Latent Upscale and before decoding.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the latent was sampled with."),
                io.Conditioning.Input("negative", tooltip="Goes along with positive."),
                io.Latent.Input("latent", tooltip="Sampled latent: audio-video, or video only."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the next stage, no guides."),
                io.Conditioning.Output(display_name="negative", tooltip="For the next stage, no guides."),
                io.Latent.Output(display_name="latent", tooltip="The clip alone."),
            ],
        )

    @classmethod
    def execute(cls, positive: Any, negative: Any, latent: Latent) -> io.NodeOutput:
        return io.NodeOutput(*crop_guides(positive, negative, latent))


def add_guide(
    positive: Any, negative: Any, video_vae: Any, latent: Latent, guide: AttachedGuide
) -> tuple[Any, Any, Latent, str]:
    """Conditioning, LATENT and one line on what was used. Raises ValueError for what does not fit."""
    video = video_of(latent)
    samples = video["samples"]
    rows, columns = samples.shape[3:]
    before = guide_frames_of(positive, samples)
    scale = guide.downscale
    if rows % scale or columns % scale:
        raise ValueError(
            f"the latent is {columns} x {rows} cells and the guide {scale} times smaller: choose a width and "
            f"height that are multiples of {SPATIAL_SCALE * scale} pixels"
        )
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
    every = f", every {guide.every}. picture" if guide.every > 1 else ""
    return positive, negative, remember(latent, guide), placed.describe() + every


def attach_guide(
    positive: Any, negative: Any, latent: Latent, guide: GuideFrames, mask: Tensor | None = None
) -> tuple[Any, Any, Latent]:
    """Conditioning and LATENT with an encoded guide; ``mask`` (N, H, W) weighs its parts."""
    video = video_of(latent)
    before = guide_frames_of(positive, video["samples"])
    spread, keep = dilate(guide.latent.to(video["samples"]), guide.scale)
    entry = {
        "pre_filter_count": spread[0, 0].numel(),
        "strength": guide.attention,
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


def crop_guides(positive: Any, negative: Any, latent: Latent) -> tuple[Any, Any, Latent]:
    """Conditioning and LATENT without guides, or as they are, with a mask, where there are none."""
    video = video_of(latent)
    frames = guide_frames_of(positive, video["samples"])
    own = video["samples"].shape[2] - frames
    samples, mask = video["samples"][:, :, :own].clone(), frame_mask(video)[:, :, :own]
    cropped = {**video, "samples": samples, "noise_mask": mask}
    joined = marked_guides(Streams(cropped, split(latent).audio).joined(), 0)
    if not frames:
        return positive, negative, joined
    return without_guides(positive), without_guides(negative), joined


def _pixels(image: Tensor, placed: GuidePlacement, rows: int, columns: int) -> Tensor:
    frames = placed.frames_to_encode(frames_from_image(image))
    return image_from_frames(fit_image(frames, columns * SPATIAL_SCALE, rows * SPATIAL_SCALE, mode="comfy"))


def _coordinates(guide: GuideFrames, spread: Tensor) -> Tensor:
    """(1, 3, G, 2) in pixel frames and pixels, as the host's conditioning has them."""
    return guide.positions(*spread.shape[2:], fps=1.0).to(spread.device)


def _with_frames(video: Latent, guide: Tensor, keep: Tensor | None, strength: float) -> Latent:
    """The video LATENT with the guide behind it. Holes of a spread guide have a mask below 0."""
    samples, mask = video["samples"], frame_mask(video)[:, :1]
    if keep is None:
        added = mask.new_full((len(mask), 1, guide.shape[2], *mask.shape[3:]), max(0.0, 1 - strength))
    else:
        mask = mask.expand(-1, -1, -1, *samples.shape[3:])
        cells = torch.where(keep, 1.0, -1.0).to(mask) - strength
        cells = torch.where(keep, cells.clamp(min=0), cells)
        added = cells.expand(len(mask), 1, -1, -1, -1)
    guide = guide.expand(len(samples), -1, -1, -1, -1)
    return {
        **video,
        "samples": torch.cat((samples, guide), dim=2),
        "noise_mask": torch.cat((mask, added), dim=2),
    }


def downscale_of(parameters: dict[str, Any] | None) -> int:
    """How many times smaller than the clip an IC-LoRA wants its reference."""
    return _factor(parameters, "reference_downscale_factor")


def every_of(parameters: dict[str, Any] | None) -> int:
    """Every how many pictures an IC-LoRA wants one of its reference."""
    return _factor(parameters, "reference_temporal_scale_factor")


def _factor(parameters: dict[str, Any] | None, name: str) -> int:
    try:
        return max(1, round(float((parameters or {}).get(name, 1))))
    except (TypeError, ValueError):
        return 1
