"""Batches of the synthetic world, drawn from a generator; some seeds are kept for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .world import render_audio, render_frames, sample_scene

HELD_OUT = 1 << 31
"""Scene seeds from here on are for evaluation only."""


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """How many clips of which size; a batch has one size."""

    batch: int
    frames: int
    width: int
    height: int


def draw_seeds(generator: torch.Generator, count: int) -> list[int]:
    """Scene seeds below ``HELD_OUT``."""
    return [int(seed) for seed in torch.randint(HELD_OUT, (count,), generator=generator)]


def draw(options: Sequence[ClipSize], generator: torch.Generator) -> ClipSize:
    """One of the sizes, all equally likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def video_batch(
    seeds: Sequence[int], *, frames: int, width: int, height: int, device: torch.device | None = None
) -> Tensor:
    """Frames (B, 3, F, H, W) float32 in [-1, 1] of the scenes with these seeds, on ``device``."""
    clips = [render_frames(sample_scene(seed), frames, width, height, device) for seed in seeds]
    return torch.stack(clips).movedim(1, 2)


def audio_batch(seeds: Sequence[int], *, seconds: float, sample_rate: int) -> Tensor:
    """Waveforms (B, 2, S) float32 in [-1, 1] of the scenes with these seeds."""
    return torch.stack([render_audio(sample_scene(seed), seconds, sample_rate) for seed in seeds])


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Peak signal to noise (B,) in dB of clips (B, ...) in [-1, 1]; what exceeds the range is clipped."""
    error = (frames.float().clamp(-1, 1) - truth).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on ``device``, without waiting for what is being computed there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers drawn where ``tensor`` is, from a ``generator`` of the CPU."""
    if tensor.device.type == "cpu":
        return torch.randn(tensor.shape, generator=generator)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    there = torch.Generator(tensor.device).manual_seed(seed)
    return torch.randn(tensor.shape, generator=there, device=tensor.device)
