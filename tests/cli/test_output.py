"""What -o names is written by every command, or refused before a model is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from click.testing import CliRunner

from ltx2_core.cli.main import main
from ltx2_core.media import VideoWriter, read_audio, read_metadata, read_video
from ltx2_core.run import saved_latents as kept
from ltx2_core.run.pipeline import LTX2Pipeline

from .edits import EXTEND, RETAKE, write_source

QUICK = ["--steps", "1", "--cfg", "1", "--seed", "3", "-q"]
SIZE = ["--width", "64", "--height", "64", "--fps", "8"]
SMALL = [*SIZE, "--frames", "9", "--stages", "1", *QUICK]
COMMANDS = {
    "generate": ["generate", "--prompt", "a ball", *SMALL],
    "extend": [*EXTEND, *QUICK],
    "retake": [*RETAKE, *QUICK],
    "sound": ["sound", "--video", "CLIP", "--prompt", "a ball", *QUICK],
    "audio": ["sound", "--seconds", "1", "--prompt", "a ball", *QUICK],
    "long": ["long", "--prompts", "a ball", "--seconds", "2", "--window-frames", "17", *SIZE, *QUICK],
}
COMMANDS["long"] += ["--overlap-frames", "16"]
REFUSED = [
    (["-o", "o"], "no suffix"),
    (["-o", "o.avi"], ".avi"),
    (["-o", "o.png"], "o_%05d.png"),
    (["-o", "folder"], "is a folder"),
    (["-o", "full/"], "not empty"),
    (["-o", "pipe"], "is a pipe"),
    (["-o", os.devnull], "is a device"),
    (["-o", "none/o.mp4"], "create it"),
    (["-o", "o.mp4", "--container", "mkv"], "--container mkv"),
    (["-o", "o.mp4", "--audio-bitrate", "5"], "--audio-bitrate 5"),
    (["-o", "o.flac", "--audio-bitrate", "192k"], "--audio-bitrate 192k"),
]
OF_VIDEO = [
    (["-o", "o.mp4", "--video-codec", "prores"], "--video-codec prores"),
    (["-o", "o.webm", "--video-codec", "h264"], "--video-codec h264"),
    (["-o", "o.mp4", "--crf", "60"], "--crf 60"),
    (["-o", "o.gif", "--crf", "3"], "--crf 3"),
    (["-o", "o.gif", "--pixel-format", "yuv420p10"], "--pixel-format yuv420p10"),
    (["-o", "o.wav", "--video-codec", "h265"], "--video-codec h265"),
    (["-o", "o.mp4", "--encoder-preset", "hq"], "--encoder-preset hq"),
    (["-o", "o.gif", "--audio-bitrate", "192k"], "--audio-bitrate 192k"),
]
OF_AUDIO = [
    (["-o", "o.gif"], "holds no audio"),
    (["-o", "frames/"], "holds no audio"),
    (["-o", "o.mp4", "--crf", "18"], "--crf 18"),
]
NEW_AUDIO = ("sound", "audio")
"""Runs that make audio, so that kinds of file without it are refused for that reason."""


def rows_of(name: str) -> list[tuple[list[str], str]]:
    """What is refused of the command ``name``, with words of the message."""
    rows = [*REFUSED, *(OF_AUDIO if name == "audio" else OF_VIDEO)]
    if name in NEW_AUDIO:
        rows = [row for row in rows if row[0][1] not in ("full/", "o.gif")] + OF_AUDIO[:2]
    return rows


TABLE = [(name, *row) for name in COMMANDS for row in rows_of(name)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kept.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    return kept.saved_folder()


def ltx2(*words, clip=None):
    return CliRunner().invoke(main, [str(clip) if word == "CLIP" else str(word) for word in words])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are those of POSIX")
@pytest.mark.parametrize(("name", "words", "message"), TABLE)
def test_it_is_refused_before_a_model_is_read(
    folder, tmp_path, monkeypatch, clip, name, words, message
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.png").write_bytes(b"old")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(LTX2Pipeline, "__init__", lambda *a, **k: pytest.fail("a model is read"))
    ran = ltx2(*COMMANDS[name], *words, clip=clip)
    assert ran.exit_code != 0
    assert message in ran.output, ran.output
    assert "Traceback" not in ran.output
    after = [path for path in sorted(tmp_path.rglob("*")) if "temporary" not in path.parts]
    assert after == before


def test_generate_writes_the_kind_and_its_settings_repeat_it(folder, tmp_path) -> None:
    chosen = ["--video-codec", "h265", "--pixel-format", "yuv420p10", "--crf", "12", "--audio-bitrate", "96k"]
    made = ltx2(*COMMANDS["generate"], *chosen, "-o", "a.mkv")
    assert made.exit_code == 0, made.output
    assert made.stdout.strip() == str(tmp_path / "a.mkv")
    line, seconds = made.stderr.splitlines()[-2:]
    assert line.startswith("a.mkv: 64x64, 9 frames at 8 fps, 1.12 s, ")
    assert line.endswith("seed 3")
    assert "s: load " in seconds
    with av.open("a.mkv") as container:
        stored = next(container.decode(video=0))
        assert container.streams.video[0].codec_context.name == "hevc"
        assert "10" in stored.format.name
    again = ltx2("generate", "--from-file", "a.mkv", "-o", "frames/")
    assert again.exit_code == 0, again.output
    assert "the frames alone are written" in again.stderr
    assert "next: --seed 4 gives another take" in again.stderr
    files = sorted((tmp_path / "frames").iterdir())
    assert [file.suffix for file in files] == [".png"] * 9
    assert (
        json.loads(read_metadata(files[8])["ltx2"])["request"]
        == json.loads(read_metadata("a.mkv")["ltx2"])["request"]
    )
    assert (read_video(tmp_path / "frames").read() - read_video("a.mkv").read()).abs().mean() < 0.02
    flac = ltx2("generate", "--from-file", files[0], "-o", "a.flac", "-q")
    assert "the audio alone is written" in flac.stderr
    assert json.loads(read_metadata("a.flac")["ltx2"])["request"]["seed"] == 3
    assert abs(read_audio("a.flac")[0].shape[1] - 54000) <= 1


@pytest.mark.parametrize(
    ("name", "output", "more"),
    [
        ("extend", "x_%04d.png", []),
        ("retake", "x.mov", ["--video-codec", "prores"]),
        ("long", "x.webm", []),
        ("sound", "x.mp3", []),
    ],
)
def test_every_command_writes_what_the_name_says(folder, tmp_path, clip, name, output, more) -> None:
    made = ltx2(*COMMANDS[name], *more, "-o", output, clip=clip)
    assert made.exit_code == 0, made.output
    assert made.stdout.strip() == str(tmp_path / output)
    assert f"{output}: " in made.stderr.splitlines()[-2]
    frames = {"extend": 21, "long": 17, "retake": 17, "sound": 0}[name]
    if name == "extend":
        assert len(list(tmp_path.glob("x_*.png"))) == frames
    elif frames:
        assert read_video(output).frame_count == frames
    if name != "extend":
        assert read_audio(output)[0].shape[1] > 16000
        assert json.loads(read_metadata(output)["ltx2"])["request"]["seed"] == 3


def test_a_clip_becomes_a_gif(folder) -> None:
    made = ltx2(*COMMANDS["generate"], "-o", "a.gif")
    assert made.exit_code == 0, made.output
    assert "holds no audio" in made.stderr
    assert read_video("a.gif").frame_count == 9


@pytest.mark.parametrize("name", ["extend", "retake", "sound"])
@pytest.mark.parametrize(
    ("size", "fps", "output", "words"),
    [
        ((48, 64), 8, ["-o", "a.mp4", "--video-codec", "h265"], "at least 64 pixels"),
        ((64, 64), 240, ["-o", "a.gif"], "holds at most"),
    ],
)
def test_an_encoder_that_cannot_take_a_source_is_named_before_the_work(
    folder, tmp_path, monkeypatch, name, size, fps, output, words
) -> None:
    if name == "sound" and output[-1].endswith(".gif"):
        pytest.skip("added audio goes into no GIF")
    source = tmp_path / "source.mp4"
    with VideoWriter(source, width=size[0], height=size[1], fps=fps, sample_rate=None) as writer:
        writer.write_frames(torch.zeros(2 * fps, 3, size[1], size[0]))
    monkeypatch.setattr(LTX2Pipeline, "__call__", lambda *a, **k: pytest.fail("a clip is sampled"))
    refused = ltx2(*COMMANDS[name], *output, clip=source)
    assert refused.exit_code == 2, refused.output
    assert words in refused.stderr.splitlines()[-1]


def test_the_sound_command_copies_the_video_into_any_container_that_takes_it(folder, clip) -> None:
    made = ltx2(*COMMANDS["sound"], "-o", "s.mkv", clip=clip)
    assert made.exit_code == 0, made.output
    assert packets("s.mkv") == packets(clip)
    assert read_video("s.mkv").has_audio


def packets(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_a_codec_that_does_not_fit_is_refused_and_encoded_on_demand(folder, tmp_path, monkeypatch) -> None:
    with av.open("vp8.webm", "w") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(17):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    words = ["sound", "--video", "vp8.webm", "--prompt", "a ball", *QUICK]
    with monkeypatch.context() as unused:
        unused.setattr(LTX2Pipeline, "__call__", lambda *a, **k: pytest.fail("it was sampled"))
        refused = ltx2(*words, "-o", "s.mp4")
    assert refused.exit_code != 0
    assert ".mkv to copy it" in refused.output
    made = ltx2(*words, "-o", "s.mp4", "--video-codec", "h264")
    assert made.exit_code == 0, made.output
    assert read_video("s.mp4").frame_count == 17


def test_audio_alone_is_an_mp4_where_that_is_its_name_and_a_wav_without_one(folder, tmp_path) -> None:
    made = ltx2(*COMMANDS["audio"], "-o", "s.mp4")
    assert made.exit_code == 0, made.output
    with av.open("s.mp4") as container:
        assert container.format.name.startswith("mov")
        assert [stream.type for stream in container.streams] == ["audio"]
    assert json.loads(read_metadata("s.mp4")["ltx2"])["request"]["seed"] == 3
    made = ltx2(*COMMANDS["audio"])
    assert made.stdout.strip() == str(tmp_path / "ltx2.wav"), made.output
    assert "without the settings" in made.stderr


def refuse(*given, **options):
    raise torch.OutOfMemoryError("refused")


def test_a_resumed_run_has_the_encoding_and_the_folder_of_the_first(folder, tmp_path, monkeypatch) -> None:
    for output, more in (("a.mkv", ["--video-codec", "h265"]), ("frames/", ["--pixel-format", "rgb48"])):
        with monkeypatch.context() as broken:
            broken.setattr(LTX2Pipeline, "decode_video", refuse)
            failed = ltx2(*COMMANDS["generate"], *more, "-o", output)
        assert f"--resume -o {output}" in failed.output
        resumed = ltx2("generate", "--resume", "-q")
        assert resumed.exit_code == 0, resumed.output
        assert not list(folder.iterdir())
    with av.open("a.mkv") as container:
        assert container.streams.video[0].codec_context.name == "hevc"
    with av.open("frames/frame_00009.png") as container:
        assert next(container.decode(video=0)).format.name == "rgb48be"


@pytest.mark.slow
def test_stdout_holds_the_clip_and_nothing_else(tmp_path) -> None:
    words = [*COMMANDS["generate"], "-o", "-", "--container", "mkv"]
    command = [sys.executable, "-m", "ltx2_core.cli.main", *words]
    run = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, timeout=1800)
    assert run.returncode == 0, run.stderr
    assert run.stdout[:4] == b"\x1a\x45\xdf\xa3"
    (tmp_path / "a.mkv").write_bytes(run.stdout)
    assert read_video(tmp_path / "a.mkv").frame_count == 9
    audio = ltx2(*COMMANDS["audio"], "-o", "-")
    assert audio.stdout_bytes[:4] == b"RIFF", audio.stderr
    (tmp_path / "a.wav").write_bytes(audio.stdout_bytes)
    assert read_audio(tmp_path / "a.wav")[0].shape[1] == 48000


def test_one_bar_covers_the_whole_job_with_the_time_that_is_left(folder) -> None:
    made = ltx2(*COMMANDS["generate"][:-1], "-o", "a.mp4")
    assert made.exit_code == 0, made.output
    shown = [line for line in made.stderr.replace("\r", "\n").splitlines() if "%|" in line]
    shares = [int(line.split("%|")[0].split()[-1]) for line in shown]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert any(line.startswith("stage 1 1/1") for line in shown)
    assert shown[-1].startswith("decode, encode 9/9")
    assert "<" in shown[-1]
    assert "next: ltx2 extend --video a.mp4" in made.stderr
    # The middle third of 1.125 seconds.
    assert "ltx2 retake --video a.mp4 --video-region 0.3-0.7" in made.stderr
    assert "--checkpoint names released weights" in made.stderr
