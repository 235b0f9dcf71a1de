"""Transparent video and images are laid over the colour that was asked for."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from PIL import Image

from ltx2_core.media import load_image, read_video

FORMATS = {
    "webm": ("libvpx-vp9", "yuva420p"),
    "vp8": ("libvpx", "yuva420p"),
    "mov": ("prores_ks", "yuva444p10le"),
    "mkv": ("ffv1", "yuva444p"),
}


def half_transparent() -> np.ndarray:
    pixels = np.full((48, 64, 4), 200, np.uint8)
    pixels[:, :32, 3], pixels[:, 32:, 3] = 0, 255
    return pixels


def write(path, codec, pix_fmt):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"auto-alt-ref": "0", "crf": "4", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for number in range(9):
            frame = av.VideoFrame.from_ndarray(half_transparent(), format="rgba").reformat(format=pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", [*FORMATS])
@pytest.mark.parametrize("background", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
def test_video(tmp_path, kind, background):
    path = write(tmp_path / f"a.{'webm' if kind == 'vp8' else kind}", *FORMATS[kind])
    clip = read_video(path, background=background)
    whole = clip.read()
    assert len(whole) == 9
    for frame in whole:
        torch.testing.assert_close(frame[:, 10, 4], torch.tensor(background), atol=0.03, rtol=0)
        torch.testing.assert_close(frame[:, 10, 60], torch.full((3,), 200 / 255), atol=0.03, rtol=0)
    assert torch.equal(clip.read(6, 2), whole[6:8])


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("background", [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_images(tmp_path, suffix, background):
    Image.fromarray(half_transparent()).save(tmp_path / f"a.{suffix}", lossless=True)
    image = load_image(tmp_path / f"a.{suffix}", background=background)[0]
    torch.testing.assert_close(image[:, 10, 4], torch.tensor(background), atol=0.01, rtol=0)
    torch.testing.assert_close(image[:, 10, 60], torch.full((3,), 200 / 255), atol=0.01, rtol=0)
