"""EXR images in and out, HLG masters, and 8-bit readers that refuse what they would clip."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ltx2_core.media import Encoding, exr, load_image, read_metadata, read_video
from ltx2_core.media.clip_frames import ClipFrames
from ltx2_core.media.hdr_space import CHROMATICITIES, HDR_SPACES, codes_to_rec709
from ltx2_core.media.hlg import hlg_signal, planes_of
from ltx2_core.media.save import Clip, save_clip

OpenEXR = pytest.importorskip("OpenEXR")

ACESCG = HDR_SPACES["acescg"]


def light(height: int = 6, width: int = 10, *, peak: float = 40.0) -> torch.Tensor:
    """An image (3, H, W) of light up to ``peak``, in half floats so that a file holds it exactly."""
    drawn = torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))
    return (drawn**3 * peak).half().float()


def hdr_clip(hdr: str, frames: int = 5, height: int = 64, width: int = 64) -> Clip:
    codes = torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(1))

    def chunks(*, as_bytes: bool):
        assert not as_bytes
        yield from (codes * 2 - 1).split(2)

    def audio():
        return (torch.zeros(2, 48000),), 48000

    return Clip(
        width=width,
        height=height,
        fps=24,
        frame_count=frames,
        frames=chunks,
        audio=audio,
        tags={"ltx2": "{}"},
        hdr=hdr,
    )


def codes_of(clip: Clip) -> torch.Tensor:
    return (torch.cat(list(clip.frames(as_bytes=False))) + 1) / 2


@pytest.mark.parametrize("name", HDR_SPACES)
def test_an_image_keeps_its_light_and_states_its_colours(tmp_path, name):
    space, pixels = HDR_SPACES[name], light(peak=1.0 if HDR_SPACES[name].is_log else 40.0)
    exr.write_exr(tmp_path / "a.exr", pixels, space, {"ltx2": '{"prompt": "ein Ball über Wasser"}'})
    assert torch.equal(exr.read_exr(tmp_path / "a.exr")[0], pixels)
    with OpenEXR.File(str(tmp_path / "a.exr")) as file:
        header = file.header()
        assert file.channels()["RGB"].pixels.dtype == np.float16
        assert header["colorSpace"] == space.tag
        assert header["chromaticities"] == pytest.approx(CHROMATICITIES[space.primaries], abs=1e-6)
    assert exr.exr_primaries(tmp_path / "a.exr") == space.primaries
    assert read_metadata(tmp_path / "a.exr")["ltx2"] == '{"prompt": "ein Ball über Wasser"}'


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ({"RGBA": 4}, [0, 1, 2]),
        ({"Y": 1}, [0, 0, 0]),
        ({"RGB": 3, "Z": 1}, [0, 1, 2]),
    ],
    ids=str,
)
def test_channels_of_other_images_become_red_green_and_blue(tmp_path, channels, expected):
    values = np.arange(4, dtype=np.float32)
    arrays = {
        name: np.broadcast_to(
            values[:count] if count > 1 else values[0], (4, 6, count)[: 2 + (count > 1)]
        ).copy()
        for name, count in channels.items()
    }
    with OpenEXR.File({"type": OpenEXR.scanlineimage}, arrays) as file:
        file.write(str(tmp_path / "a.exr"))
    image = exr.read_exr(tmp_path / "a.exr")
    assert image.shape == (1, 3, 4, 6)
    assert image[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("data", "display"),
    [
        (((2, 1), (5, 4)), ((0, 0), (9, 7))),
        (((-2, -1), (11, 9)), ((0, 0), (9, 7))),
        (((-3, 2), (4, 9)), ((0, 0), (9, 7))),
        (((20, 20), (22, 22)), ((0, 0), (9, 7))),
        (((5, 5), (14, 12)), ((5, 5), (14, 12))),
    ],
)
def test_pixels_are_placed_in_the_display_window(tmp_path, data, display):
    (left, top), (right, bottom) = data
    stored = light(bottom - top + 1, right - left + 1).permute(1, 2, 0).numpy()
    windows = {
        name: tuple(np.array(xy, np.int32) for xy in window)
        for name, window in zip(("dataWindow", "displayWindow"), (data, display), strict=True)
    }
    with OpenEXR.File(
        {"type": OpenEXR.scanlineimage, **windows}, {"RGB": np.ascontiguousarray(stored)}
    ) as file:
        file.write(str(tmp_path / "a.exr"))
    (first_x, first_y), (last_x, last_y) = display
    expected = np.zeros((last_y - first_y + 1, last_x - first_x + 1, 3), np.float32)
    for y in range(top, bottom + 1):
        for x in range(left, right + 1):
            if first_y <= y <= last_y and first_x <= x <= last_x:
                expected[y - first_y, x - first_x] = stored[y - top, x - left]
    assert np.array_equal(exr.read_exr(tmp_path / "a.exr")[0].permute(1, 2, 0).numpy(), expected)


def test_infinite_light_becomes_the_brightest_and_nan_is_refused(tmp_path):
    pixels = light()
    pixels[0, 0, 0] = torch.inf
    exr.write_exr(tmp_path / "inf.exr", pixels, ACESCG, {})
    assert exr.read_exr(tmp_path / "inf.exr").max() == 65504
    pixels[1, 2, 3] = torch.nan
    exr.write_exr(tmp_path / "nan.exr", pixels, ACESCG, {})
    with pytest.raises(ValueError, match="NaN in 1 pixels"):
        exr.read_exr(tmp_path / "nan.exr")


def test_damaged_files_are_refused_by_name(tmp_path):
    exr.write_exr(tmp_path / "whole.exr", light(), ACESCG, {})
    content = (tmp_path / "whole.exr").read_bytes()
    for length in (4, 100, len(content) - 30):
        (tmp_path / "cut.exr").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.exr"):
            exr.read_exr(tmp_path / "cut.exr")
    with pytest.raises(FileNotFoundError, match="gone"):
        exr.read_exr(tmp_path / "gone.exr")


def test_a_folder_of_images_is_a_clip_whose_frames_are_codes(tmp_path):
    # Nine comes before ten, whatever the width of the numbers.
    frames = [light(8, 12, peak=10.0 * (number + 1)) for number in range(3)]
    for name, frame in zip(("p9", "p10", "p11"), frames, strict=True):
        exr.write_exr(tmp_path / f"{name}.exr", frame, ACESCG, {})
    clip = read_video(tmp_path, hdr="acescg")
    assert (clip.width, clip.height, clip.frame_count, clip.fps, clip.has_audio) == (12, 8, 3, 24, False)
    assert torch.equal(clip.read(), ACESCG.to_codes(torch.stack(frames)))
    # Scaled in linear light and encoded afterwards: the other order dims edges of highlights.
    half = ClipFrames.of(clip).fitted(6, 4, "official")[0:3]
    linear = torch.nn.functional.interpolate(torch.stack(frames), size=(4, 6), mode="bilinear")
    torch.testing.assert_close(half, ACESCG.to_codes(linear))
    assert read_video(tmp_path, hdr="acescg", fps=30).fps == 30


def test_images_of_a_folder_have_one_size(tmp_path):
    exr.write_exr(tmp_path / "a1.exr", light(8, 12), ACESCG, {})
    exr.write_exr(tmp_path / "a2.exr", light(8, 14), ACESCG, {})
    with pytest.raises(ValueError, match=r"a2\.exr is 14 x 8"):
        read_video(tmp_path, hdr="acescg")


def _exr(path: Path) -> Path:
    exr.write_exr(path, light(), ACESCG, {})
    return path


@pytest.mark.parametrize("name", ["a.exr", "renamed.png"])
def test_readers_of_8_bits_refuse_an_image_by_its_content(tmp_path, name):
    path = _exr(tmp_path / name)
    for read in (load_image, read_video):
        with pytest.raises(ValueError, match=name):
            read(path)


def test_a_folder_without_a_colour_space_is_refused(tmp_path):
    _exr(tmp_path / "a.exr")
    with pytest.raises(ValueError, match="folder of EXR"):
        read_video(tmp_path)
    with pytest.raises(ValueError, match="give a folder"):
        read_video(tmp_path / "a.exr", hdr="acescg")


def test_a_master_is_hlg_with_the_images_next_to_it(tmp_path):
    # x265 writes other bytes in each run where a frame is narrow (64 and 72 pixels seen).
    clip = hdr_clip("srgb-linear", height=128, width=128)
    save_clip(tmp_path / "m.mp4", clip, Encoding(crf=0))
    with av.open(str(tmp_path / "m.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("hevc", "Main 10", "yuv420p10le")
        assert context.codec_tag == "hvc1"
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (
            9,
            18,
            9,
            1,
        )
        assert len(container.streams.audio) == 1
        decoded = [frame.to_ndarray()[:128] for frame in container.decode(stream)]
    y, _, _ = planes_of(hlg_signal(codes_to_rec709(codes_of(clip))))
    # Noise is the hardest to encode; a wrong curve or range is off by a hundred of 1023 levels.
    assert np.abs(np.stack(decoded).astype(int) - y.numpy()).mean() <= 4
    images = sorted((tmp_path / "m_exr").iterdir())
    assert [image.name for image in images] == [f"frame_{number:05d}.exr" for number in range(1, 6)]
    stored = torch.cat([exr.read_exr(image) for image in images])
    torch.testing.assert_close(stored, codes_to_rec709(codes_of(clip)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("output", "first"), [("f/", "f/frame_00001.exr"), ("x_%03d.exr", "x_001.exr")])
def test_images_alone_are_written_to_a_folder_or_by_number(tmp_path, output, first):
    save_clip(f"{tmp_path}/{output}", hdr_clip("acescct"), Encoding())
    assert exr.is_exr(tmp_path / first)
    assert len(list((tmp_path / first).parent.glob("*.exr"))) == 5


def test_a_clip_of_one_frame_is_one_image_and_a_longer_one_is_refused(tmp_path):
    save_clip(tmp_path / "one.exr", hdr_clip("acescg", frames=1), Encoding())
    assert [path.name for path in tmp_path.iterdir()] == ["one.exr"]
    with pytest.raises(ValueError, match=r"one_%05d\.exr"):
        save_clip(tmp_path / "one.exr", hdr_clip("acescg"), Encoding())


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.webm", "a_%d.png"])
def test_files_of_8_bits_are_refused_for_an_hdr_clip(tmp_path, name):
    with pytest.raises(ValueError, match="hdr=acescg"):
        save_clip(tmp_path / name, hdr_clip("acescg"), Encoding())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "choice", [{"video_codec": "h264"}, {"pixel_format": "yuv420p"}, {"hdr": "srgb-linear"}, {"crf": 60}]
)
def test_a_choice_that_a_master_cannot_have_is_refused_by_name(tmp_path, choice):
    with pytest.raises(ValueError, match=next(iter(choice))):
        save_clip(tmp_path / "a.mp4", hdr_clip("acescg"), Encoding(**choice))


def test_neither_file_is_left_if_a_clip_fails(tmp_path):
    clip = hdr_clip("acescg")

    def broken(*, as_bytes: bool):
        yield from clip.frames(as_bytes=as_bytes)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        save_clip(tmp_path / "a.mp4", Clip(**{**vars(clip), "frames": broken}), Encoding())
    assert not list(tmp_path.iterdir())


def test_the_audio_alone_of_an_hdr_clip_is_as_any_other(tmp_path):
    save_clip(tmp_path / "a.wav", hdr_clip("acescg"), Encoding())
    assert (tmp_path / "a.wav").is_file()
