"""Subtitles, other languages, chapters and attachments survive wherever video packets are copied."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ltx2_core.formats import FORMATS
from ltx2_core.media import Encoding, read_video
from ltx2_core.media.destination import Destination
from ltx2_core.media.other_tracks import left_out
from ltx2_core.media.recut import plan_recut, write_recut
from ltx2_core.media.remux import copy_with_audio

FPS, COUNT, RATE = 10, 40, 48000
MS = Fraction(1, 1000)
CUES = {"subrip": ((b"one", 500), (b"two", 2000)), "mov_text": ((b"\0\3one", 500), (b"\0\3two", 2000))}
SOUND = torch.sin(torch.arange(RATE * COUNT // FPS) * 0.03)[None] * 0.2

pytestmark = pytest.mark.skipif(
    not hasattr(av.container.OutputContainer, "add_mux_stream"), reason="needs a PyAV that writes subtitles"
)


def write_tracks(path: Path, *, start_s: float = 0.0) -> Path:
    """Video, two languages, subtitles, two chapters, and in Matroska a font; all begin at ``start_s``."""
    codec = "subrip" if path.suffix == ".mkv" else "mov_text"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"g": "10", "bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        languages = [container.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        subtitles = container.add_mux_stream(codec)
        languages[1].metadata["language"], subtitles.metadata["language"] = "fre", "ger"
        if path.suffix == ".mkv":
            container.add_attachment("font.ttf", "font/ttf", b"1234")
        ends = ((0, 2000), (2000, 4000))
        container.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": MS, "metadata": {"title": f"part {n}"}}
                for n, (a, b) in enumerate(ends)
            ]
        )
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number, np.uint8))
            frame.pts, frame.time_base = round((number / FPS + start_s) * 1000), MS
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for stream in languages:
            block = av.AudioFrame.from_ndarray(SOUND.numpy(), "fltp", "mono")
            block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), round(start_s * RATE)
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE, frame_size=1024)
            for part in [*resampler.resample(block), *resampler.resample(None)]:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        for text, start in CUES[codec]:
            packet = av.Packet(text)
            packet.stream, packet.time_base = subtitles, MS
            packet.pts = packet.dts = start + round(1000 * start_s)
            packet.duration = 700
            container.mux(packet)
    return path


def tracks(path: Path) -> dict[str, list[str | None]]:
    with av.open(str(path)) as container:
        found: dict[str, list[str | None]] = {}
        for stream in container.streams:
            found.setdefault(stream.type, []).append(stream.metadata.get("language"))
        found["chapters"] = [one["metadata"].get("title") for one in container.chapters()]
    return found


def packets(path: Path, kind: str, number: int = 0) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        stream = [one for one in container.streams if one.type == kind][number]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


def assert_same(before: list[tuple[float, bytes]], after: list[tuple[float, bytes]], moved_s: float) -> None:
    assert [content for _, content in after] == [content for _, content in before]
    assert [at for at, _ in after] == pytest.approx([at - moved_s for at, _ in before], abs=2e-3)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
@pytest.mark.parametrize("start_s", [0.0, 0.4])
def test_added_audio_replaces_the_first_audio_and_keeps_the_rest(tmp_path, suffix, start_s):
    path, saved = write_tracks(tmp_path / f"a.{suffix}", start_s=start_s), tmp_path / f"o.{suffix}"
    origin_s = read_video(path).timeline.origin_s
    copy_with_audio(path, saved, SOUND * 0.5, RATE, origin_s=origin_s)
    before, kept = tracks(path), tracks(saved)
    assert len(kept["audio"]) == 2
    # MOV stores no language of this encoder.
    assert (kept["audio"][1], kept["subtitle"]) == (before["audio"][1], before["subtitle"])
    assert kept["chapters"] == ["part 0", "part 1"]
    assert kept.get("attachment", []) == before.get("attachment", [])
    assert_same(packets(path, "video"), packets(saved, "video"), origin_s)
    assert_same(packets(path, "audio", 1), packets(saved, "audio", 1), origin_s)
    # Players choose the first track, which is the new one.
    assert [content for _, content in packets(path, "audio")] != [c for _, c in packets(saved, "audio")]
    cues = [(at, text) for at, text in packets(saved, "subtitle") if len(text) > 2]
    assert_same([c for c in packets(path, "subtitle") if len(c[1]) > 2], cues, origin_s)
    assert left_out(path, FORMATS[suffix]) is None


def test_exact_outside_keeps_the_rest_too(tmp_path):
    path, saved = write_tracks(tmp_path / "a.mp4"), tmp_path / "o.mp4"
    clip = read_video(path)
    recut = plan_recut(clip, [(12, 18)], COUNT)
    frames = iter([clip.read() * 2 - 1])
    write_recut(recut, Destination.of(saved), frames, SOUND, RATE, metadata={}, encoding=Encoding())
    kept = tracks(saved)
    assert (kept["audio"], kept["subtitle"]) == (["und", "fre"], ["ger"])
    assert kept["chapters"] == ["part 0", "part 1"]
    assert_same(packets(path, "audio", 1), packets(saved, "audio", 1), 0)
    assert_same(packets(path, "subtitle"), packets(saved, "subtitle"), 0)


@pytest.mark.parametrize(
    ("suffix", "fmt", "named"),
    [
        ("mkv", "mp4", ["srt subtitle", "attachment"]),
        ("mp4", "mkv", ["mov_text subtitle"]),
        ("mkv", None, ["aac audio", "srt subtitle", "attachment", "chapters"]),
        ("mp4", None, ["aac audio", "mov_text subtitle", "chapters"]),
    ],
)
def test_what_a_new_file_will_not_hold_is_named(tmp_path, suffix, fmt, named):
    note = left_out(write_tracks(tmp_path / f"a.{suffix}"), None if fmt is None else FORMATS[fmt])
    assert note is not None
    names = note.rpartition(": ")[2].replace("subrip", "srt").split(", ")
    assert names == [name if " " not in name else f"{name} track" for name in named]
