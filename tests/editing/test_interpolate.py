"""Doubling the frame rate of any video: frames as in one piece, packets of audio copied, refusals."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.cli.repeat import settings_of
from ltx2_core.editing import Footage, interpolate
from ltx2_core.media import read_metadata, read_video
from ltx2_core.run import frame_rate
from ltx2_core.run.frame_rate import doubled_frames, doubled_pieces, open_temporal_upscaler


@pytest.fixture(scope="module")
def pipeline(tiny_set):
    return LTX2Pipeline(tiny_set.checkpoint, keep_loaded=True)


def movie(path: Path, *, frames: int = 20, size=(70, 50), fps=24, audio: str | None = "aac") -> Path:
    """A video of a moving ramp whose audio is a tone; ``audio`` is its codec."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=Fraction(fps), options={"crf": "10"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        track = None if audio is None else file.add_stream(audio, rate=48000, layout="mono")
        for number in range(frames):
            ramp = (np.add.outer(np.arange(size[1]), np.arange(size[0])) * 2 + 4 * number) % 256
            picture = np.repeat(ramp[..., None].astype(np.uint8), 3, axis=2)
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode(None))
        if track is not None:
            samples = np.sin(np.arange(48000 * frames // fps) * 0.05).astype(np.float32)[None] * 0.5
            plain = audio == "aac"
            block = av.AudioFrame.from_ndarray(
                samples if plain else (samples * 32767).astype(np.int16),
                format="fltp" if plain else "s16",
                layout="mono",
            )
            block.sample_rate = 48000
            file.mux(track.encode(block))
            file.mux(track.encode(None))
    return path


def packets(path: Path, kind: str = "audio") -> list[tuple[str, Fraction]]:
    """Digest and time in seconds of each packet of the first track of a kind."""
    with av.open(str(path)) as file:
        stream = getattr(file.streams, kind)[0]
        return [
            (hashlib.sha256(bytes(packet)).hexdigest(), packet.pts * packet.time_base)
            for packet in file.demux(stream)
            if packet.size
        ]


def ltx2(*arguments: str | Path):
    return CliRunner().invoke(main, ["interpolate", *map(str, arguments)])


@pytest.mark.parametrize("frames", [17, 20])
def test_the_result_is_that_of_the_padded_clip_in_one_piece(pipeline, temporal, tmp_path, frames):
    source = Footage.read(movie(tmp_path / "a.mp4", frames=frames))
    doubled = interpolate(pipeline, source, temporal)
    made = torch.cat([*doubled.frames()])
    assert made.shape == (2 * frames - 1, 3, 50, 70)
    padded = source.on_grid(doubled.clip).frames
    whole = torch.cat([*padded.split(8)])
    missing = doubled.clip.frames - frames
    whole = torch.cat((whole, whole[-1:].expand(missing, -1, -1, -1)))
    latent = pipeline.encode_video(whole)
    latent = doubled_frames(pipeline.networks, open_temporal_upscaler(temporal), latent)
    expected = torch.cat([*pipeline.decode_video(latent)])[: 2 * frames - 1, :, :50, :70]
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


def test_a_long_latent_is_doubled_in_windows_that_blend(monkeypatch):
    monkeypatch.setattr(frame_rate, "WINDOW", 12)
    monkeypatch.setattr(frame_rate, "SHARED", 6)
    monkeypatch.setattr(frame_rate, "BLENDED", 11)
    latent = torch.randn(1, 4, 31, 2, 2)
    seen = []

    def double(part):
        seen.append(part.shape[2])
        # Linear in time: what is between two frames is their mean, whatever else the window holds.
        twice = part.repeat_interleave(2, dim=2)[:, :, 1:]
        twice[:, :, 1::2] = (part[:, :, 1:] + part[:, :, :-1]) / 2
        return twice

    made = torch.cat([*doubled_pieces(double, latent.split(5, dim=2))], dim=2)
    torch.testing.assert_close(made, double(latent))
    assert max(seen[:-1]) == 12
    assert len(seen) > 3


def test_windows_blend_from_one_to_the_next_without_a_jump(monkeypatch):
    monkeypatch.setattr(frame_rate, "WINDOW", 12)
    monkeypatch.setattr(frame_rate, "SHARED", 6)
    monkeypatch.setattr(frame_rate, "BLENDED", 11)
    levels = iter(range(9))

    def double(part):
        return torch.full((1, 1, 2 * part.shape[2] - 1, 1, 1), float(next(levels)))

    made = torch.cat([*doubled_pieces(double, torch.zeros(1, 1, 30, 1, 1).split(7, dim=2))], dim=2).flatten()
    assert len(made) == 59
    assert made.diff().min() >= 0
    assert made.diff().max() < 0.5


@pytest.mark.parametrize(("name", "audio"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le"), ("a.mkv", None)])
def test_audio_is_copied_packet_by_packet(tiny_set, temporal, tmp_path, name, audio):
    source, out = movie(tmp_path / name, audio=audio), tmp_path / f"out{Path(name).suffix}"
    ran = ltx2(source, "--checkpoint", tiny_set.checkpoint, "--temporal-upscaler", temporal, "-q", "-o", out)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.strip() == str(out)
    clip = read_video(out)
    assert (clip.frame_count, clip.fps, clip.width, clip.height) == (39, 48.0, 70, 50)
    assert clip.has_audio == (audio is not None)
    if audio is not None:
        before, after = packets(source), packets(out)
        assert [one for one, _ in before] == [one for one, _ in after]
        assert max(abs(a - b) for (_, a), (_, b) in zip(before, after, strict=True)) < Fraction(1, 900)
    made = json.loads(read_metadata(out)["ltx2"])
    assert made["interpolate"] == {"fps": 48.0, "temporal_upscaler": "temporal.safetensors"}
    with pytest.raises(ValueError, match="made by ltx2 interpolate"):
        settings_of(out)


def test_frames_alone_need_no_audio(tiny_set, temporal, tmp_path):
    source = movie(tmp_path / "a.mp4", frames=9)
    ran = ltx2(source, "--temporal-upscaler", temporal, "-q", "-o", f"{tmp_path}/frames/")
    assert ran.exit_code == 0, ran.output
    assert len([*(tmp_path / "frames").glob("*.png")]) == 17


def test_a_dry_run_prints_the_plan_and_reads_no_weights(temporal, tmp_path):
    source = movie(tmp_path / "a.mp4")
    ran = ltx2(source, "--temporal-upscaler", temporal, "--dry-run", "-o", tmp_path / "b.mp4")
    assert ran.exit_code == 0, ran.output
    for part in (
        "source    ",
        "70x50, 20 frames at 24 fps",
        "39 frames at 48 fps; audio as it is",
        "encoded at 96x64, padded, and cut again",
        "memory    double: ",
        "peak      about ",
    ):
        assert part in ran.output
    assert not (tmp_path / "b.mp4").exists()


def test_what_cannot_be_done_is_refused_before_any_work(tiny_set, temporal, tmp_path, photo):
    source, one = movie(tmp_path / "a.mp4"), movie(tmp_path / "one.mp4", frames=1, audio=None)
    pcm, fast = (
        movie(tmp_path / "p.mkv", audio="pcm_s16le"),
        movie(tmp_path / "fast.mp4", fps=600, audio=None),
    )
    named = ["--temporal-upscaler", temporal]
    cases = (
        ([source], "Missing option '--temporal-upscaler'"),
        (named, "Missing option '--video'"),
        ([tmp_path / "no.mp4", *named], "no.mp4"),
        ([photo, *named], "the source has one frame"),
        ([one, *named], "the source has one frame"),
        ([source, "--temporal-upscaler", tiny_set.upsampler], "needs a temporal x2 one"),
        ([source, "--temporal-upscaler", tiny_set.checkpoint], "is no latent upscaler"),
        ([source, *named, "-o", tmp_path / "x.wav"], "audio alone"),
        ([pcm, *named, "-o", tmp_path / "x.webm"], "which is copied: name the output .mkv"),
        ([fast, *named, "-o", tmp_path / "x.mp4"], "fps"),
        ([source, *named, "-o", tmp_path / "none" / "x.mp4"], "folder"),
        ([source, *named, "--checkpoint", temporal], "video encoder"),
    )
    for arguments, words in cases:
        before = sorted(tmp_path.iterdir())
        output = [] if "-o" in arguments else ["-o", tmp_path / "x.mp4"]
        ran = ltx2(*arguments, *output)
        assert ran.exit_code == 2, (arguments, ran.output)
        assert words in ran.output, (words, ran.output)
        assert sorted(tmp_path.iterdir()) == before


def test_frames_that_ran_out_of_memory_end_the_run_and_not_the_clip(pipeline, monkeypatch):
    frames, calls = torch.rand(3, 8, 3, 64, 64), []

    def chunks():
        yield torch.rand(9, 3, 64, 64)
        for chunk in frames:
            calls.append(1)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield chunk

    with pytest.raises((torch.OutOfMemoryError, ValueError, RuntimeError), match="memory"):
        list(pipeline.encode_stream(chunks()))
