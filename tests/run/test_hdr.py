"""HDR runs on the tiny set: light in, light out, and what is refused before a network is loaded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.plan import predict
from ltx2_core.conditioning.inputs import ImageAt, VideoReference
from ltx2_core.editing import Footage, retake
from ltx2_core.media import exr, fit_image, read_metadata
from ltx2_core.media.hdr_space import HDR_SPACES
from ltx2_core.run.planner import decode_dtype_of
from ltx2_core.run.request import Request

pytest.importorskip("OpenEXR")

CLIP = {"width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "steps": 1, "cfg": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu", keep_loaded=True
    )


@pytest.fixture(scope="module")
def plates(tmp_path_factory) -> Path:
    """A folder of ten EXR images, up to ten times as bright as white."""
    folder = tmp_path_factory.mktemp("plates")
    for number in range(10):
        drawn = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(number)) ** 4 * 10
        exr.write_exr(folder / f"p{number}.exr", drawn, HDR_SPACES["acescg"], {})
    return folder


def test_a_clip_is_decoded_in_float32_to_its_colour_space(pipeline, tiny_set, tmp_path):
    clip = pipeline("a ball", hdr="acescg", **CLIP)
    codes = (torch.cat(list(clip.frames())) + 1) / 2
    light = torch.cat(list(clip.light()))
    assert torch.equal(light, HDR_SPACES["acescg"].of_codes(codes))
    # Sampling does not depend on it, and another number format of the run does not change the decoder's.
    assert torch.equal(clip.latents.video, pipeline("a ball", **CLIP).latents.video)
    half = LTX2Pipeline(tiny_set.checkpoint, device="cpu", dtype=torch.bfloat16)
    again = half.decode_video(clip.latents.video, dtype=torch.float32)
    torch.testing.assert_close(torch.cat(list(again)), torch.cat(list(clip.frames())), rtol=0, atol=1e-5)
    clip.save(tmp_path / "clip_%d.exr")
    stored = exr.read_exr(tmp_path / "clip_1.exr")[0]
    torch.testing.assert_close(stored, light[0], rtol=1e-3, atol=1e-4)
    assert '"hdr": "acescg"' in read_metadata(tmp_path / "clip_1.exr")["ltx2"]


def test_8_bit_results_of_an_hdr_clip_are_refused(pipeline):
    clip = pipeline("a ball", hdr="acescg", **CLIP)
    with pytest.raises(ValueError, match="HDR"):
        clip.array()
    with pytest.raises(ValueError, match="SDR"):
        next(pipeline("a ball", **CLIP).light())


@pytest.mark.parametrize("name", HDR_SPACES)
def test_an_image_reaches_the_model_as_codes_of_its_light(pipeline, tmp_path, name):
    space = HDR_SPACES[name]
    drawn = torch.rand(3, 80, 96, generator=torch.Generator().manual_seed(1)) * (1 if space.is_log else 8)
    exr.write_exr(tmp_path / "plate.exr", drawn, space, {})
    stored = exr.read_exr(tmp_path / "plate.exr")
    # The crf has no effect, since H.264 would clip the light.
    clip = pipeline("a ball", image=tmp_path / "plate.exr", hdr=name, image_crf=40, **CLIP)
    encoded = pipeline.encode_video(space.to_codes(fit_image(stored, 64, 64)))
    torch.testing.assert_close(clip.latents.video[:, :, :1], encoded, rtol=0, atol=1e-5)


def test_keyframes_and_folders_condition_a_run(pipeline, plates):
    plain = pipeline("a ball", hdr="acescg", **CLIP).latents.video
    keyed = pipeline("a ball", hdr="acescg", images=[ImageAt(source=plates / "p3.exr", frame=8)], **CLIP)
    followed = pipeline("a ball", hdr="acescg", references=[VideoReference(source=plates)], **CLIP)
    assert not torch.equal(plain, keyed.latents.video)
    assert not torch.equal(plain, followed.latents.video)


def test_a_retake_has_the_light_of_its_source_outside_of_the_region(pipeline, plates, tmp_path):
    source = Footage.read(plates, hdr="acescg", fps=8)
    edit = retake(pipeline, "a ball", source, video=[(0.9, 1.1)], hdr="acescg", steps=1, cfg=1.0, seed=1)
    edit.save(f"{tmp_path}/out/")
    first, own = (exr.read_exr(path) for path in (tmp_path / "out" / "frame_00001.exr", plates / "p0.exr"))
    # The shadows of half floats and of ACEScct codes are coarser than their highlights.
    torch.testing.assert_close(first, own, rtol=2e-3, atol=1e-3)
    with pytest.raises(ValueError, match="read with hdr=acescg"):
        retake(pipeline, "a ball", source, video=[(0.9, 1.1)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hdr": None, "image": "{plates}/p0.exr"}, "with hdr"),
        ({"hdr": None, "references": ["{plates}"]}, "with hdr"),
        ({"image": "{plates}/p0.exr", "images": [("{sdr}", 8)]}, "none"),
        ({"image": "{sdr}", "references": ["{plates}"]}, "none"),
        ({"image": "{plates}/p0.exr", "fit": "pad"}, "fit=pad"),
        ({"video": False}, "audio alone"),
        ({"references": ["{plates}/p0.exr"]}, "folder"),
        ({"image": "{plates}"}, "give one image of it, or the folder as a reference"),
        ({"images": [("{plates}", 8)]}, "give one image of it, or the folder as a reference"),
        ({"image": "{missing}.exr"}, "no image file"),
        ({"hdr": "rec2020"}, "hdr="),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_before_work(pipeline, plates, tmp_path, options, words):
    Image.new("RGB", (64, 64)).save(tmp_path / "sdr.png")
    names = {"plates": str(plates), "sdr": str(tmp_path / "sdr.png"), "missing": str(tmp_path / "missing")}

    def named(value):
        if isinstance(value, str):
            return value.format(**names)
        return type(value)(map(named, value)) if isinstance(value, list | tuple) else value

    given = {"hdr": "acescg", **{name: named(value) for name, value in options.items()}}
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        pipeline.check(pipeline.resolve(_request({**CLIP, **given})))


def _request(options):
    from ltx2_core.run.request import Request

    return Request(prompt="a ball", **options)


def test_other_primaries_than_those_of_the_image_and_sdr_images_are_warned_of(
    pipeline, plates, tmp_path, caplog
):
    Image.new("RGB", (64, 64)).save(tmp_path / "sdr.png")
    for image, words in (
        (plates / "p0.exr", "states the primaries of acescg"),
        (tmp_path / "sdr.png", "is SDR"),
    ):
        with caplog.at_level(logging.WARNING):
            pipeline.check(_request({**CLIP, "image": image, "hdr": "srgb-linear"}))
        assert words in caplog.text


@pytest.mark.parametrize(
    ("hdr", "fps", "words"), [("acescg", None, "--fps"), (None, None, "with hdr"), (None, 24, "with hdr")]
)
def test_a_folder_needs_a_colour_space_and_a_frame_rate(plates, hdr, fps, words):
    with pytest.raises(ValueError, match=words):
        Footage.read(plates, hdr=hdr, fps=fps)


def test_the_plan_counts_the_decoder_of_an_hdr_clip_in_float32(tiny_set):
    pipeline = LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu", dtype=torch.bfloat16
    )
    rows = {}
    for hdr in (None, "acescg"):
        request = Request(prompt="a ball", hdr=hdr, **CLIP)
        stages, dtype = pipeline.stages(request), decode_dtype_of(request)
        planned = pipeline.plan(stages, 10**9, decode_dtype=dtype).stages[-1]
        predicted = predict(pipeline, stages, dtype)[-1]
        rows[hdr] = (
            [one.weights for one in (planned, predicted)],
            [one.activations for one in (planned, predicted)],
        )
    (sdr, sdr_work), (hdr, hdr_work) = rows[None], rows["acescg"]
    assert hdr == [2 * weights for weights in sdr]
    assert all(large > 1.5 * small for large, small in zip(hdr_work, sdr_work, strict=True))
