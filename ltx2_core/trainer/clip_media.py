"""Reads all media of a clip that are encoded: frames, audio, references and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from .buckets import latent_mask
from .media_clips import AudioColumn, PlannedClip, read_clip_audio, read_frames, read_mask, read_reference


@dataclass(frozen=True, kw_only=True)
class ClipMedia:
    """The media of a clip by the names of its latents.

    ``frames`` are (N, 3, H, W) in [0, 1] of "video" and "reference_video"; ``audio`` (waveform (C, S), sample
    rate) of "audio", "reference_audio" and "audio_mask". ``video_mask`` is in latent cells, None without one.
    """

    frames: dict[str, Tensor]
    audio: dict[str, tuple[Tensor, int]]
    video_mask: Tensor | None = None


def read_media(clip: PlannedClip, space: int, time: int, *, official: bool = False) -> ClipMedia:
    """Read and cut the media of a clip, whose reference is smaller by ``space`` and slower by ``time``.

    ``official`` groups masks as the official trainer does. Raises ValueError for files that cannot be read or
    are too short.
    """
    frames: dict[str, Tensor] = {}
    mask = None
    if clip.bucket is not None:
        frames["video"] = read_frames(clip)
        if clip.row.reference_video is not None:
            frames["reference_video"] = read_reference(clip, space, time)
        if clip.row.video_mask is not None:
            mask = latent_mask(read_mask(clip, official=official), official=official)
    columns = ["audio"] if clip.audio_s is not None else []
    for name in ("reference_audio", "audio_mask"):
        if columns and name in clip.row.files:
            columns.append(name)
    audio = {name: read_clip_audio(clip, cast("AudioColumn", name)) for name in columns}
    return ClipMedia(frames=frames, audio=audio, video_mask=mask)
