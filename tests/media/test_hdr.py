"""HDR video becomes SDR by the curve that is stated: flat fields of known light."""

from __future__ import annotations

import av
import numpy as np
import pytest

from ltx2_core.media import read_video
from ltx2_core.media.hdr import HLG, PQ, nits_to_pq, pq_to_nits

SIZE = (64, 48)


def write(path, rgb, curve, *, pix_fmt="yuv420p10le", full=False, codec="ffv1"):
    """A clip of one flat colour: ``rgb`` are the signals in [0, 1], BT.2020."""
    r, g, b = rgb
    y = 0.2627 * r + 0.6780 * g + 0.0593 * b
    u, v = (b - y) / 1.8814, (r - y) / 1.4746
    bits = 1023 if full else 876
    levels = [
        y * bits + (0 if full else 64),
        u * (1023 if full else 896) + 512,
        v * (1023 if full else 896) + 512,
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pix_fmt
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = curve, 9, 9
        context.color_range = 2 if full else 1
        for number in range(2):
            frame = av.VideoFrame(*SIZE, pix_fmt)
            for plane, level in zip(frame.planes, levels, strict=True):
                samples = np.full(plane.buffer_size // 2, round(level), np.uint16)
                plane.update(samples)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def colour_of(path) -> list[float]:
    frame = read_video(path).read()[0]
    assert (frame - frame[:, :1, :1]).abs().max() == 0
    return (frame[:, 0, 0] * 255).tolist()


def grey(nits: float) -> tuple[float, float, float]:
    return (float(nits_to_pq(nits)),) * 3


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("nits", "shown"), [(0, 0), (1, 28), (26, 108), (80, 173), (203, 231), (1000, 255), (4000, 255)]
)
def test_light_of_pq_is_shown_as_stated(tmp_path, nits, shown, full):
    path = write(tmp_path / "a.mkv", grey(nits), PQ, full=full)
    # Below the knee, a tenth of the peak, light is that of the source: (nits / 203) ** (1 / 2.4).
    assert colour_of(path) == pytest.approx([shown] * 3, abs=2)


def test_white_of_hlg_is_that_of_pq(tmp_path):
    assert colour_of(write(tmp_path / "a.mkv", (0.75,) * 3, HLG)) == pytest.approx([231] * 3, abs=2)
    assert colour_of(write(tmp_path / "b.mkv", (1.0,) * 3, HLG)) == pytest.approx([255] * 3, abs=1)
    assert colour_of(write(tmp_path / "c.mkv", (0.0,) * 3, HLG)) == pytest.approx([0] * 3, abs=1)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_primaries_of_bt709_stay_what_they_are(tmp_path, channel):
    # Columns of the matrix of BT.2087: a primary of BT.709 as light of BT.2020.
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    signal = tuple(float(nits_to_pq(80 * part)) for part in to_2020[:, channel])
    shown = colour_of(write(tmp_path / "a.mkv", signal, PQ, pix_fmt="yuv444p10le"))
    expected = [173 if index == channel else 0 for index in range(3)]
    # Small light is steep in the signal: 30 of 255 are 0.6 % of the light.
    assert shown == pytest.approx(expected, abs=30)
    assert shown[channel] == pytest.approx(173, abs=4)


def test_brighter_light_is_never_darker(tmp_path):
    shown = [
        colour_of(write(tmp_path / "a.mkv", grey(n), PQ))[0] for n in (0.1, 1, 10, 50, 100, 200, 400, 999)
    ]
    assert shown == sorted(set(shown))


@pytest.mark.parametrize(("curve", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_the_conversion_is_reported(tmp_path, curve, name):
    clip = read_video(write(tmp_path / "a.mp4", (0.5,) * 3, curve, codec="libx264"))
    assert [note for note in clip.notes if name in note and "BT.2390" in note and "203 nits" in note]


def test_pq_and_its_inverse_agree_with_the_standard():
    # SMPTE ST 2084: 100 nits are 0.508, 1000 nits 0.7518.
    assert nits_to_pq(np.array([100, 1000, 10000])) == pytest.approx([0.5081, 0.7518, 1], abs=1e-4)
    light = np.array([0.0, 0.01, 1, 203, 10000])
    assert pq_to_nits(nits_to_pq(light)) == pytest.approx(light, rel=1e-4, abs=1e-4)
