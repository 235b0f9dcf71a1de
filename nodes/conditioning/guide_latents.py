"""Appends guides to the video of a LATENT and to the conditioning, and removes them again.

Letters: G guide tokens, N masks, H W pixel rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ltx2_core.conditioning.guide_frames import GuideFrames, dilate
from ...ltx2_core.conditioning.guides import GuidePlacement, place_guide
from ...ltx2_core.media import fit_image
from ...ltx2_core.shapes import SPATIAL_SCALE
from ..convert import Streams, frames_from_image, image_from_frames, split, video_of
from ..host.guides import Entry, guide_frames_of, with_guide, without_guides
from ..host.latents import Latent
from ..host.masks import frame_mask
from ..host.values import Conditioning, Vae
from ..host.video_vae import checked_video_vae
from .attached import AttachedGuide, marked_guides, remember


def add_guide(
    positive: Conditioning, negative: Conditioning, video_vae: Vae, latent: Latent, guide: AttachedGuide
) -> tuple[Conditioning, Conditioning, Latent, str]:
    """Encode a guide (an image or clip that the video follows), and append it to LATENT and conditionings.

    Returns both conditionings, the LATENT, and a line that says which frames are used. Raises ValueError if
    the latent's rows or columns cannot be divided by the guide's ``downscale``, or if the guide is too long.
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
    # The LoRA was trained with every n-th frame of its reference.
    guide_image = guide.image[:: guide.every]
    placed = place_guide(len(guide_image), guide.frame, samples.shape[2] - before)
    encoded = placed.latent(
        checked_video_vae(video_vae).encode(_pixels(guide_image, placed, rows // scale, columns // scale))
    )
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
    """Append an encoded guide to the video of a LATENT and to both conditionings, which are returned.

    ``mask`` (masks, height, width), in [0, 1] and in pixels, multiplies the attention to parts of the guide;
    None weights all parts alike. One mask serves all frames of the guide. Of several, the first is for the
    guide's first latent frame, and the rest are divided evenly among its later ones.
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
    """Remove all guides from the video of a LATENT and from both conditionings, which are returned.

    The LATENT always gets a noise mask. Without guides the conditionings are returned unchanged.
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
    """Take the frames of ``image`` that ``placed`` uses, and scale and crop them to the size of the guide.

    ``image`` and the result are IMAGEs (frames, height, width, 3). ``rows`` and ``columns`` are the height
    and width of the result in latent cells of 32 pixels.
    """
    # With the doubled first frame of a clip inside the video, which core's Add Guide has and most other guide
    # nodes lack: their content is misaligned by up to seven frames.
    frames = placed.frames_to_encode(frames_from_image(image))
    return image_from_frames(fit_image(frames, columns * SPATIAL_SCALE, rows * SPATIAL_SCALE, mode="comfy"))


def _coordinates(guide: GuideFrames, spread: Tensor) -> Tensor:
    """Coordinates (1, 3, tokens, 2) of a guide's tokens, as ComfyUI stores them.

    They are pixel frame, row and column, each as start and end (exclusive). ``spread`` is the guide's latent
    on the grid of the clip; only its size is read.
    """
    frames, rows, columns = spread.shape[2:]
    # At one frame a second these are frame numbers; the host divides them by the rate itself.
    return guide.positions(frames, rows, columns, fps=1.0).to(spread.device)


def _with_frames(video: Latent, guide: Tensor, keep: Tensor | None, strength: float) -> Latent:
    """Append the latent ``guide`` to the video LATENT in time; the guide's noise mask is 1 - ``strength``.

    ``keep`` (guide latent frames, rows, columns) is True where the guide has a token. Elsewhere a guide on a
    coarser grid than the clip has none, which a negative mask marks. None says that it has all tokens.
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
