"""Reads and writes guides in ComfyUI's CONDITIONING: extra latent frames at the end of a video latent.

Letters: B batch, F latent frames, H W latent rows and columns, N video tokens, G guide tokens at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import node_helpers
import torch
from einops import rearrange
from torch import Tensor

from ...ltx2_core.conditioning.masks import mask_to_grid
from ...ltx2_core.transformer import GuideWeights
from .values import Conditioning


class _Entry(TypedDict):
    pre_filter_count: int
    strength: float


class Entry(_Entry, total=False):
    """One guide in the list ``guide_attention_entries`` of a CONDITIONING: its tokens and their weight.

    ``pre_filter_count`` is the number of its tokens; it includes holes, the cells of the latent that a guide
    on a coarser grid leaves empty. ``strength`` is its attention weight: 0 is none, 1 plain attention.
    ``pixel_mask`` (1, 1, frames, height, width), in pixels, multiplies that weight for parts of the guide;
    None weights all parts alike. ``latent_shape`` is the guide's size [latent frames, rows, columns].
    """

    pixel_mask: Tensor | None
    latent_shape: list[int] | None


class Slots(TypedDict):
    """The value ``generated_keyframes`` of a CONDITIONING: slots, keyframes that LTX-2.5 generates itself.

    Each slot is a latent frame that stands for one pixel frame, instead of eight. They are the
    ``num_keyframes`` latent frames of the video from index ``first_latent_frame`` on, with
    ``tokens_per_frame`` tokens (latent rows x columns) each. ``frame_indices`` are their pixel frames in a
    clip of ``num_pixel_frames``; ``guide_entry_index`` is the number, from 0, of their common entry in the
    list of guides.
    """

    first_latent_frame: int
    num_keyframes: int
    frame_indices: list[int]
    num_pixel_frames: int
    guide_entry_index: int
    tokens_per_frame: int


@dataclass(frozen=True)
class GuideTokens:
    """Which tokens of a video exist, and where its guide tokens, the last ones, lie in the clip.

    A guide on a coarser grid than the clip leaves holes, cells of the latent for which no token exists.
    ``keep`` (cells of the video's latent,) is False for holes. ``coordinates`` (B, 3, existing guide tokens,
    2) are pixel frame, row and column, each as start and end (exclusive). ``surviving`` has the number of
    existing tokens of each guide.
    """

    keep: Tensor
    coordinates: Tensor
    surviving: tuple[int, ...]
    """How many tokens of each entry exist."""
    attention: GuideWeights | None
    """The weights of attention between the video and its guides; None if every weight is 1."""
    entries: Sequence[Entry] = ()
    """Held, so that no other list gets their identity."""
    _present: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def present(self, device: torch.device) -> Tensor:
        """The numbers (tokens,) of the cells that have a token, on ``device``.

        Numbers and no flags, whose number a GPU would have to be asked for in every step.
        """
        if device not in self._present:
            self._present[device] = self.keep.nonzero().flatten().to(device)
        return self._present[device]

    @property
    def count(self) -> int:
        """The number of guide tokens that exist, without holes."""
        return self.coordinates.shape[2]


def guide_tokens(
    keyframes: Tensor, mask: Tensor | None, entries: Sequence[Entry], tokens: int
) -> GuideTokens:
    """Find the guide tokens that exist in a latent, from ComfyUI's conditioning of guides.

    ``keyframes`` (B, 3, guide tokens, 2) are pixel frame, row and column, each as start and end (exclusive),
    of the last of the video's ``tokens`` tokens. Negative values in the denoise ``mask`` (B, C, F, H, W) mark
    holes, tokens that a guide on a coarser grid does not have; without a mask every token exists. ``entries``
    describe the guides in their order. Raises ValueError if they do not account for every guide token.
    """
    if mask is None:
        keep = torch.ones(tokens, dtype=torch.bool, device=keyframes.device)
    else:
        # Guides are the same for the whole batch, so the first sample decides.
        keep = ~(rearrange(mask, "b c f h w -> b (f h w) c") < 0).any(dim=-1)[0]
    # Guides are appended at the end of the video, so their part of the mask is the last one.
    guides = keep[tokens - keyframes.shape[2] :]
    sizes = [entry["pre_filter_count"] for entry in entries]
    if entries and sum(sizes) != len(guides):
        raise ValueError(
            f"the conditioning describes {sum(sizes)} guide tokens but the latent has {len(guides)}: "
            "crop the guides of one stage before adding those of the next"
        )
    surviving = tuple(int(part.sum()) for part in guides.split(sizes)) if entries else ()
    attention = guide_attention(int(guides.sum()), surviving, entries)
    return GuideTokens(keep, keyframes[:, :, guides], surviving, attention, entries)


def single_frame_marks(video: Tensor, slots: Slots | None, guides: GuideTokens | None) -> Tensor:
    """Mark the tokens of a video latent (B, C, F, H, W) that stand for one pixel frame and not for eight.

    Returns (1, tokens, 1): 1 for tokens of the first latent frame and of keyframes that the model generates
    itself next to the clip (``slots``, None without any), 0 for all others. Cells that a guide on a coarser
    grid leaves empty, as ``guides`` say, have no token and are left out. Raises ValueError if the keyframes
    were added to a latent of another size.
    """
    _, _, frames, height, width = video.shape
    marks = torch.zeros(frames, height * width, 1, device=video.device)
    # The causal autoencoder maps the first latent frame to one pixel frame and each later one to eight.
    marks[0] = 1
    if slots is not None:
        if slots["tokens_per_frame"] != height * width:
            raise ValueError(
                f"the generated keyframes have {slots['tokens_per_frame']} tokens a latent frame and this "
                f"latent has {height * width}: separate them from the latent before it is upscaled"
            )
        marks[slots["first_latent_frame"] :][: slots["num_keyframes"]] = 1
    marks = marks.reshape(1, -1, 1)
    return marks if guides is None else marks[:, guides.present(marks.device)]


def guide_attention(tokens: int, surviving: Sequence[int], entries: Sequence[Entry]) -> GuideWeights | None:
    """Compute the attention weights between a video and its guides; None if every weight is 1.

    The guides have ``tokens`` tokens together. ``entries`` describe them in their order, and ``surviving``
    are the numbers of their tokens. Attention of guides to each other is not weighted, and
    neither is that of guide tokens at the end for which there is no entry.
    """
    # An entry without surviving tokens would leave an empty weight, which has no place in the attention.
    weights = [_weights(entry, count) for entry, count in zip(entries, surviving, strict=True) if count]
    untracked = tokens - sum(len(weight) for weight in weights)
    if untracked:
        # Guides of other packs may come without entries; their attention is plain.
        weights.append(torch.ones(untracked))
    # Guides attend to each other plainly, as in ComfyUI; the official pipelines block that.
    attention = GuideWeights(tuple(weights))
    return None if attention.plain else attention


def _weights(entry: Entry, count: int) -> Tensor:
    """Attention weights (``count``,) of one guide, which ``entry`` describes and which has ``count`` tokens.

    Holes, the cells that a guide on a coarser grid leaves empty, are not counted and have no weight.
    """
    strength, pixels, shape = float(entry["strength"]), entry.get("pixel_mask"), entry.get("latent_shape")
    if pixels is None or shape is None:
        return torch.full((count,), strength)
    frames, rows, columns = shape
    return mask_to_grid(pixels[0, 0].float(), frames, rows, columns).flatten()[:count] * strength


def guides_of(conditioning: Conditioning) -> Tensor | None:
    """Coordinates of the guide tokens that a CONDITIONING describes; None if it has no guides.

    They are (B, 3, guide tokens, 2): pixel frame, row and column, each as start and end (exclusive).
    """
    return next((e[1]["keyframe_idxs"] for e in conditioning if e[1].get("keyframe_idxs") is not None), None)


def guide_frames_of(conditioning: Conditioning, video: Tensor) -> int:
    """How many latent frames at the end of ``video``, a latent (B, C, F, H, W), are guides.

    ``conditioning`` describes the guides. Raises ValueError if they were made for a latent of another size.
    """
    keyframes = guides_of(conditioning)
    tokens, cells = (0 if keyframes is None else keyframes.shape[2]), video.shape[3] * video.shape[4]
    # Guide tokens must fill whole latent frames and leave at least one of the clip.
    if tokens % cells or tokens >= video[0, 0].numel():
        raise ValueError(
            f"the conditioning describes {tokens} guide tokens and the latent has {video.shape[2]} frames of "
            f"{cells}: they are from different stages. Connect the three outputs of one LTX-2 Add Guide, or "
            "move LTX-2 Crop Guides before the upscaler and use its conditioning from there on"
        )
    return tokens // cells


def with_guide(conditioning: Conditioning, coordinates: Tensor, entry: Entry) -> Conditioning:
    """A copy of a CONDITIONING with one more guide, which comes after those that it has.

    ``coordinates`` (1, 3, guide tokens, 2) are pixel frame, row and column of the guide's tokens, each as
    start and end (exclusive); ``entry`` has their number and attention weight.
    """
    before = guides_of(conditioning)
    entries: list[Entry] = next(
        (e[1]["guide_attention_entries"] for e in conditioning if e[1].get("guide_attention_entries")), []
    )
    extended: Conditioning = node_helpers.conditioning_set_values(
        conditioning,
        {
            # The host matches coordinates to tokens by order, so a further guide comes after earlier ones.
            "keyframe_idxs": coordinates if before is None else torch.cat((before, coordinates), dim=2),
            # A new list, because other branches of the graph share the old one.
            "guide_attention_entries": [*entries, entry],
        },
    )
    return extended


def without_guides(conditioning: Conditioning) -> Conditioning:
    """A copy of a CONDITIONING without guides and without keyframes that LTX-2.5 generates next to a clip.

    Both are extra latent frames at the end of the video.
    """
    plain: Conditioning = node_helpers.conditioning_set_values(
        conditioning,
        # The host reads None like an absent key, and set_values cannot remove keys.
        {"keyframe_idxs": None, "guide_attention_entries": None, "generated_keyframes": None},
    )
    return plain
