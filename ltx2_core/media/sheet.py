"""Draws a contact sheet: an image with a row of frames for each clip, and a text above each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .atomic import replacing
from .video_in import read_video

WIDTH: Final = 192
"""Pixels of a frame's width."""
GAP: Final = 6
LINE: Final = 18
"""Pixels of the height of a line of words."""
FRAMES: Final = 5
"""Frames of a video in its row."""


def write_sheet(rows: Sequence[tuple[str, Tensor]], path: str | os.PathLike[str]) -> None:
    """Write a PNG file with one row for each (text, frames (N, 3, H, W) uint8).

    The text stands above the frames.
    """
    drawn = [_row(words, frames) for words, frames in rows]
    width = max(row.width for row in drawn)
    sheet = Image.new("RGB", (width, sum(row.height for row in drawn)), "white")
    top = 0
    for row in drawn:
        sheet.paste(row, (0, top))
        top += row.height
    with replacing(Path(path)) as temporary:
        sheet.save(temporary, format="PNG")


def some_frames(path: Path) -> Tensor:
    """Read up to ``FRAMES`` evenly spaced frames of a video file, from first to last: (N, 3, H, W) uint8.

    Raises ValueError if it cannot be read.
    """
    clip = read_video(path)
    count = min(FRAMES, clip.frame_count)
    wanted = [round(i * (clip.frame_count - 1) / max(1, count - 1)) for i in range(count)]
    return torch.stack([next(clip.frames(number, 1)) for number in wanted])


def _row(words: str, frames: Tensor) -> Image.Image:
    height = max(1, round(WIDTH * frames.shape[2] / frames.shape[3]))
    row = Image.new("RGB", (GAP + len(frames) * (WIDTH + GAP), LINE + height + 2 * GAP), "white")
    draw, font = ImageDraw.Draw(row), ImageFont.load_default()
    draw.text((GAP, GAP), _shortened(words, row.width - 2 * GAP, draw, font), fill="black", font=font)
    for index, frame in enumerate(rearrange(frames, "n c h w -> n h w c").numpy()):
        scaled = Image.fromarray(np.ascontiguousarray(frame)).resize((WIDTH, height))
        row.paste(scaled, (GAP + index * (WIDTH + GAP), LINE + GAP))
    return row


def _shortened(
    words: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """Put a text on one line, and cut its end off if it is wider than ``width`` pixels in this font.

    ``draw`` measures the text.
    """
    # The font that Pillow may fall back to has no other letters.
    line = " ".join(words.split()).encode("latin-1", "replace").decode("latin-1")
    while draw.textlength(line, font=font) > width:
        line = line[:-4] + "..." if line.endswith("...") else line[:-3] + "..."
    return line
