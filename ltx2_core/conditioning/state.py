"""The state before any conditioning, and the state of the next stage.

Letters: B batch, F latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..shapes import ClipPlan
from ..types import AVLatent, LatentState
from .masks import mask_like


def empty_state(
    plan: ClipPlan,
    batch: int = 1,
    *,
    video: bool = True,
    audio: bool = True,
    device: torch.device | str | None = None,
) -> LatentState:
    """Nothing given, everything to generate: zeros and a mask of ones, float32; a stream may be left out."""
    latent = AVLatent(
        torch.zeros(plan.video_shape(batch), device=device) if video else None,
        torch.zeros(plan.audio_shape(batch), device=device) if audio else None,
    )
    return LatentState(latent=latent, mask=mask_like(latent), fps=plan.fps)


def next_stage(state: LatentState, latent: AVLatent) -> LatentState:
    """Start again from ``latent``, such as an upsampled video with the audio of the stage before.

    The video is to be renewed whole: its conditioning items, guides too, are applied again at the new size.
    The audio keeps its mask, so audio that was given stays given. Raises ValueError if its length changed.
    """
    mask = mask_like(latent)
    if latent.audio is not None and state.latent.audio is not None:
        if latent.audio.shape[2] != state.latent.audio.shape[2]:
            raise ValueError(
                f"the audio has {latent.audio.shape[2]} latents and the stage before had "
                f"{state.latent.audio.shape[2]}: stages share their audio, keep its length"
            )
        mask = replace(mask, audio=state.mask.audio)
    return LatentState(latent=latent, mask=mask, fps=state.fps)


def drop_guides(x: AVLatent, state: LatentState) -> AVLatent:
    """``x`` without the guide frames that ``state`` has at the end of its video."""
    if x.video is None or not state.guides:
        return x
    return replace(x, video=x.video[:, :, : x.video.shape[2] - state.guide_frames])
