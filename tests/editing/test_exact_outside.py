"""With exact_outside the packets of unchanged GOPs are the source's, and the file plays as a whole."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.editing import Footage, extend, retake
from ltx2_core.media import read_video
from ltx2_core.media.h264 import Parameters
from ltx2_core.types import Numerics

QUICK = {"steps": 1, "cfg": 1.0, "seed": 3}
FPS, COUNT, GOP = 10, 49, 12


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, keep_loaded=True)


def write(
    path: Path, *, codec="libx264", pix_fmt="yuv420p", size=(96, 54), times=None, options=None, count=COUNT
) -> Path:
    noise = np.random.default_rng(1).integers(0, 255, (size[1] // 2 + 1, size[0] // 2 + 1, 3), np.uint8)
    noise = noise.repeat(2, 0).repeat(2, 1)[: size[1], : size[0]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": str(GOP), **(options or {})})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            pixels = np.ascontiguousarray(np.roll(noise, 2 * number, 1))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            time = number / FPS if times is None else times[number]
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def assert_copied(source: Path, saved: Path, outside: list[int]) -> None:
    """The saved file has these packets as they are, and keyframes of its own for the other GOPs."""
    before, after = packets(source), packets(saved)
    assert [after[number] for number in outside] == [before[number] for number in outside]
    for start in set(range(0, min(len(before), len(after)), GOP)) - set(outside):
        assert after[start] != before[start]


def assert_plays(saved: Path, expected: torch.Tensor, outside: list[int]) -> None:
    """Every frame decodes at its time, and those outside are the source's bit for bit."""
    clip = read_video(saved)
    assert (clip.fps, clip.notes) == (FPS, ())
    frames = clip.read()
    assert torch.equal(frames[outside], expected[outside])
    for first in (0, 11, 12, 23, 24, 25, 40, len(frames) - 1):
        assert torch.equal(clip.read(first, 1)[0], frames[first])
    with av.open(str(saved)) as container:
        dts = [packet.dts for packet in container.demux(container.streams.video[0]) if packet.size]
    assert dts == sorted(set(dts))


@pytest.mark.parametrize(
    ("suffix", "options", "pix_fmt"),
    [
        ("mp4", {"bf": "0"}, "yuv420p"),
        ("mp4", {"bf": "3"}, "yuv444p"),
        ("mov", {"bf": "2", "profile": "main"}, "yuv420p"),
        ("mkv", {"bf": "0", "profile": "baseline"}, "yuv420p"),
        ("mkv", {"bf": "3"}, "yuv420p10le"),
    ],
)
def test_a_retake_copies_the_other_gops(pipeline, tmp_path, suffix, options, pix_fmt):
    path = write(tmp_path / f"a.{suffix}", options=options, pix_fmt=pix_fmt)
    saved, source = tmp_path / "out.mp4", Footage.read(path)
    edit = retake(pipeline, "x", source, video=[(2.5, 3.0)], exact_outside=True, **QUICK)
    edit.save(saved, crf=0)
    # Seconds 2.5 to 3 are frames 25 to 32, in the GOP from 24 to 35.
    outside = [*range(24), *range(36, COUNT)]
    assert_copied(path, saved, [*outside])
    assert_plays(saved, source.frames[:], outside)
    # Compared where chroma is not halved: as close as a crf of 1 brings them.
    if pix_fmt == "yuv444p":
        new = edit.frames().clamp(-1, 1)
        assert (read_video(saved).read()[24:36] * 2 - 1 - new[24:36]).abs().mean() < 0.02
    assert edit.frame_count == COUNT


def test_several_regions_and_regions_at_the_ends(pipeline, tmp_path):
    path = write(tmp_path / "a.mp4", options={"bf": "2"})
    source, saved = Footage.read(path), tmp_path / "out.mp4"
    regions = [(0, 0.2), (1.3, 1.4), (4.6, 4.7)]
    retake(pipeline, "x", source, video=regions, exact_outside=True, **QUICK).save(saved)
    outside = [*range(24, 36)]
    assert_copied(path, saved, [*outside])
    assert_plays(saved, source.frames[:], outside)


@pytest.mark.parametrize(("fade", "outside"), [(4, range(36)), (0, range(49))])
def test_an_extension_copies_what_is_before_the_joint(pipeline, tmp_path, fade, outside):
    path = write(tmp_path / "a.mp4", options={"bf": "2"})
    source, saved = Footage.read(path), tmp_path / "out.mp4"
    edit = extend(
        pipeline, "x", source, frames=9, keep_frames=9, fade_frames=fade, exact_outside=True, **QUICK
    )
    edit.save(saved)
    assert_copied(path, saved, [*outside])
    assert_plays(saved, source.frames[:], [*outside])
    assert read_video(saved).frame_count == COUNT + 9


def test_a_retake_of_the_audio_alone_copies_everything(pipeline, tmp_path):
    path = write(tmp_path / "a.mp4")
    saved = tmp_path / "out.mp4"
    retake(pipeline, "x", Footage.read(path), audio=[(1, 2)], exact_outside=True, **QUICK).save(saved)
    assert packets(saved) == packets(path)
    assert read_video(saved).has_audio


def test_an_open_gop_is_not_cut(pipeline, tmp_path):
    options = {"bf": "2", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}
    path = write(tmp_path / "a.mp4", options=options)
    source, saved = Footage.read(path), tmp_path / "out.mp4"
    retake(pipeline, "x", source, video=[(2.5, 3.0)], exact_outside=True, **QUICK).save(saved)
    frames = read_video(saved).read()
    assert len(frames) == COUNT
    assert (frames[40:] - source.frames[40:]).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("name", "how", "reason"),
    [
        ("a.mp4", {"codec": "libx265"}, "holds hevc video"),
        ("a.webm", {"codec": "libvpx-vp9"}, "holds vp9 video"),
        ("a.ts", {}, "another way than MP4"),
        ("a.mp4", {"times": [n / 10 + (0.3 if n > 20 else 0) for n in range(2 * GOP)]}, "resampled"),
        ("a.mkv", {"pix_fmt": "yuv444p", "codec": "ffv1"}, "holds ffv1 video"),
    ],
)
def test_what_cannot_be_copied_is_refused_before_work(tmp_path, name, how, reason):
    source = Footage.read(write(tmp_path / name, count=2 * GOP, **how))

    class NoWork:
        numerics = Numerics.OFFICIAL

        def __getattr__(self, name):
            raise AssertionError("nothing may be computed")

    for edit, options in ((retake, {"video": [(1, 2)]}), (extend, {"frames": 8})):
        with pytest.raises(ValueError, match=f"--exact-outside copies packets, and .*{reason}"):
            edit(NoWork(), "x", source, exact_outside=True, **options)


def test_a_source_in_memory_has_no_packets():

    class Idle:
        numerics = Numerics.OFFICIAL

    with pytest.raises(ValueError, match="whole video file"):
        retake(
            Idle(),
            "x",
            Footage(frames=torch.zeros(9, 3, 64, 64), fps=8),
            video=[(0, 0.5)],
            audio=[(0, 1)],
            exact_outside=True,
        )


@pytest.mark.parametrize("data", [None, b"", b"\0\0\0\1", b"\1" * 6, b"\1\x64\0\x1e\xff\xe1\0\xff"])
def test_a_damaged_record_of_parameters_is_none(data):
    assert Parameters.read(data) is None or not Parameters.read(data).sps[0][4:]
