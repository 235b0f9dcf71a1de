"""Appends keyframes that LTX-2.5 generates itself to LATENT and conditioning, and takes them out again.

Letters: B batch, C channels, K keyframes, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ...ltx2_core.conditioning.slots import check_keyframes
from ...ltx2_core.media import fit_image
from ...ltx2_core.shapes import SPATIAL_SCALE, frames_of
from ..convert import Streams, frames_from_image, image_from_frames, split, video_of
from ..host.guides import guide_frames_of
from ..host.latents import Latent
from ..host.masks import frame_mask
from ..host.slots import INDICES, NUM_FRAMES, guided_frames, slots_of, with_slots, without_slots
from ..host.values import Conditioning, Vae
from ..host.video_vae import checked_video_vae
from .attached import marked_guides

PRESERVED = 1 - 1e-4
"""Latent frames with a noise mask below this number have content already, such as an image put in place."""


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


def occupied(positive: Conditioning, latent: Latent) -> set[int]:
    """The numbers of the pixel frames that already have an image put in place, a guide or a keyframe.

    Images are told from the noise mask of the LATENT; guides, and keyframes that the model generates itself
    next to the clip, from ``positive``.
    """
    video = video_of(latent)
    samples = video["samples"]
    own = frame_mask(video)[:, :, : samples.shape[2] - guide_frames_of(positive, samples)]
    lowest = own.amin(dim=(0, 1, 3, 4)).tolist()
    preserved = {
        frame
        for number, value in enumerate(lowest)
        if value < PRESERVED
        # Latent frame 0 stands for one pixel frame, each later one for eight.
        for frame in range(max(0, frames_of(number)), frames_of(number + 1))
    }
    return preserved | guided_frames(positive)


def attach_keyframes(
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
    frames: Sequence[int],
    initial: Tensor | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Append keyframes to generate at the pixel frames ``frames`` to the LATENT and to both conditionings.

    ``initial`` (B, C, K, H, W) are their latents before sampling, None for zeros. Raises ValueError for
    frames outside the clip, out of order, or before keyframes that are there, and for ``initial`` of another
    size.
    """
    video = video_of(latent)
    samples = video["samples"]
    guides = guide_frames_of(positive, samples)
    _check(frames, frames_of(samples.shape[2] - guides), positive)
    joined = Streams(_appended(video, _initial(initial, len(frames), samples)), split(latent).audio).joined()
    return (
        with_slots(positive, frames, samples, guides),
        with_slots(negative, frames, samples, guides),
        marked_guides(joined, guides + len(frames)),
    )


def take_keyframes(
    positive: Conditioning, negative: Conditioning, latent: Latent, *, batch: bool
) -> tuple[Conditioning, Conditioning, Latent, Latent]:
    """Take generated keyframes out of a sampled LATENT and of both conditionings.

    Returns both conditionings, the LATENT without keyframes, and a LATENT of the keyframes: (B, C, K, H, W),
    or with ``batch`` as a batch of clips of one frame. Raises ValueError if the conditioning describes no
    generated keyframes, or if they were added to a latent of another size.
    """
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
    keyframes = {
        "samples": rearrange(own, "b c k h w -> (b k) c 1 h w") if batch else own,
        INDICES: [*slots["frame_indices"]],
        NUM_FRAMES: slots["num_pixel_frames"],
    }
    joined = Streams(rest, split(latent).audio).joined()
    return (
        without_slots(positive, clip),
        without_slots(negative, clip),
        marked_guides(joined, guides - slots["num_keyframes"]),
        keyframes,
    )


def _check(frames: Sequence[int], clip: int, positive: Conditioning) -> None:
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


def each_keyframe(keyframes: Latent, count: int) -> tuple[Tensor, ...]:
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


def encoded_at(video_vae: Vae, keyframe: Tensor, samples: Tensor) -> Tensor:
    """Bring the latent of a keyframe to the rows and columns of ``samples`` (B, C, F, H, W).

    The first keyframe of the batch ``keyframe`` (B, C, 1, h, w) is decoded, scaled as an image, and encoded
    again: (1, C, 1, H, W).
    """
    rows, columns = (SPATIAL_SCALE * size for size in samples.shape[3:])
    image = checked_video_vae(video_vae).decode(keyframe[:1])
    frames = frames_from_image(image.reshape(-1, *image.shape[-3:])[:1])
    encoded: Tensor = video_vae.encode(image_from_frames(fit_image(frames, columns, rows, mode="comfy")))
    return encoded
