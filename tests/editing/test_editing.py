"""Extension, retake, sound: what is kept comes back exactly, lengths are exact, the rest is new."""

from __future__ import annotations

import av
import pytest
import torch

from ltx2_core import LTX2Pipeline, resume, save_latents
from ltx2_core.conditioning.regions import Rounding
from ltx2_core.editing import Footage, add_audio, extend, limit_loudness, retake, text_to_audio
from ltx2_core.editing.footage import cross_fade, take
from ltx2_core.media import to_signed

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
def test_an_extension_has_exactly_the_new_frames_and_keeps_the_old_ones(pipeline, stages, tmp_path):
    source = footage()
    made = extend(pipeline, "a ball", source, frames=10, keep_frames=9, fade_frames=4, stages=stages, **QUICK)
    frames, (sound, rate) = made.frames(), made.audio()
    assert (len(frames), made.frame_count, rate) == (39, 39, RATE)
    assert torch.equal(frames[:25], to_signed(source.frames[:25]))
    assert not torch.equal(frames[25:29], to_signed(source.frames[25:29]))
    assert frames[29:].std() > 0
    joint = source.audio[0].shape[1]
    assert sound.shape == (2, round(39 / FPS * RATE))
    kept = joint - round(0.05 * RATE)
    assert torch.equal(sound[:, :kept], source.audio[0][:, :kept])
    assert sound[:, joint:].abs().max() > 0
    made.save(tmp_path / "longer.mp4")
    with av.open(str(tmp_path / "longer.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 39
        file.seek(0)
        heard = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
        assert abs(heard - 39 / FPS) < 1 / FPS


def test_an_extension_of_a_silent_clip_sounds_only_where_it_is_new(pipeline):
    made = extend(pipeline, "a ball", footage(audio=False), seconds=1.0, keep_frames=9, **QUICK)
    sound, rate = made.audio()
    joint = round(29 / FPS * rate)
    assert not sound[:, : joint - round(0.05 * rate)].any() and sound[:, joint:].any()
    assert sound.shape[1] == round(37 / FPS * rate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 8, "keep_frames": 10}, "must be 8k"),
        ({"frames": 8, "keep_frames": 33}, "at most the 29"),
        ({"frames": 0}, "at least one"),
        ({}, "once"),
    ],
)
def test_an_extension_that_cannot_be_says_why(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        extend(pipeline, "a ball", footage(), **options, **QUICK)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_retake_changes_its_region_alone(pipeline, stages):
    source = footage()
    made = retake(
        pipeline, "a ball", source, video=[(1.3, 2.0)], audio=[(1.5, 2.0)], stages=stages,
        rounding=Rounding.INSIDE, **QUICK,
    )  # fmt: skip
    frames, (sound, rate) = made.frames(), made.audio()
    assert len(frames) == 29 and sound.shape == source.audio[0].shape and rate == RATE
    # Seconds 1.3 to 2 are frames 10 to 16, and no latent frame lies inside these.
    changed = (frames != to_signed(source.frames)).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == []
    differs = (sound != source.audio[0]).any(0).nonzero().flatten() / RATE
    assert differs[0] > 1.45 and differs[-1] < 2.05


def test_a_retake_over_a_region_makes_its_pictures_and_no_others(pipeline):
    source = footage()
    made = retake(pipeline, "a ball", source, video=[(1.3, 2.0)], **QUICK)
    frames, sound = made.frames(), made.audio()[0]
    changed = (frames != to_signed(source.frames)).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == list(range(9, 17))
    assert torch.equal(sound, source.audio[0])
    unpasted = retake(pipeline, "a ball", source, video=[(1.3, 2.0)], paste=False, **QUICK).frames()
    assert torch.equal(unpasted[9:17], frames[9:17]) and not torch.equal(unpasted[:9], frames[:9])


def test_a_region_past_the_end_extends_the_clip(pipeline):
    source = footage(25)
    made = retake(pipeline, "a ball", source, video=[(3.125, 4.0)], audio=[(3.125, 4.0)], **QUICK)
    frames, (sound, _) = made.frames(), made.audio()
    assert len(frames) == 32 and sound.shape[1] == 4 * RATE
    assert torch.equal(frames[:17], to_signed(source.frames[:17]))
    assert sound[:, -1000:].any()


def test_a_silent_source_gets_sound_all_along_and_nothing_to_do_is_refused(pipeline):
    made = retake(pipeline, "a ball", footage(17, audio=False), **QUICK)
    assert torch.equal(made.frames(), to_signed(footage(17).frames)) and made.audio()[0].any()
    with pytest.raises(ValueError, match="nothing is to be regenerated"):
        retake(pipeline, "a ball", footage(17), video=[(1, 1)], **QUICK)


def test_sound_is_added_to_pictures_that_are_not_touched(pipeline, monkeypatch):
    source = footage(20)
    monkeypatch.setattr(type(pipeline), "decode_video", lambda *a, **k: pytest.fail("it decoded"))
    made = add_audio(pipeline, "a ball", source, ceiling_db=-60.0, **QUICK)
    assert torch.equal(made.frames(), to_signed(source.frames))
    sound, rate = made.audio()
    assert sound.shape[1] == round(20 / FPS * rate)
    assert sound.abs().max() == pytest.approx(1e-3, rel=1e-3)


def test_the_model_hears_nothing_else_than_the_given_video(pipeline):
    one = add_audio(pipeline, "a ball", footage(17), **QUICK).audio()[0]
    other = Footage(frames=footage(17).frames.flip(0), fps=FPS)
    assert not torch.equal(one, add_audio(pipeline, "a ball", other, **QUICK).audio()[0])


def test_text_becomes_sound_alone(pipeline):
    sound, rate = text_to_audio(pipeline, "a drum", seconds=1.3, **QUICK)
    assert sound.shape == (2, round(1.3 * rate)) and sound.any()
    again, _ = text_to_audio(pipeline, "a flute", seconds=1.3, **QUICK)
    assert not torch.equal(sound, again)


def test_loudness_is_limited_and_quiet_sound_left_alone():
    loud, quiet = torch.tensor([[0.5, -2.0]]), torch.tensor([[0.5, -0.2]])
    assert limit_loudness(loud, -6.0206).abs().max() == pytest.approx(0.5, abs=1e-5)
    assert limit_loudness(quiet) is quiet
    with pytest.raises(ValueError, match="0 or below"):
        limit_loudness(loud, 3.0)


def test_a_cross_fade_keeps_both_sides_bit_for_bit():
    before, after = torch.zeros(1, 20), torch.ones(1, 20)
    mixed = cross_fade(before, after, 10, 4)
    assert not mixed[:, :6].any() and (mixed[:, 10:] == 1).all()
    torch.testing.assert_close(mixed[0, 6:10], torch.tensor([0.2, 0.4, 0.6, 0.8]))


def test_pictures_are_taken_out_of_a_stream_of_chunks():
    chunks = torch.arange(20).split(6)
    assert torch.cat(list(take(iter(chunks), 4, 9))).tolist() == list(range(4, 13))


def test_an_edit_is_finished_from_latents_that_were_kept(pipeline, tmp_path):
    source, kept = footage(), []
    how = {"video": [(1.0, 2.0)], **QUICK}

    def keep(generation):
        kept.append(save_latents(generation, tmp_path / "clip.mp4", folder=tmp_path))

    made = retake(pipeline, "a ball", source, on_sampled=keep, **how)
    again = retake(pipeline, "a ball", source, sampled=resume(kept[0], pipeline), **how)
    assert torch.equal(again.frames(), made.frames()) and torch.equal(again.audio()[0], made.audio()[0])
    assert again.settings == made.settings
    with pytest.raises(ValueError, match="the saved latents are 128x64, 25 frames"):
        retake(pipeline, "a ball", footage(17), sampled=resume(kept[0], pipeline), **how)
