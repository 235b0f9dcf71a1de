"""Extend, retake, added audio: preserved parts are exact, lengths are exact, the rest is regenerated."""

from __future__ import annotations

import av
import pytest
import torch

from ltx2_core import LTX2Pipeline, resume, save_latents
from ltx2_core.conditioning.regions import Rounding
from ltx2_core.editing import Footage, add_audio, extend, limit_loudness, retake, text_to_audio
from ltx2_core.editing.extend import plan_extension
from ltx2_core.editing.joints import cross_fade, take
from ltx2_core.media import to_signed
from ltx2_core.types import Numerics

FPS, RATE = 8.0, 22050
QUICK = {"steps": 2, "cfg": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, upscaler=tiny_set.upsampler, keep_loaded=True
    )


def footage(frames: int = 29, audio: bool = True) -> Footage:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 5, 3, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(frames, 64, 128), mode="trilinear")
    t = torch.arange(round(frames / FPS * RATE)) / RATE
    wave = 0.3 * torch.stack((torch.sin(1900 * t), torch.sin(2300 * t)))
    return Footage(
        frames=pixels[0].movedim(0, 1).contiguous(), fps=FPS, audio=(wave, RATE) if audio else None
    )


@pytest.mark.parametrize("stages", [1, 2])
def test_an_extension_has_exactly_the_new_frames_and_preserves_the_source(pipeline, stages, tmp_path):
    source = footage()
    edit = extend(pipeline, "a ball", source, frames=10, keep_frames=9, fade_frames=4, stages=stages, **QUICK)
    frames, (audio, rate) = edit.frames(), edit.audio()
    assert (len(frames), edit.frame_count, rate) == (39, 39, RATE)
    assert torch.equal(frames[:25], to_signed(source.frames[:25]))
    assert not torch.equal(frames[25:29], to_signed(source.frames[25:29]))
    assert frames[29:].std() > 0
    joint = source.audio[0].shape[1]
    assert audio.shape == (2, round(39 / FPS * RATE))
    preserved = joint - round(0.05 * RATE)
    assert torch.equal(audio[:, :preserved], source.audio[0][:, :preserved])
    assert audio[:, joint:].abs().max() > 0
    edit.save(tmp_path / "longer.mp4")
    with av.open(str(tmp_path / "longer.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 39
        file.seek(0)
        audio_s = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
        assert abs(audio_s - 39 / FPS) < 1 / FPS


def test_an_extension_of_a_silent_clip_has_audio_only_in_its_new_part(pipeline):
    edit = extend(pipeline, "a ball", footage(audio=False), seconds=1.0, keep_frames=9, **QUICK)
    audio, rate = edit.audio()
    joint = round(29 / FPS * rate)
    assert not audio[:, : joint - round(0.05 * rate)].any()
    assert audio[:, joint:].any()
    assert audio.shape[1] == round(37 / FPS * rate)


@pytest.mark.parametrize(("frames", "keep"), [(1, 1), (8, 1), (9, 9), (24, 17), (25, 25), (29, 25)])
def test_by_default_an_extension_continues_from_what_the_source_has(frames, keep, caplog):
    plan = plan_extension(footage(frames), None, 5, stages=1, numerics=Numerics.OFFICIAL)
    assert plan.keep_frames == keep
    assert plan.frame_count == frames + 5
    said = f"has {frames} frames, so that the new ones continue from {keep} (--keep-frames) instead of 25"
    assert [said in record.getMessage() for record in caplog.records] == [True] * (keep < 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 8, "keep_frames": 10}, "must be 8k"),
        ({"frames": 8, "keep_frames": 33}, "at most the 29"),
        ({"frames": 0}, "frames=0 must be"),
        ({}, "once"),
    ],
)
def test_an_impossible_extension_is_an_error_with_the_reason(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        extend(pipeline, "a ball", footage(), **options, **QUICK)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_retake_changes_only_its_region(pipeline, stages):
    source = footage()
    edit = retake(
        pipeline, "a ball", source, video=[(1.3, 2.0)], audio=[(1.5, 2.0)], stages=stages,
        rounding=Rounding.INSIDE, **QUICK,
    )  # fmt: skip
    frames, (audio, rate) = edit.frames(), edit.audio()
    assert len(frames) == 29
    assert audio.shape == source.audio[0].shape
    assert rate == RATE
    # Seconds 1.3 to 2 are frames 10 to 16, and no latent frame lies inside these.
    changed = (frames != to_signed(source.frames)).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == []
    differs = (audio != source.audio[0]).any(0).nonzero().flatten() / RATE
    assert differs[0] > 1.45
    assert differs[-1] < 2.05


def test_a_retake_regenerates_the_frames_of_its_region_and_no_others(pipeline):
    source = footage()
    edit = retake(pipeline, "a ball", source, video=[(1.3, 2.0)], **QUICK)
    frames, audio = edit.frames(), edit.audio()[0]
    changed = (frames != to_signed(source.frames)).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == list(range(9, 17))
    assert torch.equal(audio, source.audio[0])
    unpasted = retake(pipeline, "a ball", source, video=[(1.3, 2.0)], paste=False, **QUICK).frames()
    assert torch.equal(unpasted[9:17], frames[9:17])
    assert not torch.equal(unpasted[:9], frames[:9])


def test_a_region_past_the_end_extends_the_clip(pipeline):
    source, past = footage(25), {"allow_past_end": True}
    edit = retake(pipeline, "a ball", source, video=[(3.125, 4.0)], audio=[(3.125, 4.0)], **past, **QUICK)
    frames, (audio, _) = edit.frames(), edit.audio()
    assert len(frames) == 32
    assert audio.shape[1] == 4 * RATE
    assert torch.equal(frames[:17], to_signed(source.frames[:17]))
    assert audio[:, -1000:].any()


def test_a_silent_source_gets_audio_over_its_length_and_a_retake_of_nothing_is_an_error(pipeline):
    edit = retake(pipeline, "a ball", footage(17, audio=False), **QUICK)
    assert torch.equal(edit.frames(), to_signed(footage(17).frames))
    assert edit.audio()[0].any()
    with pytest.raises(ValueError, match="nothing is to be regenerated"):
        retake(pipeline, "a ball", footage(17), video=[(1, 1)], **QUICK)


def test_audio_is_added_to_frames_that_stay_bit_for_bit(pipeline, monkeypatch):
    source = footage(20)
    monkeypatch.setattr(type(pipeline), "decode_video", lambda *a, **k: pytest.fail("the video was decoded"))
    edit = add_audio(pipeline, "a ball", source, ceiling_db=-60.0, **QUICK)
    assert torch.equal(edit.frames(), to_signed(source.frames))
    audio, rate = edit.audio()
    assert audio.shape[1] == round(20 / FPS * rate)
    assert audio.abs().max() == pytest.approx(1e-3, rel=1e-3)


def test_the_added_audio_depends_on_the_frames_of_the_source(pipeline):
    one = add_audio(pipeline, "a ball", footage(17), **QUICK).audio()[0]
    other = Footage(frames=footage(17).frames.flip(0), fps=FPS)
    assert not torch.equal(one, add_audio(pipeline, "a ball", other, **QUICK).audio()[0])


def test_text_to_audio_has_no_video(pipeline):
    audio, rate = text_to_audio(pipeline, "a drum", seconds=1.3, **QUICK)
    assert audio.shape == (2, round(1.3 * rate))
    assert audio.any()
    again, _ = text_to_audio(pipeline, "a flute", seconds=1.3, **QUICK)
    assert not torch.equal(audio, again)


def test_loudness_is_limited_and_quiet_audio_is_unchanged():
    loud, quiet = torch.tensor([[0.5, -2.0]]), torch.tensor([[0.5, -0.2]])
    assert limit_loudness(loud, -6.0206).abs().max() == pytest.approx(0.5, abs=1e-5)
    assert limit_loudness(quiet) is quiet
    with pytest.raises(ValueError, match="0 or below"):
        limit_loudness(loud, 3.0)


def test_a_cross_fade_leaves_both_sides_bit_for_bit():
    before, after = torch.zeros(1, 20), torch.ones(1, 20)
    mixed = cross_fade(before, after, 10, 4)
    assert not mixed[:, :6].any()
    assert (mixed[:, 10:] == 1).all()
    torch.testing.assert_close(mixed[0, 6:10], torch.tensor([0.2, 0.4, 0.6, 0.8]))


def test_frames_are_taken_out_of_a_stream_of_chunks():
    chunks = torch.arange(20).split(6)
    assert torch.cat(list(take(iter(chunks), 4, 9))).tolist() == list(range(4, 13))


def test_an_edit_is_finished_from_saved_latents(pipeline, tmp_path):
    source, saved = footage(), []
    how = {"video": [(1.0, 2.0)], **QUICK}

    def save(generation):
        saved.append(save_latents(generation, tmp_path / "clip.mp4", folder=tmp_path))

    edit = retake(pipeline, "a ball", source, on_sampled=save, **how)
    again = retake(pipeline, "a ball", source, sampled=resume(saved[0], pipeline), **how)
    assert torch.equal(again.frames(), edit.frames())
    assert torch.equal(again.audio()[0], edit.audio()[0])
    assert again.settings == edit.settings
    with pytest.raises(ValueError, match="the saved latents are 128x64, 25 frames"):
        retake(pipeline, "a ball", footage(17), sampled=resume(saved[0], pipeline), **how)
