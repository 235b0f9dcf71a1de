"""Time is presentation time: flash and click stay together, whatever the container, codec and rate."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from ltx2_core.media import VideoWriter, read_audio, read_metadata, read_video
from ltx2_core.media.priority import kept_priority

sys.path.insert(0, str(Path(__file__).parent))

from written_clips import (
    CLICK_S,
    CODECS,
    FLASH_S,
    MORE_CODECS,
    RATE,
    click_of,
    flash_of,
    flashing,
    set_matrix,
    write_clip,
    write_image,
)

PHONE = [i / 30 for i in range(30)] + [1 + i / 10 for i in range(20)]
SCREEN = [0.0, 0.1, 0.12, 0.14, 0.7, 1.5, 1.52, 1.54, 1.56, 1.58, 2.4, 2.42, 2.44, 2.9]
DROPPED = [i / 25 for i in range(75) if i not in (10, 11, 12, 40)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "mov", "ts"])
@pytest.mark.parametrize("times", [PHONE, SCREEN, DROPPED], ids=["phone", "screen", "dropped"])
def test_a_clip_of_variable_rate_keeps_its_times(tmp_path, suffix, times):
    path = write_clip(tmp_path / f"a.{suffix}", times, flashing(times), tick=Fraction(1, 1000), audio_s=3.0)
    clip = read_video(path)
    assert len(clip.read()) == clip.frame_count
    # How long the last frame is shown is not in every file, and at most as long as the one before.
    assert times[-1] < clip.frame_count / clip.fps < times[-1] + 0.55
    assert flash_of(clip) == pytest.approx(FLASH_S, abs=0.5 / clip.fps + 2e-3)
    assert click_of(clip) == pytest.approx(CLICK_S, abs=0.5 / clip.fps + 2e-3)
    assert any("resampled" in note for note in clip.notes)


@pytest.mark.parametrize("suffix", [*CODECS])
@pytest.mark.parametrize("rate", ["24000/1001", "24", "25", "30000/1001", "30", "50", "60", "120", "240"])
def test_a_clip_of_constant_rate_gives_every_stored_frame_once(tmp_path, suffix, rate):
    fps = Fraction(rate)
    if suffix == "gif" and fps not in (25, 50):
        pytest.skip("a GIF counts time in hundredths of a second")
    count = 23
    levels = [20 + 9 * number for number in range(count)]
    path = write_clip(tmp_path / f"a.{suffix}", [n / fps for n in range(count)], levels, fps=fps)
    clip = read_video(path)
    with av.open(str(path)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = clip.read()
    assert clip.frame_count == len(frames) == count
    assert clip.fps == pytest.approx(float(fps), rel=2e-2)
    assert clip.notes == ()
    expected = torch.from_numpy(np.stack(stored)).movedim(3, 1).float() / 255
    assert torch.equal(frames, expected)
    for first, length in ((0, 1), (5, 4), (22, 1), (17, 9)):
        assert torch.equal(clip.read(first, length), frames[first : first + length])


@pytest.mark.parametrize("suffix", [*MORE_CODECS])
def test_older_and_rarer_kinds_keep_their_times_and_are_read_from_any_frame(tmp_path, suffix):
    times = [n / 25 for n in range(60)]
    # Frames that repeat the one before are empty packets in some of these files.
    path = write_clip(tmp_path / f"a.{suffix}", times, flashing(times), fps=25, audio_s=2.4)
    clip = read_video(path)
    frames = clip.read()
    # The muxer of MPEG puts a frame without data at the start.
    assert clip.frame_count == len(frames) == pytest.approx(60, abs=1)
    assert flash_of(clip) == pytest.approx(FLASH_S, abs=0.5 / 25 + 1e-3)
    if clip.has_audio:
        assert click_of(clip) == pytest.approx(CLICK_S, abs=0.5 / 25 + 2e-2)
    for first in (0, 1, 25, 38, 59):
        assert torch.equal(clip.read(first, 1)[0], frames[first])


def test_a_cover_image_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        image = container.add_stream("mjpeg", rate=25)
        image.width, image.height, image.pix_fmt = 64, 64, "yuvj420p"
        try:
            image.disposition = Disposition.attached_pic
        except AttributeError:
            pytest.skip("this PyAV cannot write a cover image")
        frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), "red"))
        container.mux(image.encode(frame))
        container.mux(image.encode(None))
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), 0
        container.mux([*audio.encode(block), *audio.encode(None)])
    with pytest.raises(ValueError, match="no video but a cover image"):
        read_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "webm"])
@pytest.mark.parametrize("late", [0.2, 0.31, 0.5])
@pytest.mark.parametrize("which", ["audio", "video"])
def test_a_stream_that_begins_later_keeps_its_offset(tmp_path, suffix, late, which):
    video_s, audio_s = (late, 0.0) if which == "video" else (0.0, late)
    times = [video_s + n / 25 for n in range(60)]
    path = write_clip(
        tmp_path / f"a.{suffix}",
        times,
        flashing(times),
        fps=25,
        tick=Fraction(1, 1000),
        audio_s=2.5,
        audio_start_s=audio_s,
    )
    clip = read_video(path)
    assert flash_of(clip) == pytest.approx(FLASH_S, abs=0.5 / 25 + 1e-3)
    assert click_of(clip) == pytest.approx(CLICK_S, abs=0.5 / 25 + 1e-3)
    # Some muxers move the video by the silence that AAC begins with, up to a frame.
    assert clip.frame_count == pytest.approx(60 + (late * 25 if which == "video" else 0), abs=1)
    assert bool(clip.notes) == (which == "video")


@pytest.mark.parametrize("frames", ["0", "2", "3"])
def test_delay_by_b_frames_and_long_gaps_between_keyframes_change_nothing(tmp_path, frames):
    times, options = [n / 25 for n in range(70)], {"bf": frames, "g": "30", "crf": "1"}
    levels = [20 + 3 * n for n in range(70)]
    path = write_clip(tmp_path / "a.mp4", times, levels, fps=25, options=options)
    clip = read_video(path)
    whole = clip.read()
    assert len(whole) == 70
    for first in (0, 1, 28, 29, 30, 31, 33, 59, 69):
        part = read_video(path, start_s=first / 25, max_frames=3)
        assert torch.equal(part.read(), whole[first : first + 3])


def test_an_edit_list_hides_what_it_cuts(tmp_path):
    times = [n / 25 - 0.4 for n in range(70)]
    path = write_clip(tmp_path / "a.mp4", times, flashing(times), fps=25, audio_s=2.4)
    clip = read_video(path)
    assert flash_of(clip) - click_of(clip) == pytest.approx(0, abs=0.5 / 25 + 1e-3)


def test_silence_fills_a_gap_in_the_audio(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (0, 2 * RATE):
            block = av.AudioFrame.from_ndarray(np.full((1, RATE), 8000, np.int16), "s16", "mono")
            block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), start
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    waveform, _ = read_audio(path)
    assert waveform.shape[1] == 3 * RATE
    assert not waveform[:, RATE + 100 : 2 * RATE - 100].any()
    assert waveform[:, 2 * RATE + 100 :].all()


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_and_mirror_are_applied(tmp_path, angle, mirrored):
    path = write_clip(tmp_path / "a.mp4", [0, 0.1, 0.2], [0, 0, 0], fps=10, codec="libx264")
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32], stored[:24, 32:], stored[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    write_image(path, stored)
    turns = angle // 90
    expected = np.rot90(stored[:, ::-1] if mirrored else stored, k=-turns)
    # Column vectors of the display matrix: where one step right and one step down in the file go.
    right, down = [((1, 0), (0, 1)), ((0, 1), (-1, 0)), ((-1, 0), (0, -1)), ((0, -1), (1, 0))][turns]
    if mirrored:
        right = (-right[0], -right[1])
    set_matrix(path, [*right, *down])
    frame = read_video(path).read()[0].movedim(0, 2).numpy() * 255
    assert frame.shape == expected.shape
    assert np.abs(frame - expected).mean() < 12


@pytest.mark.parametrize(
    ("aspect", "size"), [("1/1", (64, 48)), ("4/3", (85, 48)), ("8/9", (64, 54)), ("2/1", (128, 48))]
)
def test_the_pixel_aspect_is_applied(tmp_path, aspect, size):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8))))
        container.mux(stream.encode(None))
    clip = read_video(path)
    assert (clip.width, clip.height) == size
    assert clip.read().shape[2:] == size[::-1]


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [
        ("libx264", "yuv420p"), ("libx264", "yuvj420p"), ("libx264", "yuv422p"), ("libx264", "yuv444p"),
        ("libx264", "yuv420p10le"), ("libx264", "yuv422p10le"), ("libx264", "yuv444p10le"),
        ("libx265", "yuv420p10le"), ("libx265", "gbrp"), ("libsvtav1", "yuv420p10le"),
        ("ffv1", "yuv444p16le"), ("libvpx-vp9", "yuv444p"), ("prores_ks", "yuv422p10le"),
        ("mjpeg", "yuvj444p"),
    ],
)  # fmt: skip
def test_every_pixel_format_has_the_same_levels(tmp_path, codec, pix_fmt):
    options = {"crf": "5"} if codec.startswith("lib") else {}
    levels = [16, 90, 160, 240]
    with kept_priority():
        path = write_clip(
            tmp_path / "a.mkv", [n / 10 for n in range(4)], levels, fps=10, codec=codec, pix_fmt=pix_fmt,
            options=options, size=(128, 96),
        )  # fmt: skip
    shown = read_video(path).read().mean(dim=(1, 2, 3)) * 255
    torch.testing.assert_close(shown, torch.tensor(levels, dtype=torch.float32), rtol=0, atol=3)


def write_fields(path: Path, codec: str, pix_fmt: str, options: dict[str, str], count: int = 14) -> Path:
    """Interlaced frames of a bright bar that moves right by 4 columns from field to field."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "4", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 48, pix_fmt
        # FFmpeg's flags for interlaced transform and motion.
        stream.codec_context.flags |= 1 << 18 | 1 << 29
        for number in range(count):
            pixels = np.full((48, 128, 3), 30, np.uint8)
            for field in (0, 1):
                start = 8 * number + 4 * field
                pixels[field::2, start : start + 12] = 220
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {"x264-params": "interlaced=1:tff=1", "bf": "2"}),
        ("a.mkv", "libx264", "yuv422p", {"x264-params": "interlaced=1:tff=1", "bf": "0"}),
        ("a.mpg", "mpeg2video", "yuv420p", {"bf": "2"}),
        ("a.ts", "mpeg2video", "yuv422p", {}),
    ],
)
def test_interlaced_video_gives_a_progressive_frame_for_each_stored_one(
    tmp_path, name, codec, pix_fmt, options
):
    clip = read_video(write_fields(tmp_path / name, codec, pix_fmt, options))
    frames = clip.read()
    assert (clip.fps, clip.frame_count, len(frames)) == (25, 14, 14)
    assert any("interlaced" in note for note in clip.notes)
    # The bar is one shape at one time, that of a field, and no line is apart from its neighbours.
    for number in range(1, 13):
        lines = frames[number].mean(0)
        assert (lines[1:] - lines[:-1]).abs().mean() < 0.01
        centre = float((lines.mean(0) - 0.12).clamp(min=0) @ torch.arange(128.0)) / float(
            (lines.mean(0) - 0.12).clamp(min=0).sum()
        )
        assert min(abs(centre - 8 * number - 5.5 - late) for late in (0, 4)) < 1.5
    for first in (0, 3, 4, 5, 8, 11, 13):
        assert torch.equal(clip.read(first, 1)[0], frames[first])


@pytest.mark.parametrize("background", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0)])
def test_transparent_pixels_are_laid_over_the_background(tmp_path, background):
    path = tmp_path / "a.mov"
    pixels = np.full((48, 64, 4), 200, np.uint8)
    pixels[:, :32, 3], pixels[:, 32:, 3] = 0, 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="argb")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frame = read_video(path, background=background).read()[0]
    torch.testing.assert_close(frame[:, 0, 0], torch.tensor(background))
    torch.testing.assert_close(frame[:, 0, 63], torch.full((3,), 200 / 255))


def test_an_animated_webp_and_a_folder_of_images_are_clips(tmp_path):
    levels = [20, 60, 100, 140, 180]
    images = [Image.new("RGB", (32, 16), (level,) * 3) for level in levels]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=40, lossless=True)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"frame{8 + number}.png")
    for path, fps in ((tmp_path / "a.webp", 25), (folder, 24)):
        clip = read_video(path)
        assert (clip.fps, clip.frame_count, clip.has_audio) == (fps, 5, False)
        assert (clip.read()[:, 0, 0, 0] * 255).tolist() == levels
        assert (clip.read(3, 2)[:, 0, 0, 0] * 255).tolist() == levels[3:]


def test_an_animated_webp_of_variable_rate_keeps_its_times(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 1.5, 1.6, 1.7, 1.8, 2.2]
    images = [Image.new("RGB", (32, 16), (level,) * 3) for level in flashing(times)]
    lengths = [round(1000 * (b - a)) for a, b in itertools.pairwise([*times, 2.5])]
    images[0].save(
        tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=lengths, lossless=True
    )
    clip = read_video(tmp_path / "a.webp")
    assert clip.frame_count / clip.fps == pytest.approx(2.5, abs=0.5 / clip.fps)
    assert flash_of(clip) == pytest.approx(FLASH_S, abs=0.5 / clip.fps)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXTINF:3,\nsecret.mp4\n"),
        ("a.mp4", "#EXTM3U\n#EXTINF:3,\nsecret.mp4\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile secret.mp4\n"),
        ("a.mp4", "\n\nffconcat version 1.0\nfile secret.mp4\n"),
        ("a.mpd", "<?xml version='1.0'?><MPD><BaseURL>secret.mp4</BaseURL></MPD>"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_a_file_that_names_other_files_is_refused(tmp_path, name, text):
    write_clip(tmp_path / "secret.mp4", [0, 0.1, 0.2], [20, 20, 20], fps=10)
    (tmp_path / name).write_text(text)
    for read in (read_video, read_audio, read_metadata):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)


def test_names_that_ffmpeg_takes_for_a_protocol_or_a_pattern_are_names(tmp_path, monkeypatch):
    write_clip(tmp_path / "secret.mp4", [0, 0.1, 0.2], [20, 20, 20], fps=10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_video("concat:secret.mp4|secret.mp4")
    (tmp_path / "concat:secret.mp4").write_bytes((tmp_path / "secret.mp4").read_bytes())
    assert read_video("concat:secret.mp4").frame_count == 3


def test_a_file_that_ends_early_has_the_frames_that_it_has(tmp_path):
    path = tmp_path / "a.mkv"
    write_clip(path, [n / 25 for n in range(60)], list(range(20, 200, 3)), fps=25, options={"g": "10"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    clip = read_video(path)
    assert 10 < len(clip.read()) <= clip.frame_count < 60


def test_a_writer_and_a_reader_agree(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", width=64, height=32, fps=23.976, sample_rate=16000) as writer:
        writer.write_frames(torch.zeros(17, 3, 32, 64))
        writer.write_audio(torch.zeros(2, 12000))
    clip = read_video(tmp_path / "a.mp4")
    assert (clip.frame_count, clip.fps, clip.notes) == (17, pytest.approx(24000 / 1001), ())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "gif", "webp"])
def test_a_damaged_file_is_read_in_part_or_refused_in_one_line(tmp_path, suffix):
    if suffix == "webp":
        images = [Image.new("RGB", (32, 16), (level,) * 3) for level in (20, 90, 160)]
        images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=40)
    else:
        write_clip(tmp_path / f"a.{suffix}", [n / 25 for n in range(9)], [20 * n for n in range(9)], fps=25)
    whole, damaged = (tmp_path / f"a.{suffix}").read_bytes(), tmp_path / f"b.{suffix}"
    rng = random.Random(16)
    for _ in range(30):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        damaged.write_bytes(data[: rng.choice((len(data), rng.randrange(1, len(data))))])
        with contextlib.suppress(ValueError):
            list(itertools.islice(read_video(damaged).frames(), 50))
        with contextlib.suppress(ValueError):
            read_audio(damaged)
