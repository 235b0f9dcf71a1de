"""Thumbnails of results: a strip of frames, and the waveform of the audio below it."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ltx2_core.media import read_audio, read_video

COUNT, SIDE, WAVE = 5, 180, 90
DARK, BRIGHT = (24, 24, 28), (90, 210, 120)


def of_video(path: Path) -> Image.Image:
    """Five frames, evenly in time, above the waveform."""
    frames = read_video(path).read()
    chosen = frames[torch.linspace(0, len(frames) - 1, COUNT).round().long()]
    height = round(SIDE * chosen.shape[2] / chosen.shape[3])
    # Of one height, whatever the shape of the frames.
    wave = max(WAVE, SIDE + WAVE - height)
    strip = Image.new("RGB", (COUNT * SIDE, height + wave), DARK)
    for number, frame in enumerate(chosen):
        pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
        strip.paste(
            Image.fromarray(pixels).resize((SIDE, height), Image.Resampling.LANCZOS), (number * SIDE, 0)
        )
    _draw_wave(strip, read_audio(path)[0], height, wave)
    return strip


def of_audio(path: Path) -> Image.Image:
    """The waveform alone."""
    strip = Image.new("RGB", (COUNT * SIDE, SIDE + WAVE), DARK)
    _draw_wave(strip, read_audio(path)[0], 0, SIDE + WAVE)
    return strip


def _draw_wave(image: Image.Image, waveform: Tensor, top: int, height: int) -> None:
    """Draw the loudest sample of each column of pixels of ``waveform`` (channels, S)."""
    draw, middle = ImageDraw.Draw(image), top + height // 2
    levels = waveform.abs().amax(dim=0)
    levels = levels / levels.max().clamp_min(1e-6)
    for column, part in enumerate(levels.tensor_split(image.width)):
        if len(part):
            reach = round(float(part.max()) * (height // 2 - 6))
            draw.line((column, middle - reach, column, middle + reach), fill=BRIGHT)
