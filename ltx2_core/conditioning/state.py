"""The latent state before any conditioning, and sampled latents without their guides.

Letters: B batch, F latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..shapes import ClipPlan
from ..types import AS_LTX2, AVLatent, LatentState, TimeRule
from .masks import mask_like


def empty_state(
    plan: ClipPlan,
    batch: int = 1,
    *,
    video: bool = True,
    audio: bool = True,
    device: torch.device | str | None = None,
    times: TimeRule = AS_LTX2,
) -> LatentState:
    """A state without conditioning: latents of zeros and a mask of ones (generate everything), in float32.

    ``plan`` is the size and length of the clip, ``batch`` the number of clips. ``video=False`` or
    ``audio=False`` leaves that stream out (None). ``device`` None is torch's default device. ``times`` are
    those of the model.
    """
    latent = AVLatent(
        torch.zeros(plan.video_shape(batch), device=device) if video else None,
        torch.zeros(plan.audio_shape(batch), device=device) if audio else None,
    )
    return LatentState(latent=latent, mask=mask_like(latent), fps=plan.fps, times=times)


def drop_guides(x: AVLatent, state: LatentState) -> AVLatent:
    """Return the latents ``x``, sampled from ``state``, without the guides at the end of their video.

    Guides are latent frames that ``state`` has appended to the clip: images, references, and keyframes that
    the model generates itself (LTX-2.5).
    """
    if x.video is None or not state.guides:
        return x
    return replace(x, video=x.video[:, :, : x.video.shape[2] - state.guide_frames])
