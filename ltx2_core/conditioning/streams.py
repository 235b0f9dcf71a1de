"""What conditioning items share: access to the latents of a state, and checks of latents put into them.

Letters: B batch, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..types import LatentState
from .masks import expand_mask


def video_and_mask(state: LatentState) -> tuple[Tensor, Tensor]:
    """The video latent of ``state`` (B, C, F, H, W) and its denoise mask (B, 1, F, H, W).

    Raises ValueError for a state without video.
    """
    mask = expand_mask(state.mask, state.latent).video
    if state.latent.video is None or mask is None:
        raise ValueError(
            "there is an input image or video but this state has no video: plan the clip with video"
        )
    return state.latent.video, mask


def with_video(state: LatentState, video: Tensor, mask: Tensor) -> LatentState:
    """A copy of ``state`` with ``video`` as its video latent and ``mask`` as the mask of that latent.

    The audio stays the same.
    """
    return replace(state, latent=replace(state.latent, video=video), mask=replace(state.mask, video=mask))


def inserted(whole: Tensor, part: Tensor, at: int) -> Tensor:
    """A copy of ``whole`` in which ``part`` replaces the latent frames from index ``at`` on.

    Both are latents or masks whose axis 2 is time. Raises ValueError if ``part`` reaches beyond the end of
    ``whole``.
    """
    end = at + part.shape[2]
    if end > whole.shape[2]:
        raise ValueError(
            f"the conditioning reaches to latent {end} and the clip has {whole.shape[2]}: "
            "use a shorter one, or plan a longer clip"
        )
    return torch.cat((whole[:, :, :at], part.to(whole), whole[:, :, end:]), dim=2)


def fit_batch(name: str, latent: Tensor, own: Tensor) -> Tensor:
    """Return ``latent`` with the dtype, device and batch size of ``own``; a batch of one is repeated.

    Raises ValueError for another number of axes or another batch size; the message calls the latent ``name``.
    """
    if latent.ndim != own.ndim or latent.shape[0] not in (1, own.shape[0]):
        raise ValueError(
            f"{name} of shape {tuple(latent.shape)} does not fit {tuple(own.shape)}: "
            f"use one sample or {own.shape[0]}"
        )
    return latent.to(own).expand(own.shape[0], *latent.shape[1:])


def check_grid(name: str, latent: Tensor, own: Tensor) -> None:
    """Raise ValueError if ``latent`` differs in channels, rows or columns from ``own``, the clip's latent.

    Both are video latents (B, C, F, H, W); the message calls ``latent`` by its ``name``.
    """
    if latent.shape[1] != own.shape[1] or latent.shape[3:] != own.shape[3:]:
        raise ValueError(
            f"{name} has {latent.shape[1]} channels on {latent.shape[3]}x{latent.shape[4]} cells and the "
            f"clip {own.shape[1]} on {own.shape[3]}x{own.shape[4]}: encode it at the size of this stage"
        )


def check_strength(strength: float) -> None:
    """Raise ValueError unless ``strength`` is a number from 0 to 1."""
    if not (math.isfinite(strength) and 0 <= strength <= 1):
        raise ValueError(f"strength={strength} must be in [0, 1]")
