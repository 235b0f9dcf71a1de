"""Guide frames as the host's conditioning describes them: extra latent frames at the end of the time axis.

Letters: B batch, F latent frames, H W latent rows and columns, N video tokens, G guide tokens at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

Entry = dict[str, Any]


@dataclass(frozen=True)
class GuideTokens:
    """``keep`` (N,) says which video tokens exist; ``coordinates`` (B, 3, G', 2) are of guide tokens kept."""

    keep: Tensor
    coordinates: Tensor
    surviving: tuple[int, ...]
    """How many of each entry's tokens are kept."""

    @property
    def count(self) -> int:
        return self.coordinates.shape[2]


def guide_tokens(
    keyframes: Tensor, mask: Tensor | None, entries: Sequence[Entry], tokens: int
) -> GuideTokens:
    """Read the host's guide conditioning.

    ``keyframes`` (B, 3, G, 2) are pixel frames, rows and columns of the last G of ``tokens``. Negative values
    in the denoise ``mask`` (B, C, F, H, W) mark holes of a guide that was spread over a finer grid.
    Raises ValueError if the entries do not account for every guide token.
    """
    if mask is None:
        keep = torch.ones(tokens, dtype=torch.bool, device=keyframes.device)
    else:
        keep = ~(rearrange(mask, "b c f h w -> b (f h w) c") < 0).any(dim=-1)[0]
    guides = keep[tokens - keyframes.shape[2] :]
    sizes = [entry["pre_filter_count"] for entry in entries]
    if entries and sum(sizes) != len(guides):
        raise ValueError(
            f"the conditioning describes {sum(sizes)} guide tokens but the latent has {len(guides)}: "
            "crop the guides of one stage before adding those of the next"
        )
    surviving = tuple(int(part.sum()) for part in guides.split(sizes)) if entries else ()
    return GuideTokens(keep, keyframes[:, :, guides], surviving)


def guide_attention(guides: GuideTokens, entries: Sequence[Entry], like: Tensor) -> Tensor | None:
    """Attention weights (1, N, N) of the tokens ``like`` (B, N, C), or None where every weight is 1.

    Only video to guide and guide to video are weighted; guides see each other fully.
    """
    weights = [
        _weights(entry, count, like) for entry, count in zip(entries, guides.surviving, strict=True) if count
    ]
    if not weights:
        return None
    tracked = torch.cat(weights)
    if bool((tracked == 1).all()):
        return None
    tokens = like.shape[1]
    start, end = tokens - guides.count, tokens - guides.count + len(tracked)
    mask = torch.ones(1, tokens, tokens, device=like.device)
    mask[:, :start, start:end] = tracked
    mask[:, start:end, :start] = tracked[:, None]
    return mask


def _weights(entry: Entry, count: int, like: Tensor) -> Tensor:
    """Weight of each of a guide's ``count`` tokens (count,)."""
    strength, pixels, shape = float(entry["strength"]), entry.get("pixel_mask"), entry.get("latent_shape")
    if pixels is None or shape is None:
        return torch.full((count,), strength, device=like.device)
    grid = mask_to_grid(pixels[:1].to(device=like.device, dtype=torch.float32), *shape)
    return grid[:count] * strength


def mask_to_grid(mask: Tensor, frames: int, height: int, width: int) -> Tensor:
    """Pixel mask (1, 1, F, H, W) in [0, 1] -> average per latent cell, flat.

    The first pixel frame is the first latent frame alone; the rest are averaged in equal groups, or repeated
    if there are fewer than latent frames.
    """
    small = F.interpolate(rearrange(mask, "1 1 f h w -> f 1 h w"), size=(height, width), mode="area")[:, 0]
    first, rest = small[:1], small[1:]
    if frames == 1:
        return first.flatten()
    if len(rest) == 0:
        return repeat(first, "1 h w -> (f h w)", f=frames)
    group = len(rest) // (frames - 1)
    if group:
        rest = rearrange(rest[: group * (frames - 1)], "(f g) h w -> f g h w", g=group).mean(dim=1)
    else:
        flat = rearrange(rest, "f h w -> (h w) 1 f")
        rest = rearrange(F.interpolate(flat, size=frames - 1), "(h w) 1 f -> f h w", h=height)
    return torch.cat((first, rest)).flatten()
