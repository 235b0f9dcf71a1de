"""Frames outside an edit are the source's own, at its own size; seams, lengths and regions are exact."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.editing import Footage, extend, retake
from ltx2_core.editing.extend import frames_of_seconds
from ltx2_core.editing.retake import frame_weights
from ltx2_core.media import VideoWriter, read_video, to_signed

QUICK = {"steps": 1, "cfg": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, upscaler=tiny_set.upsampler, keep_loaded=True
    )


def footage(width: int, height: int, frames: int = 25) -> Footage:
    noise = torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    return Footage(frames=noise, fps=8.0)


def changed(frames: torch.Tensor, source: Footage) -> list[int]:
    own = to_signed(source.frames[: len(frames)])
    return (frames[: len(own)] != own).flatten(1).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("size", [(96, 54), (71, 33), (64, 64), (20, 90)])
@pytest.mark.parametrize("stages", [1, 2])
def test_an_edit_has_the_size_of_its_source_and_its_pixels_outside(pipeline, size, stages):
    source = footage(*size)
    retaken = retake(pipeline, "x", source, video=[(1.3, 2.0)], stages=stages, **QUICK)
    extended = extend(pipeline, "x", source, frames=5, keep_frames=9, stages=stages, **QUICK)
    for edit, new in ((retaken, range(9, 17)), (extended, range(17, 25))):
        frames = edit.frames()
        assert (edit.width, edit.height) == size
        assert frames.shape[2:] == size[::-1]
        assert changed(frames, source) == list(new)
    assert len(extended.frames()) == 30


@pytest.mark.parametrize("size", [(96, 54), (71, 33), (20, 90)])
def test_what_the_model_sees_is_in_register_with_the_source(size):
    source = footage(*size)
    clip = source.plan(25, stages=2)
    seen = source.on_grid(clip)
    assert seen.size == (clip.width, clip.height)
    assert torch.equal(seen.frames[..., : size[1], : size[0]], source.frames)
    half = seen.fitted(clip.half()).frames
    # Halving without a cut: each pixel is the mean of four.
    torch.testing.assert_close(half, torch.nn.functional.avg_pool2d(seen.frames, 2))


@pytest.mark.parametrize("feather", [0, 1, 3])
def test_a_feathered_region_fades_from_and_to_the_source(feather):
    regenerated = torch.tensor([False, False, True, True, False])
    weights = frame_weights(regenerated, 33, 33, feather)
    assert not weights[:9].any()
    assert not weights[25:].any()
    ramp = [(n + 1) / (feather + 1) for n in range(feather)]
    assert weights[9 : 9 + feather].tolist() == pytest.approx(ramp)
    assert weights[25 - feather : 25].tolist() == pytest.approx(ramp[::-1])
    assert (weights[9 + feather : 25 - feather] == 1).all()


def test_a_region_at_an_end_of_the_clip_is_not_faded_there():
    assert frame_weights(torch.tensor([True, True, False]), 17, 17, 4)[:5].tolist() == [1] * 5
    longer = frame_weights(torch.tensor([False, False, True]), 12, 17, 4)
    assert longer[12:].tolist() == [1] * 5
    assert frame_weights(torch.tensor([True, True]), 9, 9, 4).tolist() == [1] * 9


def test_a_feathered_retake_mixes_at_its_borders(pipeline):
    source = footage(64, 64)
    cut = retake(pipeline, "x", source, video=[(1.3, 2.0)], **QUICK).frames()
    soft = retake(pipeline, "x", source, video=[(1.3, 2.0)], feather=1, **QUICK)
    own = to_signed(source.frames[:])
    torch.testing.assert_close(soft.frames()[9], (own[9] + cut[9]) / 2)
    torch.testing.assert_close(soft.frames()[16], (own[16] + cut[16]) / 2)
    assert torch.equal(soft.frames()[10:16], cut[10:16])
    assert soft.settings["retake"]["feather"] == 1


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [
        (0.5, 25, 13),
        (0.5, 24, 12),
        (0.7, 15, 11),
        (0.1, 25, 3),
        (1.0, 23.976, 24),
        (0.3, 59.94, 18),
        (2, 8, 16),
    ],
)
def test_seconds_are_the_nearest_frames_halves_upwards(seconds, fps, frames):
    assert frames_of_seconds(seconds, fps) == frames


@pytest.mark.parametrize("region", [(10, 10.2), (2, 3.5), (3.1, 3.3)])
def test_a_region_past_the_end_offers_to_extend(pipeline, region):
    for stream in ("video", "audio"):
        with pytest.raises(ValueError, match=r"after 3\.125 s: use ltx2 extend .*--allow-past-end"):
            retake(pipeline, "x", footage(64, 64), **{stream: [region]}, **QUICK)


def test_a_region_that_ends_within_half_a_frame_of_the_end_is_inside(pipeline):
    edit = retake(pipeline, "x", footage(64, 64), video=[(2, 3.18)], **QUICK)
    assert edit.frame_count == 25


@pytest.mark.parametrize(("size", "said"), [((71, 33), True), ((70, 34), False)])
def test_a_file_smaller_than_its_source_is_announced(pipeline, caplog, size, said):
    retake(pipeline, "x", footage(*size, frames=9), video=[(0, 0.5)], **QUICK)
    assert any("the file will have 70x32" in text for text in caplog.messages) == said


def test_a_saved_edit_of_full_size_has_that_size(pipeline, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", width=150, height=86, fps=8) as writer:
        writer.write_frames(torch.rand(17, 3, 86, 150) * 2 - 1)
    source = Footage.read(tmp_path / "a.mp4")
    retake(pipeline, "x", source, video=[(0, 0.5)], **QUICK).save(tmp_path / "b.mp4", crf=0)
    saved = read_video(tmp_path / "b.mp4")
    assert (saved.width, saved.height) == (150, 86)
    assert (saved.read()[10:] - source.frames[10:]).abs().mean() < 0.02
