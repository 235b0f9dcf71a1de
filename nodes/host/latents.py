"""Between the host's LATENT dicts and AVLatent; an AV latent is the host's nested tensor, video first.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ...ltx2_core.types import AVLatent

Latent = dict[str, Any]
GIVEN, GUIDE_FRAMES = "ltx2av_given", "ltx2av_guide_frames"
"""Further keys of a LATENT: what was put into its video, and (how many guide frames are at the end of it, all
of its frames)."""
AUDIO_ONLY = "ltx2av_sound_alone"
"""Further key of a LATENT whose video is only there because the host's model wants one."""


def concat_av(video: Latent, audio: Latent) -> Latent:
    """Join a video LATENT (B, C, F, H, W) and an audio LATENT (B, 8, T, 16) into one AV LATENT.

    If either has a noise mask, the other gets one of ones. Further keys are kept, first the audio's.
    """
    own = {key: video[key] for key in (GIVEN, GUIDE_FRAMES) if key in video}
    joined = {**video, **audio, **own, "samples": NestedTensor((video["samples"], audio["samples"]))}
    masks = video.get("noise_mask"), audio.get("noise_mask")
    joined.pop("noise_mask", None)
    if any(mask is not None for mask in masks):
        joined["noise_mask"] = NestedTensor(
            torch.ones_like(latent["samples"]) if mask is None else mask
            for mask, latent in zip(masks, (video, audio), strict=True)
        )
    return joined


def separate_av(latent: Latent) -> tuple[Latent, Latent]:
    """Split an AV LATENT into its video and its audio; both keep their mask and every other key.

    Raises ValueError if the latent is not an AV latent.
    """
    streams = _streams(latent["samples"])
    if len(streams) != 2:
        raise ValueError(
            f"an audio-video latent is needed; got a single latent of shape {tuple(streams[0].shape)}. "
            "Join video and audio first (Concat AV Latent)."
        )
    parts = tuple({**latent, "samples": stream} for stream in streams)
    mask = latent.get("noise_mask")
    if mask is not None:
        for part, one in zip(parts, mask.unbind(), strict=True):
            part["noise_mask"] = one
    return parts[0], parts[1]


def to_av(latent: Latent) -> AVLatent:
    """The samples of any LATENT: nested gives both streams, (B, C, F, H, W) video, (B, 8, T, 16) audio."""
    return _to_av(latent["samples"])


def mask_to_av(latent: Latent) -> AVLatent | None:
    """The noise masks of a LATENT, or None where it has none."""
    mask = latent.get("noise_mask")
    return None if mask is None else _to_av(mask)


def from_av(av: AVLatent, like: Latent | None = None) -> Latent:
    """A LATENT of ``av``, with the further keys of ``like``."""
    streams = [x for x in (av.video, av.audio) if x is not None]
    samples = NestedTensor(streams) if len(streams) == 2 else streams[0]
    return {**(like or {}), "samples": samples}


def _to_av(samples: Any) -> AVLatent:
    streams = _streams(samples)
    if len(streams) == 2:
        return AVLatent(streams[0], streams[1])
    (one,) = streams
    if one.ndim not in (4, 5):
        raise ValueError(
            f"a latent must be video (B, C, F, H, W) or audio (B, 8, T, 16); got {tuple(one.shape)}"
        )
    return AVLatent(one, None) if one.ndim == 5 else AVLatent(None, one)


def _streams(samples: Any) -> list[Tensor]:
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]
