"""Commands that edit a clip, and the clip that they edit, for tests of what every command does."""

from __future__ import annotations

from pathlib import Path

import torch

from ltx2_core.media import VideoWriter

EXTEND = ["extend", "--video", "CLIP", "--prompt", "a ball", "--frames", "4", "--keep-frames", "9"]
RETAKE = ["retake", "--video", "CLIP", "--prompt", "a ball", "--video-region", "1-1.5"]
"""``CLIP`` stands for the path of the clip."""


def write_source(path: Path, *, frames: int = 17) -> Path:
    """Write noise of 64x64 at 8 fps with a tone of the same length, and return the path."""
    with VideoWriter(path, width=64, height=64, fps=8, sample_rate=48000) as writer:
        writer.write_audio(0.2 * torch.sin(torch.arange(frames * 6000) / 20)[None])
        writer.write_frames(torch.rand(frames, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    return path
