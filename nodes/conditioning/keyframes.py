"""Nodes for the keyframes that LTX-2.5 generates itself next to a clip: add, take out again, use as guides.

Letters: B batch, C channels, K keyframes, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from einops import rearrange
from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames
from ...ltx2_core.conditioning.slots import check_keyframes, keyframes_every
from ...ltx2_core.media import fit_image
from ...ltx2_core.shapes import SPATIAL_SCALE, frames_of
from ..convert import Streams, frames_from_image, image_from_frames, split, video_of
from ..host.guides import guide_frames_of
from ..host.latents import Latent
from ..host.masks import frame_mask
from ..host.slots import INDICES, NUM_FRAMES, guided_frames, slots_of, with_slots, without_slots
from ..host.values import Conditioning, Vae
from ..quantity import quantity
from .attached import marked_guides
from .guide_latents import attach_guide
from .images import CATEGORY

PRESERVED = 1 - 1e-4
"""Latent frames with a noise mask below this number have content already, such as an image put in place."""


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
                *_conditionings(),
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
            outputs=[*_conditioning_outputs(), _latent_output("keyframes"), _report_output()],
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
        video = video_of(latent)
        samples = video["samples"]
        guides = guide_frames_of(positive, samples)
        clip = frames_of(samples.shape[2] - guides)
        if frame_indices.strip():
            frames = parse_frames(frame_indices, clip)
        elif keyframes is not None:
            frames = frames_on(keyframes, clip)
        else:
            frames = keyframes_every(interval_frames, clip, _occupied(positive, video, guides))
        initial = None if keyframes is None else video_of(keyframes)["samples"]
        _check(frames, clip, positive)
        added = _initial(initial, len(frames), samples)
        joined = Streams(_appended(video, added), split(latent).audio).joined()
        where = ", ".join(map(str, frames))
        report = f"{len(frames)} keyframes to generate at frames {where} of {clip}"
        return io.NodeOutput(
            with_slots(positive, frames, samples, guides),
            with_slots(negative, frames, samples, guides),
            marked_guides(joined, guides + len(frames)),
            report,
            ui=ui.PreviewText(report),
        )


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
                *_conditionings(),
                io.Latent.Input("latent", tooltip="Sampled latent with generated keyframes."),
                io.Boolean.Input(
                    "keyframes_to_batch",
                    default=False,
                    tooltip="Return the keyframes as a batch of clips of one frame, to decode as images.",
                ),
            ],
            outputs=[
                *_conditioning_outputs(),
                _latent_output("the clip"),
                io.Latent.Output(display_name="keyframes", tooltip="The generated keyframes alone."),
            ],
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, latent: Latent, keyframes_to_batch: bool
    ) -> io.NodeOutput:
        video = video_of(latent)
        samples, slots = video["samples"], slots_of(positive)
        if slots is None or slots_of(negative) is None:
            raise ValueError(
                "the conditioning describes no generated keyframes: connect positive and negative of LTX-2 "
                "Add Generated Keyframes, or remove this node"
            )
        if slots["tokens_per_frame"] != samples.shape[3] * samples.shape[4]:
            raise ValueError(
                "the generated keyframes are of a latent of another size: separate them before the upscaler"
            )
        guides = guide_frames_of(positive, samples)
        clip, first = samples.shape[2] - guides, slots["first_latent_frame"]
        stop = first + slots["num_keyframes"]
        mask = frame_mask(video)
        rest = {
            **video,
            "samples": torch.cat((samples[:, :, :first], samples[:, :, stop:]), dim=2),
            "noise_mask": torch.cat((mask[:, :, :first], mask[:, :, stop:]), dim=2),
        }
        own = samples[:, :, first:stop].clone()
        if keyframes_to_batch:
            own = rearrange(own, "b c k h w -> (b k) c 1 h w")
        keyframes = {
            "samples": own,
            INDICES: [*slots["frame_indices"]],
            NUM_FRAMES: slots["num_pixel_frames"],
        }
        joined = Streams(rest, split(latent).audio).joined()
        return io.NodeOutput(
            without_slots(positive, clip),
            without_slots(negative, clip),
            marked_guides(joined, guides - slots["num_keyframes"]),
            keyframes,
        )


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
                *_conditionings(),
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
            outputs=[*_conditioning_outputs(), _latent_output("guides"), _report_output()],
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
        samples = video_of(latent)["samples"]
        clip = frames_of(samples.shape[2] - guide_frames_of(positive, samples))
        text = override_frame_indices.strip()
        frames = parse_frames(text, clip) if text else frames_on(keyframes, clip)
        own = _each(keyframes, len(frames))
        for frame, one in zip(frames, own, strict=True):
            at_size = one if one.shape[3:] == samples.shape[3:] else _encoded_at(video_vae, one, samples)
            guide = GuideFrames(
                latent=at_size, frame=frame, strength=strength, attention=strength, single_frame=True
            )
            positive, negative, latent = attach_guide(positive, negative, latent, guide)
        again = own[0].shape[3:] != samples.shape[3:]
        where = ", ".join(map(str, frames))
        report = f"{len(frames)} keyframes as guides at frames {where} of {clip}" + (
            ", encoded again at this size" if again else ""
        )
        return io.NodeOutput(positive, negative, latent, report, ui=ui.PreviewText(report))


def parse_frames(text: str, clip: int) -> tuple[int, ...]:
    """Parse the pixel frame numbers in ``text``, divided by commas or spaces, for a clip of ``clip`` frames.

    Negative numbers count from the end of the clip. Raises ValueError for other text, for frames outside the
    clip, and for frames that do not ascend.
    """
    try:
        numbers = [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"frame indices {text!r} must be frame numbers, such as 24, 48, -1") from None
    frames = tuple(number + clip if number < 0 else number for number in numbers)
    check_keyframes(frames, clip)
    return frames


def frames_on(keyframes: Latent, clip: int) -> tuple[int, ...]:
    """The pixel frames at which the keyframes of a LATENT lie in a clip of ``clip`` frames.

    The LATENT ``keyframes`` states the frames and the length of the clip that they were made for; in a clip
    of another length each keyframe lies at the same share of the length. Raises ValueError for a LATENT that
    does not state them.
    """
    indices, frames = keyframes.get(INDICES), keyframes.get(NUM_FRAMES)
    if not indices or not frames:
        raise ValueError(
            "this latent does not say at which frames its keyframes are: connect LTX-2 Separate Generated "
            "Keyframes, or write the frames"
        )
    # After a temporal upscale a clip has twice the frames, and each keyframe twice its number.
    scale = (clip - 1) / max(1, frames - 1)
    return tuple(round(index * scale) for index in indices)


def _occupied(positive: Conditioning, video: Latent, guides: int) -> set[int]:
    """The numbers of the pixel frames that already have an image put in place, a guide or a keyframe.

    ``guides`` is how many latent frames at the end of ``video`` are guides, or keyframes that the model
    generates itself next to the clip; ``positive`` states at which pixel frames these are.
    """
    own = frame_mask(video)[:, :, : video["samples"].shape[2] - guides]
    lowest = own.amin(dim=(0, 1, 3, 4)).tolist()
    preserved = {
        frame
        for number, value in enumerate(lowest)
        if value < PRESERVED
        # Latent frame 0 stands for one pixel frame, each later one for eight.
        for frame in range(max(0, frames_of(number)), frames_of(number + 1))
    }
    return preserved | guided_frames(positive)


def _check(frames: tuple[int, ...], clip: int, positive: Conditioning) -> None:
    if not frames:
        raise ValueError(
            "no frame is left for a generated keyframe: all at this distance have an image or a keyframe; "
            "use a smaller interval_frames, or write frame_indices"
        )
    check_keyframes(frames, clip)
    slots = slots_of(positive)
    if slots is not None and slots["frame_indices"][-1] >= frames[0]:
        raise ValueError(
            f"keyframes at {[*frames]} must come after those that are there, at {slots['frame_indices']}"
        )


def _initial(initial: Tensor | None, count: int, samples: Tensor) -> Tensor:
    """The latents (B, C, K, H, W) of ``count`` keyframes before sampling: ``initial``, or zeros for None.

    ``samples`` (B, C, F, H, W) is the latent of the clip. Raises ValueError if ``initial`` does not fit it.
    """
    batch, channels, _, height, width = samples.shape
    if initial is None:
        return samples.new_zeros(batch, channels, count, height, width)
    if tuple(initial.shape[1:]) != (channels, count, height, width):
        raise ValueError(
            f"the keyframes are {initial.shape[2]} of {initial.shape[4]} x {initial.shape[3]} cells and the "
            f"latent takes {count} of {width} x {height}: use those of a latent of this size, or LTX-2 "
            "Generated Keyframes To Guides"
        )
    return initial.to(samples).expand(batch, -1, -1, -1, -1)


def _appended(video: Latent, added: Tensor) -> Latent:
    mask = frame_mask(video)
    ones = mask.new_ones(*mask.shape[:2], added.shape[2], *mask.shape[3:])
    return {
        **video,
        "samples": torch.cat((video["samples"], added), dim=2),
        "noise_mask": torch.cat((mask, ones), dim=2),
    }


def _each(keyframes: Latent, count: int) -> tuple[Tensor, ...]:
    """Each keyframe in the LATENT ``keyframes`` as a latent of its own (B, C, 1, H, W).

    Raises ValueError unless there are ``count`` of them.
    """
    samples: Tensor = video_of(keyframes)["samples"]
    # A batch of clips of one frame, as LTX-2 Separate Generated Keyframes returns it with keyframes_to_batch.
    if samples.shape[2] == 1 and samples.shape[0] == count:
        return tuple(samples[i : i + 1] for i in range(count))
    if samples.shape[2] != count:
        raise ValueError(f"there are {samples.shape[2]} keyframes and {count} frames for them: name as many")
    return tuple(samples[:, :, i : i + 1] for i in range(count))


def _encoded_at(video_vae: Vae, keyframe: Tensor, samples: Tensor) -> Tensor:
    """Bring the latent of a keyframe to the rows and columns of ``samples`` (B, C, F, H, W).

    The first keyframe of the batch ``keyframe`` (B, C, 1, h, w) is decoded, scaled as an image, and encoded
    again: (1, C, 1, H, W).
    """
    rows, columns = (SPATIAL_SCALE * size for size in samples.shape[3:])
    image = video_vae.decode(keyframe[:1])
    frames = frames_from_image(image.reshape(-1, *image.shape[-3:])[:1])
    encoded: Tensor = video_vae.encode(image_from_frames(fit_image(frames, columns, rows, mode="comfy")))
    return encoded


def _conditionings() -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="From LTX-2 Prompt, or the node before."),
        io.Conditioning.Input("negative", tooltip="The negative conditioning that belongs to positive."),
    ]


def _conditioning_outputs() -> list[io.Output]:
    return [
        io.Conditioning.Output(display_name="positive", tooltip="For the next node's positive."),
        io.Conditioning.Output(display_name="negative", tooltip="For the next node's negative."),
    ]


def _latent_output(what: str) -> io.Output:
    return io.Latent.Output(display_name="latent", tooltip=f"The latent with {what}.")


def _report_output() -> io.Output:
    return io.String.Output(display_name="report", tooltip="How many keyframes there are, and where.")
