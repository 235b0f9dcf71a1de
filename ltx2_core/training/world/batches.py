"""Batches of clips of the synthetic world, by the seeds of their scenes; some are held out for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .render import render_frames
from .scene import sample_scene
from .waveform import render_audio

HELD_OUT = 1 << 31
"""Scene seeds from here on are never trained on."""

AUDIO_RATE = 16000
"""Samples per second of rendered audio; the audio autoencoder works at this rate."""


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """The clips of a batch: how many, how many frames, and width and height in pixels."""

    batch: int
    frames: int
    width: int
    height: int


def draw_seeds(generator: torch.Generator, count: int) -> list[int]:
    """Draw ``count`` scene seeds for training, all below 2**31; those from there on are for evaluation."""
    return [int(seed) for seed in torch.randint(HELD_OUT, (count,), generator=generator)]


def draw_size(sizes: Sequence[ClipSize], generator: torch.Generator) -> ClipSize:
    """Draw one of ``sizes``, all equally likely."""
    return sizes[int(torch.randint(len(sizes), (), generator=generator))]


def video_batch(
    seeds: Sequence[int], *, frames: int, width: int, height: int, device: torch.device | None = None
) -> Tensor:
    """Render the scenes of ``seeds``: frames (B, 3, F, H, W) float32 in [-1, 1] on ``device`` (None: CPU)."""
    clips = [render_frames(sample_scene(seed), frames, width, height, device) for seed in seeds]
    return torch.stack(clips).movedim(1, 2)


def audio_batch(seeds: Sequence[int], *, seconds: float, sample_rate: int) -> Tensor:
    """Render the audio of the scenes of ``seeds``: waveforms (B, 2, S) float32 in [-1, 1].

    S = round(seconds * sample_rate) samples.
    """
    return torch.stack([render_audio(sample_scene(seed), seconds, sample_rate) for seed in seeds])
