"""Images that 8 bits would clip are refused by name, and EXR output without its library before any work."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx2_core.media import Destination, Encoding, load_image, read_video
from ltx2_core.media.encoding import check_encoding


def _png(path: Path, chunk: bytes) -> Path:
    Image.new("RGB", (4, 4)).save(path)
    data, kind = path.read_bytes(), b"cICP"
    made = len(chunk).to_bytes(4, "big") + kind + chunk + zlib.crc32(kind + chunk).to_bytes(4, "big")
    path.write_bytes(data[:33] + made + data[33:])
    return path


def _float_tiff(path: Path) -> Path:
    Image.fromarray(np.full((4, 4), 2.5, np.float32)).save(path)
    return path


def _radiance(path: Path) -> Path:
    path.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\x80\x80\x80\x81")
    return path


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("c.tif", _float_tiff, "floating point"),
        ("d.hdr", _radiance, "HDR"),
        ("pq.png", lambda path: _png(path, bytes((9, 16, 0, 1))), "PQ"),
        ("hlg.png", lambda path: _png(path, bytes((9, 18, 0, 1))), "HLG"),
    ],
)
def test_an_8_bit_reader_refuses_an_hdr_image_by_name(tmp_path, name, write, words):
    path = write(tmp_path / name)
    with pytest.raises(ValueError, match=words) as refused:
        load_image(path)
    assert name in str(refused.value)


def test_an_image_that_states_standard_colours_is_read(tmp_path):
    assert load_image(_png(tmp_path / "a.png", bytes((1, 13, 0, 1)))).shape == (1, 3, 4, 4)


def test_an_image_in_memory_is_refused_above_its_white():
    assert load_image(Image.new("F", (4, 4), 255.0)).max() == 1
    with pytest.raises(ValueError, match="above 255"):
        load_image(Image.new("F", (4, 4), 300.0))


def test_the_video_reader_refuses_frames_of_linear_light(tmp_path):
    with pytest.raises(ValueError, match=r"a\.hdr"):
        read_video(_radiance(tmp_path / "a.hdr"))


@pytest.mark.parametrize("output", ["a.mp4", "a_%d.exr"])
def test_a_missing_library_is_named_before_any_work(monkeypatch, output):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ValueError, match="pip install OpenEXR"):
        check_encoding(Destination.of(output).format, Encoding(hdr="acescg"))
