"""Latents to tokens and back, and the position of each token in seconds and pixels.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N tokens.

Positions are float32 intervals [start, end) on the CPU. They are computed there on purpose: CUDA divides by a
number through its reciprocal, and the top rotary frequency turns that one ulp of time into 1e-3 of output.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..shapes import (
    AUDIO_BINS,
    AUDIO_DOWNSAMPLE,
    AUDIO_HOP_LENGTH,
    AUDIO_SAMPLE_RATE,
    SPATIAL_SCALE,
    TEMPORAL_SCALE,
)
from ..types import AS_LTX2, TimeRule


def patchify_video(latent: Tensor) -> Tensor:
    """Convert a video latent (B, C, F, H, W) to tokens (B, F * H * W, C), ordered by frame, row, column."""
    return rearrange(latent, "b c f h w -> b (f h w) c")


def unpatchify_video(tokens: Tensor, frames: int, height: int, width: int) -> Tensor:
    """Convert video tokens (B, tokens, C) to a latent (B, C, ``frames``, ``height``, ``width``).

    Raises ValueError if the number of tokens is not their product.
    """
    _check_count(tokens, frames * height * width, f"a {frames}x{height}x{width} grid")
    return rearrange(tokens, "b (f h w) c -> b c f h w", f=frames, h=height, w=width)


def patchify_audio(latent: Tensor) -> Tensor:
    """Convert an audio latent (B, 8, T, 16) to tokens (B, T, 128); feature index = channel * 16 + mel bin."""
    # Channel-major, the order in which the released statistics and weights have the features.
    return rearrange(latent, "b c t m -> b t (c m)")


def unpatchify_audio(tokens: Tensor, bins: int = AUDIO_BINS) -> Tensor:
    """Convert audio tokens (B, T, 8 * ``bins``) to a latent (B, 8, T, ``bins``)."""
    return rearrange(tokens, "b t (c m) -> b c t m", m=bins)


def video_positions(
    frames: int, height: int, width: int, fps: float, batch: int = 1, *, times: TimeRule = AS_LTX2
) -> Tensor:
    """Positions (``batch``, 3, tokens, 2) of the tokens of a clip with ``frames`` latent frames.

    Each token has start and end (exclusive) of its time in seconds, its pixel rows and its pixel columns.
    ``height`` and ``width`` are latent rows and columns. The first latent frame stands for one pixel frame,
    every other one for eight, unless ``times`` of the model say otherwise. Raises ValueError if ``fps`` is
    not above 0.
    """
    spans = _steps(frames) * TEMPORAL_SCALE
    return _positions(
        _causal(spans) if times.causal else spans, height, width, fps=fps, batch=batch, times=times
    )


def guide_positions(
    frames: int,
    height: int,
    width: int,
    fps: float,
    *,
    frame: int,
    single_frame: bool | None = None,
    batch: int = 1,
    times: TimeRule = AS_LTX2,
    own_layout: bool = False,
) -> Tensor:
    """Positions (``batch``, 3, tokens, 2) of a guide latent that begins at pixel frame ``frame`` of the clip.

    Each token has start and end (exclusive) of its time in seconds, its pixel rows and its pixel columns.
    ``frames``, ``height`` and ``width`` are the latent frames, rows and columns of the guide, ``fps`` is the
    clip's frame rate. ``single_frame`` says that the latent was encoded from one image, so that its tokens
    cover one pixel frame; None means that this is so for a latent of one frame. A guide clip at frame 0 has
    the clip's own layout: its first latent frame covers one pixel frame. Elsewhere every latent frame covers
    eight, unless ``own_layout`` keeps that layout. ``times`` are those of the model.
    """
    spans = _steps(frames) * TEMPORAL_SCALE
    spans = (_causal(spans) if (frame == 0 or own_layout) and times.causal else spans) + frame
    if frames == 1 if single_frame is None else single_frame:
        # The end of a single image is one frame later, not eight.
        spans = torch.stack((spans[:, 0], spans[:, 0] + 1), dim=-1)
    return _positions(spans, height, width, fps=fps, batch=batch, times=times)


def reference_positions(
    frames: int,
    height: int,
    width: int,
    fps: float,
    *,
    time_scale: int = 1,
    space_scale: int = 1,
    batch: int = 1,
) -> Tensor:
    """Positions (``batch``, 3, tokens, 2) of a reference with fewer frames or pixels than the clip.

    Each token has start and end (exclusive) of its time in seconds, its pixel rows and its pixel columns in
    the clip. ``frames``, ``height`` and ``width`` are the latent frames, rows and columns of the reference.
    One reference frame stands for ``time_scale`` frames of the clip, one reference pixel for ``space_scale``
    pixels along each axis. ``fps`` is the clip's.
    """
    spans = _causal(_steps(frames) * TEMPORAL_SCALE)
    # A lower frame rate stretches the positions to the target's duration.
    positions = _positions(spans, height, width, fps=fps / time_scale, batch=batch)
    seconds, pixels = positions[:, :1], positions[:, 1:]
    # The first reference frame stands for the first target frame alone, so later ones move back.
    if time_scale != 1:
        seconds = (seconds - (time_scale - 1) / fps).clamp(min=0)
    return torch.cat((seconds, pixels * space_scale), dim=1)


def audio_positions(length: int, shift: int = 0, batch: int = 1) -> Tensor:
    """Positions (``batch``, 1, ``length``, 2) of audio latent frames: start and end (exclusive) in seconds.

    The first of them has index ``shift`` in the clip. Latent frame 0 stands for one mel frame, every later
    one for four; latent frame i begins at mel frame 4i - 3.
    """
    # The codec is causal: without this shift the audio would be 30 ms late against the video in attention.
    mel_frames = (_steps(length) + shift) * AUDIO_DOWNSAMPLE + (1 - AUDIO_DOWNSAMPLE)
    seconds = mel_frames.clamp(min=0) * AUDIO_HOP_LENGTH / AUDIO_SAMPLE_RATE
    return repeat(seconds, "t e -> b 1 t e", b=batch)


def _steps(count: int) -> Tensor:
    """The intervals [0, 1), [1, 2), ... as a float32 tensor (``count``, 2)."""
    # Float32, since half precision would shift the positions of a clip.
    start = torch.arange(count, dtype=torch.float32)
    return torch.stack((start, start + 1), dim=-1)


def _causal(spans: Tensor) -> Tensor:
    """Shift the pixel frames of latent frames so that the first latent frame covers one pixel frame.

    ``spans`` (latent frames, 2) are start and end (exclusive), 8 apart; they become 7 frames earlier, but not
    below 0.
    """
    # This is what headers call causal_temporal_positioning.
    return (spans + (1 - TEMPORAL_SCALE)).clamp(min=0)


def _positions(
    spans: Tensor,
    height: int,
    width: int,
    *,
    fps: float,
    batch: int,
    times: TimeRule = AS_LTX2,
) -> Tensor:
    """Positions (``batch``, 3, tokens, 2) of all tokens of latent frames whose pixel frames are ``spans``.

    ``spans`` (latent frames, 2) are start and end (exclusive); ``height`` and ``width`` are latent rows and
    columns. The result has start and end in seconds, pixel rows and pixel columns. Raises ValueError if
    ``fps`` is not above 0.
    """
    if fps <= 0:
        raise ValueError(f"fps must be above 0; got {fps}")
    # Rows and columns are in pixels, the unit of the largest positions in released headers.
    rows, columns = _steps(height) * SPATIAL_SCALE, _steps(width) * SPATIAL_SCALE
    frames = spans.shape[0]
    seconds = spans * (1 / fps) if times.reciprocal else spans / fps
    axes = (
        repeat(seconds, "f e -> b (f h w) e", b=batch, h=height, w=width),
        repeat(rows, "h e -> b (f h w) e", b=batch, f=frames, w=width),
        repeat(columns, "w e -> b (f h w) e", b=batch, f=frames, h=height),
    )
    return torch.stack(axes, dim=1)


def _check_count(tokens: Tensor, count: int, what: str) -> None:
    if tokens.shape[1] != count:
        raise ValueError(f"{what} has {count} tokens; got {tokens.shape[1]}. Remove guide tokens first.")
