"""Reads and writes generated keyframes in ComfyUI's CONDITIONING and LATENT.

Generated keyframes are extra latent frames behind those of the video. The key ``generated_keyframes`` of both
conditionings describes them, in the form of ComfyUI's own nodes. Letters: B batch, C channels, F latent
frames, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import node_helpers
import torch
from torch import Tensor

from ...ltx2_core.conditioning.patchify import guide_positions
from .guides import Entry, Slots, guides_of
from .values import Conditioning

SLOTS = "generated_keyframes"
INDICES, NUM_FRAMES = "generated_keyframe_indices", "generated_keyframe_num_frames"
"""Keys of a LATENT of keyframes: their pixel frames, and the number of pixel frames of the clip."""


def slots_of(conditioning: Conditioning) -> Slots | None:
    """The description in a CONDITIONING of keyframes that LTX-2.5 generates next to a clip; None for none."""
    return next((e[1][SLOTS] for e in conditioning if e[1].get(SLOTS) is not None), None)


def with_slots(conditioning: Conditioning, frames: Sequence[int], video: Tensor, guides: int) -> Conditioning:
    """A copy of a CONDITIONING with more slots: keyframes that LTX-2.5 generates itself next to the clip.

    The pixel frames of the new slots are ``frames``. The CONDITIONING describes a slot by the coordinates and
    the number of its tokens. ``video`` (B, C, F, H, W) is the latent to whose end the caller appends the
    slots; its last ``guides`` latent frames are guides and earlier slots. Raises ValueError if guides were
    added after earlier slots.
    """
    _, _, first, height, width = video.shape
    slots, entries = slots_of(conditioning), _entries_of(conditioning)
    own = torch.cat([_coordinates(frame, height, width) for frame in frames], dim=2)
    before = guides_of(conditioning)
    coordinates = own if before is None else torch.cat((before, own.to(before)), dim=2)
    if slots is None:
        added = _slots(frames, first, 8 * (first - guides - 1) + 1, len(entries), height * width)
    elif slots["first_latent_frame"] + slots["num_keyframes"] != first:
        raise ValueError(
            "guides were added after the first generated keyframes: add all generated keyframes before, or "
            "all of them after the guides"
        )
    else:
        added = {
            **slots,
            "num_keyframes": slots["num_keyframes"] + len(frames),
            "frame_indices": [*slots["frame_indices"], *frames],
        }
    index = added["guide_entry_index"]
    entry: Entry = {
        "pre_filter_count": added["num_keyframes"] * height * width,
        "strength": 1.0,
        "pixel_mask": None,
        "latent_shape": [added["num_keyframes"], height, width],
    }
    # New lists and dicts, because other branches of the graph share the old ones.
    changed: Conditioning = node_helpers.conditioning_set_values(
        conditioning,
        {
            "keyframe_idxs": coordinates,
            "guide_attention_entries": [*entries[:index], entry, *entries[index + 1 :]],
            SLOTS: added,
        },
    )
    return changed


def without_slots(conditioning: Conditioning, clip_frames: int) -> Conditioning:
    """A copy of a CONDITIONING without its slots, keyframes that the model generates itself; guides stay.

    The CONDITIONING must have slots. ``clip_frames`` is the number of latent frames of the clip, without
    guides and slots.
    """
    slots, coordinates = slots_of(conditioning), guides_of(conditioning)
    assert slots is not None
    assert coordinates is not None
    cells = slots["tokens_per_frame"]
    start = (slots["first_latent_frame"] - clip_frames) * cells
    rest = torch.cat(
        (coordinates[:, :, :start], coordinates[:, :, start + slots["num_keyframes"] * cells :]), dim=2
    )
    index, entries = slots["guide_entry_index"], _entries_of(conditioning)
    left = [*entries[:index], *entries[index + 1 :]]
    changed: Conditioning = node_helpers.conditioning_set_values(
        conditioning,
        {
            # The host reads None like an absent key.
            "keyframe_idxs": rest if rest.shape[2] else None,
            "guide_attention_entries": left or None,
            SLOTS: None,
        },
    )
    return changed


def guided_frames(conditioning: Conditioning) -> set[int]:
    """The pixel frames for which a CONDITIONING has a guide, or a keyframe that the model generates."""
    coordinates = guides_of(conditioning)
    if coordinates is None:
        return set()
    spans = coordinates[0, 0].round().long().unique(dim=0).tolist()
    return {frame for start, stop in spans for frame in range(start, stop)}


def _entries_of(conditioning: Conditioning) -> list[Any]:
    entries = (e[1].get("guide_attention_entries") for e in conditioning)
    return list(next((one for one in entries if one), []))


def _slots(frames: Sequence[int], first: int, clip: int, index: int, cells: int) -> Slots:
    return {
        "first_latent_frame": first,
        "num_keyframes": len(frames),
        "frame_indices": [*frames],
        "num_pixel_frames": clip,
        "guide_entry_index": index,
        "tokens_per_frame": cells,
    }


def _coordinates(frame: int, height: int, width: int) -> Tensor:
    # At one frame a second these are frame numbers; the host divides them by the rate itself.
    return guide_positions(1, height, width, 1.0, frame=frame, single_frame=True)
