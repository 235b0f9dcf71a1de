"""Helpers for a training step: copies of tensors to its device, noise that a seed fixes, and PSNR."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to ``device``; on CUDA the copy is asynchronous, from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise, float32, of the shape and device of ``tensor``, fixed by a CPU ``generator``.

    On another device ``generator`` only draws the seed of a generator there, so the numbers differ from those
    of the CPU.
    """
    if tensor.device.type == "cpu":
        return torch.randn(tensor.shape, generator=generator)
    # One number from the CPU, so that the run's generator advances equally on every device.
    seed = int(torch.randint(1 << 62, (), generator=generator))
    on_device = torch.Generator(tensor.device).manual_seed(seed)
    return torch.randn(tensor.shape, generator=on_device, device=tensor.device)


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of clips (B, ...), clamped to [-1, 1], against ``truth``."""
    error = (frames.float().clamp(-1, 1) - truth).square().flatten(1).mean(1)
    # Frames have a range of 2, whose square is the peak.
    return 10 * torch.log10(4 / error.clamp(min=1e-10))
