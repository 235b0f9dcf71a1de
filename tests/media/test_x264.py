"""Equal frames give an equal MP4, on every processor and at every width."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch

from ltx2_core.media import VideoWriter
from ltx2_core.media.x264 import repeatable_options

# Widths at which x264's AVX-512 code gave several files, and 128, at which it gave one.
WIDTHS = (32, 64, 96, 112, 128, 224)


@pytest.mark.parametrize("width", WIDTHS)
def test_equal_frames_give_equal_files(tmp_path: Path, width: int) -> None:
    frames = _moving_disc(width)
    assert len({_file_hash(tmp_path / f"{run}.mp4", frames) for run in range(12)}) == 1


def test_an_instruction_set_is_named_only_where_the_processor_has_a_wider_one() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or "flags" not in flags.read_text():
        pytest.skip("this system does not list the flags of its processor")
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags.read_text().split())
    assert repeatable_options() == ({"x264-params": "asm=avx2"} if wide else {})


def _moving_disc(width: int, height: int = 64, count: int = 40) -> torch.Tensor:
    """A noisy red disc that swings over blue, (N, 3, H, W) uint8."""
    noise = torch.randint(-6, 6, (count, 3, height, width), generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = width / 2 + width / 4 * torch.sin(torch.arange(count) / 5)
    inside = (x - centre[:, None, None]) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2
    red, blue = (torch.tensor(colour).view(1, 3, 1, 1) for colour in ((220, 40, 30), (0, 0, 200)))
    return (torch.where(inside[:, None], red, blue) + noise).clamp(0, 255).to(torch.uint8)


def _file_hash(path: Path, frames: torch.Tensor) -> str:
    with VideoWriter(path, width=frames.shape[3], height=frames.shape[2], fps=25) as writer:
        writer.write_frames(frames)
    return sha256(path.read_bytes()).hexdigest()
