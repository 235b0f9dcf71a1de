"""Every kind of file that is written holds what was given: frames, size, rate, colours, audio and tags."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from ltx2_core.formats import AUDIO, FORMATS, VIDEO
from ltx2_core.media import (
    Destination,
    Encoding,
    VideoWriter,
    read_audio,
    read_metadata,
    read_video,
    write_audio,
)
from ltx2_core.media.encoding import has_encoder
from ltx2_core.media.save import Clip, audio_clip, save_clip
from ltx2_core.media.writer import check_clip

# Samples beyond the end: the rest of a block; FFmpeg before 8 also leaves the delay of some encoders in.
PADDING = 1200 if int(av.__version__.split(".")[0]) >= 16 else 2400
FPS, RATE, COUNT, SIZE = 24000 / 1001, 48000, 13, (80, 64)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (128, 128, 128)]
TAGS = {"ltx2": json.dumps({"prompt": 'a "quoted" çedilla', "seed": 2**63}), "comment": "a test"}

VIDEO_TABLE = [(fmt, codec) for fmt, row in FORMATS.items() if row.audio for codec in row.video]
DEEP_TABLE = [
    ("mp4", "h264", "yuv420p10"),
    ("mp4", "h265", "yuv420p10"),
    ("mkv", "h264", "yuv444p10"),
    ("webm", "av1", "yuv420p10"),
    ("mov", "prores", "yuv422p10"),
    ("mov", "prores", "yuv444p10"),
]


TRIALS = [(fmt, codec) for fmt, row in FORMATS.items() if fmt != "exr" for codec in row.video]


@pytest.mark.parametrize(("width", "height", "fps"), [(64, 64, 8), (96, 64, 25), (1280, 704, 24)])
@pytest.mark.parametrize(("fmt", "codec"), TRIALS)
def test_a_clip_of_a_usual_size_passes_the_check_before_the_work(fmt, codec, width, height, fps) -> None:
    if not has_encoder(VIDEO[codec].encoder):
        pytest.skip(f"PyAV has no {codec}")
    chosen = Encoding(video_codec=codec if len(FORMATS[fmt].video) > 1 else None)
    name = f"a_%d{FORMATS[fmt].suffixes[0]}" if fmt == "png" else f"a{FORMATS[fmt].suffixes[0]}"
    check_clip(Destination.of(name), chosen, width=width, height=height, fps=fps)


@pytest.mark.parametrize(
    ("name", "codec", "size", "fps", "words"),
    [
        ("a.mp4", "h265", (48, 48), 25, "at least 64 pixels in width and height; got 48x48"),
        ("a.mkv", "h265", (48, 256), 25, "at least 64 pixels"),
        ("a.gif", None, (64, 64), 240, "holds at most"),
    ],
)
def test_a_clip_that_an_encoder_cannot_take_is_refused(tmp_path, name, codec, size, fps, words) -> None:
    chosen = Encoding(video_codec=codec)
    with pytest.raises(ValueError, match=words):
        check_clip(Destination.of(name), chosen, width=size[0], height=size[1], fps=fps)
    with pytest.raises(ValueError, match=words):
        VideoWriter(tmp_path / name, width=size[0], height=size[1], fps=fps, encoding=chosen)
    assert not list(tmp_path.iterdir())


def tone(seconds: float, rate: int = RATE) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return 0.5 * torch.stack([torch.sin(2 * math.pi * 440 * time), torch.sin(2 * math.pi * 660 * time)])


def flat(colour: tuple[int, int, int], count: int = COUNT) -> torch.Tensor:
    """Frames (N, 3, H, W) in [-1, 1] of one colour."""
    level = torch.tensor(colour).view(1, 3, 1, 1) / 127.5 - 1
    return level.expand(count, 3, SIZE[1], SIZE[0])


def clip_of(frames: torch.Tensor, *, fps: float = FPS, rate: int = RATE) -> Clip:
    """A clip that yields its frames five at a time, as bytes where bytes are asked for."""

    def chunks(*, as_bytes: bool):
        for chunk in frames.split(5):
            yield ((chunk + 1) * 127.5).round().to(torch.uint8) if as_bytes else chunk

    return Clip(
        width=frames.shape[3],
        height=frames.shape[2],
        fps=fps,
        frame_count=len(frames),
        frames=chunks,
        audio=lambda: (iter(tone(len(frames) / fps, rate).split(7000, dim=1)), rate),
        tags=TAGS,
    )


def needs(codec: str) -> None:
    if not has_encoder(VIDEO[codec].encoder):
        pytest.skip(f"this PyAV has no encoder of {codec}")


def shown(path: Path) -> torch.Tensor:
    return (read_video(path).read() * 255).round()


@pytest.mark.parametrize(("fmt", "codec"), VIDEO_TABLE)
def test_a_video_file_holds_frames_audio_colours_and_tags(tmp_path, fmt, codec) -> None:
    needs(codec)
    for number, colour in enumerate(COLOURS):
        path = tmp_path / f"{number}.{fmt}"
        save_clip(path, clip_of(flat(colour)), Encoding(video_codec=codec))
        frames = shown(path)
        assert frames.shape == (COUNT, 3, SIZE[1], SIZE[0])
        worst = (frames - torch.tensor(colour).view(1, 3, 1, 1)).abs().max()
        assert worst <= 2, f"{colour} is off by {worst}"
    clip = read_video(path)
    assert clip.fps == pytest.approx(FPS, abs=1e-6)
    waveform, rate = clip.audio()
    expected = round(COUNT / FPS * RATE)
    assert rate == RATE
    # AAC and Opus end with a whole block.
    assert 0 <= waveform.shape[1] - expected < PADDING
    assert read_metadata(path)["ltx2"] == TAGS["ltx2"]
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert int(context.colorspace) == int(next(container.decode(video=0)).colorspace) == 1
        # ProRes has studio range always and no tag for it.
        assert int(context.color_range) == 1 or codec == "prores"
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        own = VIDEO[codec].audio or FORMATS[fmt].audio
        assert container.streams.audio[0].codec_context.name.startswith(own.replace("pcm", "pcm_s16le"))
        if hasattr(first, "color_primaries"):
            assert (int(first.color_primaries), int(first.color_trc)) == (1, 1)


@pytest.mark.parametrize(("fmt", "codec", "pixel_format"), DEEP_TABLE)
def test_ten_bits_are_those_of_the_float_frames(tmp_path, fmt, codec, pixel_format) -> None:
    needs(codec)
    # A ramp of less than four 8-bit levels, which 8 bits can show in four steps alone.
    ramp = torch.linspace(100.0, 103.5, SIZE[0]) / 127.5 - 1
    frames = ramp.expand(5, 3, SIZE[1], SIZE[0])
    path = tmp_path / f"a.{fmt}"
    crf = None if codec == "prores" else 1
    save_clip(path, clip_of(frames), Encoding(video_codec=codec, pixel_format=pixel_format, crf=crf))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0))
        # FFmpeg decodes the profile 4444 of ProRes to 12 bits.
        assert stored.format.components[0].bits >= 10
        luma = np.frombuffer(bytes(stored.planes[0]), np.uint16).reshape(stored.planes[0].height, -1)
    # 3.5 levels of 8 bits are 12 of 10 bits in studio range.
    assert len(np.unique(luma[SIZE[1] // 2, : SIZE[0]])) >= 9


@pytest.mark.parametrize("fmt", ["gif", "webp"])
def test_an_animation_holds_every_frame_at_its_time(tmp_path, fmt) -> None:
    for colour in COLOURS:
        path = tmp_path / f"a.{fmt}"
        save_clip(path, clip_of(flat(colour), fps=24.0), Encoding())
        with Image.open(path) as image:
            assert (image.size, image.n_frames, image.info["loop"]) == (SIZE, COUNT, 0)
            times = []
            for number in range(COUNT):
                image.seek(number)
                pixels = np.array(image.convert("RGB")).astype(int)
                times.append(image.info["duration"])
                assert np.abs(pixels - np.array(colour)).max() <= 2
        assert sum(times) == pytest.approx(1000 * COUNT / 24, abs=12)


def test_numbered_images_hold_bytes_or_sixteen_bits_and_the_tags(tmp_path) -> None:
    frames = torch.rand(COUNT, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_clip(f"{tmp_path}/frames/", clip_of(frames), Encoding())
    files = sorted((tmp_path / "frames").iterdir())
    assert [path.name for path in files] == [f"frame_{n:05d}.png" for n in range(1, COUNT + 1)]
    expected = ((frames + 1) * 127.5).round()
    assert torch.equal(shown(tmp_path / "frames"), expected)
    assert read_metadata(files[3]) == TAGS
    save_clip(tmp_path / "deep_%03d.png", clip_of(frames), Encoding(pixel_format="rgb48"))
    with av.open(str(tmp_path / "deep_004.png")) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb48le").astype(float)
    assert np.abs(stored - ((frames[3].double() + 1) * 32767.5).permute(1, 2, 0).numpy()).max() <= 0.51
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "frames"
    assert len(list(tmp_path.iterdir())) == COUNT + 1


@pytest.mark.parametrize("rate", [48000, 24000, 44100, 20000])
@pytest.mark.parametrize("fmt", [name for name, row in FORMATS.items() if row.audio])
def test_audio_alone_has_its_length_and_tags(tmp_path, fmt, rate) -> None:
    path, waveform = tmp_path / f"a.{fmt}", tone(1.3, rate)
    save_clip(path, audio_clip((waveform, rate), TAGS), Encoding())
    decoded, found = read_audio(path)
    codec = AUDIO[FORMATS[fmt].audio]
    target = codec.rate_for(rate) if codec.title != "Opus" else 48000
    assert found == target
    assert decoded.shape[0] == 2
    assert 0 <= decoded.shape[1] - round(1.3 * target) < PADDING
    if FORMATS[fmt].tags:
        assert read_metadata(path)["ltx2"] == TAGS["ltx2"]
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["audio"]


@pytest.mark.parametrize("fmt", ["wav", "flac", "mp3", "m4a"])
def test_an_audio_file_of_a_clip_holds_the_audio_and_no_frame_is_decoded(tmp_path, fmt) -> None:
    clip = clip_of(flat(COLOURS[0]))
    refused = Clip(**{**vars(clip), "frames": lambda *, as_bytes: pytest.fail("a frame was decoded")})
    save_clip(tmp_path / f"a.{fmt}", refused, Encoding())
    assert read_audio(tmp_path / f"a.{fmt}")[0].shape[1] >= round(COUNT / FPS * RATE)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "frames/", "f_%d.png"])
def test_no_audio_is_decoded_for_a_kind_without_it(tmp_path, name) -> None:
    clip = clip_of(flat(COLOURS[0]))
    refused = Clip(**{**vars(clip), "audio": lambda: pytest.fail("the audio was decoded")})
    save_clip(f"{tmp_path}/{name}", refused, Encoding())
    assert "holds no audio" in " ".join(Destination.of(f"{tmp_path}/{name}").notes())


def test_audio_without_loss_is_the_audio(tmp_path) -> None:
    waveform = tone(0.5) * 1.2
    for name in ("a.wav", "a.flac"):
        write_audio(tmp_path / name, waveform.split(1000, dim=1), RATE)
        assert (read_audio(tmp_path / name)[0] - waveform).abs().max() < 2**-14


def test_a_bit_rate_and_a_preset_are_those_of_the_encoder(tmp_path) -> None:
    frames = torch.rand(COUNT, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(0)) * 2 - 1
    sizes = {}
    for name, chosen in {
        "usual": {},
        "worse": {"crf": 40},
        "quick": {"encoder_preset": "ultrafast"},
        "thin": {"audio_bitrate": "32k"},
    }.items():
        save_clip(tmp_path / f"{name}.mp4", clip_of(frames), Encoding(**chosen))
        sizes[name] = (tmp_path / f"{name}.mp4").stat().st_size
    assert sizes["worse"] < sizes["usual"] / 2
    assert len({sizes["usual"], sizes["quick"], sizes["thin"]}) == 3
    assert sizes["thin"] < sizes["usual"]


REFUSED = [
    ("a", {}, "no suffix"),
    ("a.avi", {}, ".avi"),
    ("a.png", {}, "a_%05d.png"),
    ("a%05d.jpg", {}, ".jpg"),
    (" ", {}, "no path"),
    ("a\0.mp4", {}, "no path"),
    ("a.mp4", {"video_codec": "prores"}, "video_codec=prores"),
    ("a.mp4", {"video_codec": "mpeg2"}, "video_codec=mpeg2"),
    ("a.webm", {"video_codec": "h264"}, "goes into .mp4"),
    ("a.mov", {"video_codec": "av1"}, "goes into .mp4"),
    ("a.mp4", {"crf": 99}, "crf=99"),
    ("a.mp4", {"crf": 60}, "crf=60"),
    ("a.mp4", {"crf": -1}, "crf=-1"),
    ("a.mp4", {"crf": 18.5}, "crf=18.5"),
    ("a.mp4", {"crf": True}, "crf=True"),
    ("a.gif", {"crf": 18}, "crf=18"),
    ("a.mov", {"video_codec": "prores", "crf": 18}, "crf=18"),
    ("a.gif", {"pixel_format": "yuv420p10"}, "pixel_format=yuv420p10"),
    ("a.mp4", {"pixel_format": "rgb48"}, "pixel_format=rgb48"),
    ("a.mov", {"video_codec": "prores", "pixel_format": "yuv420p"}, "yuv422p10"),
    ("a.mov", {"video_codec": "prores", "encoder_preset": "hq", "pixel_format": "yuv444p10"}, "profile hq"),
    ("a.mp4", {"encoder_preset": "hq"}, "encoder_preset=hq"),
    ("a.webp", {"encoder_preset": "slow"}, "encoder_preset=slow"),
    ("a.wav", {"video_codec": "h264"}, "video_codec=h264"),
    ("a.wav", {"audio_bitrate": "192k"}, "audio_bitrate=192k"),
    ("a.gif", {"audio_bitrate": 128000}, "audio_bitrate=128000"),
    ("a.mp4", {"audio_bitrate": 192}, "try 192k"),
    ("a.mp4", {"audio_bitrate": "loud"}, "audio_bitrate=loud"),
    ("a.mp3", {"audio_bitrate": "512k"}, "320k"),
    ("a.mov", {"video_codec": "prores", "audio_bitrate": "192k"}, "audio_bitrate=192k"),
]


@pytest.mark.parametrize(("name", "chosen", "words"), REFUSED)
def test_what_a_kind_of_file_cannot_be_is_refused_before_anything_is_decoded(
    tmp_path, monkeypatch, name, chosen, words
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = clip_of(flat(COLOURS[0]))

    def refuse(**how):
        pytest.fail("it was decoded")

    refused = Clip(**{**vars(clip), "frames": refuse, "audio": refuse})
    with pytest.raises(ValueError, match=re.escape(words)):
        save_clip(name, refused, Encoding(**chosen))
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_image_and_no_folder(tmp_path) -> None:
    frames = flat(COLOURS[0]).clone()
    frames[9] = math.nan
    for name in ("frames/", "f_%05d.png", "a.gif", "a.mkv", "deep_%02d.png"):
        chosen = Encoding(pixel_format="rgb48") if "deep" in name else Encoding()
        clip = Clip(**{**vars(clip_of(frames)), "frames": lambda *, as_bytes: iter(frames.split(5))})
        with pytest.raises(ValueError, match="frame 9 holds NaN"):
            save_clip(f"{tmp_path}/{name}", clip, chosen)
        assert not list(tmp_path.iterdir()), name


def test_a_file_through_a_pipe_is_read_back(tmp_path, monkeypatch) -> None:
    from ltx2_core.media import destination

    for container in ("mp4", "mkv", "webm", "wav"):
        path = tmp_path / f"out.{container}"
        with path.open("wb", buffering=0) as stream, monkeypatch.context() as patched:
            written = Sequential(stream)
            patched.setattr(destination.sys, "stdout", Stdout(written))
            save_clip(Destination.of("-", container), clip_of(flat(COLOURS[3])), Encoding())
        assert abs(read_audio(path)[0].shape[1] - round(COUNT / FPS * RATE)) < PADDING
        if container != "wav":
            assert read_video(path).frame_count == COUNT
            assert read_metadata(path)["ltx2"] == TAGS["ltx2"]


class Sequential:
    """A stream that takes bytes in pieces and in order alone, as a pipe does."""

    def __init__(self, stream) -> None:
        self.stream = stream

    def write(self, data) -> int:
        return self.stream.write(bytes(data[:1000]))


class Stdout:
    def __init__(self, buffer) -> None:
        self.buffer = buffer

    def isatty(self) -> bool:
        return False


def test_the_rate_of_a_gif_is_one_that_players_keep(tmp_path) -> None:
    with pytest.raises(ValueError, match="at most 50 fps"):
        save_clip(tmp_path / "a.gif", clip_of(flat(COLOURS[0]), fps=60.0), Encoding())
    save_clip(tmp_path / "a.gif", clip_of(flat(COLOURS[0]), fps=50.0), Encoding())
    with av.open(str(tmp_path / "a.gif")) as container:
        assert container.streams.video[0].average_rate == Fraction(50)
