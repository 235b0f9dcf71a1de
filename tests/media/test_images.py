"""Loading images: orientation, transparency, ranges, damage; and the two modes of fitting a size."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ltx2_core.media import fit_image, load_image, to_bytes, to_signed

RED, GREEN = (255, 0, 0), (0, 255, 0)


def two_tone(width: int = 8, height: int = 4) -> Image.Image:
    image = Image.new("RGB", (width, height), GREEN)
    image.paste(RED, (0, 0, width // 2, height))
    return image


def test_a_file_an_array_a_tensor_and_a_pillow_image_give_the_same_frame(tmp_path):
    image = two_tone()
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)
    expected = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        image,
        pixels,
        pixels.astype(np.float32) / 255,
        expected,
        expected[0],
    ):
        torch.testing.assert_close(load_image(source), expected)


def test_exif_orientation_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: the image is upright after a rotation by 90 degrees clockwise.
    two_tone().save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png")
    assert image.shape == (1, 3, 8, 4)
    assert image[0, :, 0, 0].tolist() == [1, 0, 0]
    assert image[0, :, -1, 0].tolist() == [0, 1, 0]


def test_transparency_is_laid_over_black():
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    image.putpixel((1, 0), (255, 255, 255, 255))
    assert load_image(image)[0, :, 0].T.tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "I;16", "F"])
def test_every_pillow_mode_becomes_rgb_in_the_unit_range(mode):
    image = Image.fromarray(np.full((3, 5), 65535, np.uint16)) if mode == "I;16" else None
    loaded = load_image(image or Image.new("L", (5, 3), 255).convert(mode))
    assert loaded.shape == (1, 3, 3, 5)
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, torch.ones(1, 3, 3, 5))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_corrupt_file_is_named(tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png"):
        load_image(tmp_path / "broken.png")


def test_a_truncated_jpeg_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        load_image(tmp_path / "cut.jpg")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        load_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("bad", [torch.full((3, 2, 2), 255.0), torch.full((3, 2, 2), float("nan"))])
def test_floats_outside_the_unit_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        load_image(bad)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 90),
    columns=st.integers(1, 90),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    mode=st.sampled_from(["official", "comfy"]),
)
def test_fit_gives_exactly_the_size_and_stays_within_the_values(rows, columns, width, height, mode):
    frames = torch.rand(2, 3, rows, columns, generator=torch.Generator().manual_seed(rows))
    fitted = fit_image(frames, width, height, mode=mode)
    assert fitted.shape == (2, 3, height, width)
    assert fitted.min() >= frames.min() - 1e-6
    assert fitted.max() <= frames.max() + 1e-6


def test_an_image_of_the_right_size_is_returned_unchanged():
    frames = torch.rand(1, 3, 6, 10)
    assert fit_image(frames, 10, 6) is frames


@pytest.mark.parametrize("mode", ["official", "comfy"])
def test_fit_preserves_the_centre_and_cuts_both_sides_alike(mode):
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 16, 64)
    fitted = fit_image(ramp, 16, 16, mode=mode)
    torch.testing.assert_close(fitted, ramp[..., 24:40])


def test_the_two_ways_differ_where_cover_scaling_rounds_up():
    frames = torch.rand(1, 3, 33, 50, generator=torch.Generator().manual_seed(0))
    official, comfy = (fit_image(frames, 32, 32, mode=mode) for mode in ("official", "comfy"))
    assert not torch.equal(official, comfy)
    assert (official - comfy).abs().mean() < 0.2


def test_fit_refuses_a_size_of_nothing():
    with pytest.raises(ValueError, match="0x4"):
        fit_image(torch.rand(1, 3, 4, 4), 0, 4)


def test_to_signed_maps_black_and_white_to_the_ends():
    assert to_signed(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    assert to_signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_bytes_are_the_nearest_levels_and_the_frames_stay_as_they_were(dtype):
    levels = torch.arange(256) / 127.5 - 1
    halves = (torch.arange(256) + 0.5) / 127.5 - 1
    values = torch.cat((levels, halves, torch.randn(1024), torch.tensor([-9.0, 9.0]))).to(dtype)
    frames = values[: 3 * 2 * 256].reshape(2, 3, 16, 16).clone()
    before = frames.clone()
    expected = ((frames.float() + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)
    result = to_bytes(frames)
    assert torch.equal(result, expected)
    assert torch.equal(frames, before)
    assert torch.equal(to_bytes(frames.movedim(0, 1).contiguous().movedim(0, 1)), expected)
    assert to_bytes(result) is result


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_frame_that_is_not_finite_is_named(value):
    frames = torch.zeros(4, 3, 8, 8)
    frames[2:, 1, 3, 3] = value
    with pytest.raises(ValueError, match="frame 42 holds NaN or infinite"):
        to_bytes(frames, first=40)
    with pytest.raises(ValueError, match=r"float in \[-1, 1\]; got torch.int64"):
        to_bytes(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


def test_transparency_is_laid_over_a_stated_colour():
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    image.putpixel((1, 0), (255, 255, 255, 255))
    assert load_image(image, background=(1.0, 0.5, 0.0))[0, :, 0].T.tolist() == [[1, 0.5, 0], [1, 1, 1]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_icc_profile_is_converted_to_srgb(tmp_path, mode):
    linear = _profile_of_gamma(1.0, mode)
    image = Image.new("RGB", (4, 4), (55, 55, 55)).convert(mode)
    image.save(tmp_path / "linear.png", icc_profile=linear)
    # 55 of 255 in linear light is the sRGB level 128.
    torch.testing.assert_close(
        load_image(tmp_path / "linear.png"), torch.full((1, 3, 4, 4), 128 / 255), rtol=0, atol=2 / 255
    )


def _profile_of_gamma(gamma: float, mode: str) -> bytes:
    """The bytes of a profile with the primaries of sRGB, or grey, and a power curve."""
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + bytes(2)

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(round(v * 65536).to_bytes(4, "big", signed=True) for v in values)

    grey = mode == "L"
    name = b"linear test"
    text = b"desc" + bytes(4) + (len(name) + 1).to_bytes(4, "big") + name + bytes(1 + 79)
    tags = {b"desc": text + bytes(-len(text) % 4), b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
        tags |= {
            b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
            b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
            b"bXYZ": xyz(0.1431, 0.0606, 0.7142),
        }
    table, data, at = b"", b"", 132 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + (at + len(data)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        data += value
    header = bytearray(128)
    header[0:4] = (at + len(data)).to_bytes(4, "big")
    header[8:12], header[12:16] = bytes([2, 0x40, 0, 0]), b"mntr"
    header[16:20], header[20:24], header[36:40] = b"GRAY" if grey else b"RGB ", b"XYZ ", b"acsp"
    header[68:80] = xyz(0.9642, 1.0, 0.8249)[8:]
    return bytes(header) + len(tags).to_bytes(4, "big") + table + data


def test_a_damaged_profile_is_ignored(tmp_path):
    two_tone().save(tmp_path / "a.png", icc_profile=b"not a profile")
    torch.testing.assert_close(load_image(tmp_path / "a.png"), load_image(two_tone()))


def test_images_of_16_bits_and_cmyk_have_their_levels(tmp_path):
    Image.fromarray(np.full((3, 5), 32896, np.uint16)).save(tmp_path / "grey.png")
    Image.new("CMYK", (5, 3), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    torch.testing.assert_close(load_image(tmp_path / "grey.png"), torch.full((1, 3, 3, 5), 128 / 255))
    red = load_image(tmp_path / "red.jpg")[0, :, 0, 0]
    torch.testing.assert_close(red, torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=3 / 255)


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (13000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    with pytest.raises(ValueError, match=r"bomb\.png is 13000 x 13000, more than the 67 megapixels"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(("rows", "columns"), [(2, 60000), (60000, 2), (1, 40000)])
def test_a_strip_is_cropped_before_it_is_scaled(rows, columns):
    """Scaled whole, these would take gigabytes; the middle of the result is the middle of the strip."""
    ramp = torch.linspace(0, 1, rows * columns).reshape(1, 1, rows, columns).expand(1, 3, -1, -1)
    fitted = fit_image(ramp, 64, 64)
    assert fitted.shape == (1, 3, 64, 64)
    assert fitted.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert fit_image(ramp, 64, 32).shape == (1, 3, 32, 64)
