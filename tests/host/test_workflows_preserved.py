"""Each workflow preserves what it has to, to the bit or the sample, on any weights."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from workflow_runs import EXAMPLES, Ran, Runs

FPS, FRAMES = 25, 49
VIDEO, AUDIO = "latent/video", "latent/audio"


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def guide_frames(ran: Ran, at: str = "guided") -> int:
    """Latent frames that the guides of a latent take, by the conditioning that goes with it."""
    rows, columns = ran[at][VIDEO].shape[3:]
    return ran[at]["cond/keyframe_idxs"].shape[2] // (rows * columns)


@pytest.mark.parametrize("name", ["image_to_video_two_stages", "image_to_video_distilled"])
def test_the_first_image_stays_to_the_last_stage(runs: Runs, name: str):
    ran = runs.run(name)
    given, made = ran["given"], ran["made"]
    assert given["mask/video"].flatten(2)[0, 0].tolist().count(0) == 16, "one latent frame of 4 x 4"
    same(made[VIDEO][:, :, 0], given[VIDEO][:, :, 0])
    assert (made[VIDEO][:, :, 1:] - given[VIDEO][:, :, 1:]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["audio_to_video", "audio_image_to_video"])
def test_the_input_audio_is_preserved_in_the_latent_of_every_stage(runs: Runs, name: str):
    ran = runs.run(name)
    assert not ran["given"]["mask/audio"].any()
    same(ran["made"][AUDIO], ran["given"][AUDIO])
    assert ran["given"]["waveform"].shape[-1] / int(ran["given"]["sample_rate"]) > 1.9


def test_first_and_last_frame_are_guides_at_both_ends_and_come_off_again(runs: Runs):
    ran = runs.run("first_last_frame")
    guided, made = ran["guided"], ran["made"]
    assert guide_frames(ran) == 2
    assert guided[VIDEO].shape[2] == 7 + 2
    starts = guided["cond/keyframe_idxs"][0, 0, :, 0]
    assert sorted(set(starts.tolist())) == [0, FRAMES - 1]
    assert made[VIDEO].shape[2] == 7
    assert "cond/keyframe_idxs" not in made


def test_keyframes_are_put_back_into_the_second_stage(runs: Runs):
    ran = runs.run("keyframes_two_stages")
    guided, sampled = ran["guided"], ran["sampled"]
    assert guided[VIDEO].shape[2:] == (7 + 1, 4, 4)
    assert guide_frames(ran) == 1
    assert set(guided["cond/keyframe_idxs"][0, 0, :, 0].tolist()) == {24}
    same(sampled[VIDEO][:, :, [0, -1]], guided[VIDEO][:, :, [0, -1]])
    assert ran["made"][VIDEO].shape[2] == 7


def test_another_voice_gives_another_audio(runs: Runs):
    one = runs.run("reference_audio")
    other = runs.run("reference_audio", voice={"audio": "knocks.wav"})
    assert (one["made"][AUDIO] - other["made"][AUDIO]).abs().max() > 1e-3


def test_an_extension_is_the_clip_and_then_as_much_as_was_asked_for(runs: Runs):
    ran = runs.run("extend_video")
    source, made = ran["source"], ran["made"]
    assert made["image"].shape == (FRAMES + 32, 128, 128, 3)
    torch.testing.assert_close(made["image"][: FRAMES - 8], source["image"][: FRAMES - 8], atol=1e-6, rtol=0)
    rate = int(made["sample_rate"])
    assert made["waveform"].shape[-1] == round((FRAMES + 32) / FPS * rate)
    kept = round(FRAMES / FPS * rate) - round(0.06 * rate)
    assert torch.equal(made["waveform"][..., :kept], source["waveform"][..., :kept])
    assert made["waveform"][..., kept + rate // 4 :].abs().max() > 0


def test_a_retake_leaves_every_frame_and_sample_outside_its_regions(runs: Runs):
    ran = runs.run("retake_two_stages")
    source, made = ran["source"], ran["made"]
    difference = (made["image"] - source["image"]).abs().amax(dim=(1, 2, 3))
    assert len(difference) == FRAMES
    assert (difference[:25] < 1e-6).all()
    assert (difference[25:] > 1e-3).all(), "1 to 1.9 s, which latent frames cover from frame 25 to the end"
    rate = int(made["sample_rate"])
    length = round(FRAMES / FPS * rate)
    outside = torch.ones(length, dtype=torch.bool)
    outside[round(1.35 * rate) : round(1.75 * rate)] = False
    assert torch.equal(made["waveform"][0][:, outside], source["waveform"][0][:, :length][:, outside])
    inside = slice(round(1.5 * rate), round(1.6 * rate))
    assert (made["waveform"][..., inside] - source["waveform"][..., inside]).abs().max() > 1e-3


def test_a_mask_preserves_what_is_before_it_and_continues_past_the_end(runs: Runs):
    ran = runs.run("mask_past_the_end")
    given, made = ran["given"], ran["made"]
    opened = given["mask/video"][0, 0].amax(dim=(1, 2)).bool()
    assert opened.tolist() == [False] * 5 + [True] * 4, "frames 0 to 32 are kept: 33 / 25 = 1.32 s"
    heard = given["mask/audio"][0, 0].amax(dim=1).bool()
    assert not heard[:34].any()
    assert heard[36:].all()
    assert len(heard) == 65
    for latent, mask in ((VIDEO, opened), (AUDIO, heard)):
        same(made[latent][:, :, ~mask], given[latent][:, :, ~mask])
        assert (made[latent][:, :, mask] - given[latent][:, :, mask]).abs().amax() > 1e-2


def test_a_clip_that_gets_audio_preserves_its_frames(runs: Runs):
    ran = runs.run("video_to_audio")
    assert torch.equal(ran["made"]["image"], ran["source"]["image"])
    same(ran["sampled"][VIDEO], ran["given"][VIDEO])
    assert 0 < ran["made"]["waveform"].abs().max() <= 10 ** (-3 / 20) + 1e-6


@pytest.mark.parametrize(("name", "file"), [("video_to_video", "clip.mp4"), ("detailer", "small.mp4")])
def test_a_clip_whose_video_is_regenerated_preserves_its_audio(runs: Runs, name: str, file: str):
    from ltx2_core.media import read_audio

    given, heard = (read_audio(p)[0].mean(dim=0) for p in (EXAMPLES / "input" / file, runs.run(name).path))
    length = min(len(given), len(heard))
    given, heard = given[:length], heard[:length]
    assert (given * heard).sum() / (given.norm() * heard.norm()) > 0.95


def test_a_regenerated_video_has_other_frames_with_the_same_audio(runs: Runs):
    ran = runs.run("video_to_video")
    same(ran["made"][AUDIO], ran["given"][AUDIO])
    assert (ran["made"][VIDEO] - ran["given"][VIDEO]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "windows"), [("long_video", "of up to 49 frames"), ("detailer", "of up to 33")]
)
def test_a_long_clip_is_made_in_windows(runs: Runs, name: str, windows: str):
    said = "\n".join(one["text"][0] for one in runs.run(name).result.outputs.values() if "text" in one)
    assert windows in said, said
    assert re.search(r"\b[2-9] windows", said), said


@pytest.mark.parametrize("name", ["ic_lora_control", "ic_lora_image"])
def test_a_control_video_covers_the_whole_clip(runs: Runs, name: str):
    ran = runs.run(name)
    guided, sampled = ran["guided"], ran["sampled"]
    assert guide_frames(ran) == 4
    assert guided[VIDEO].shape[2:] == (8, 3, 4)
    same(sampled[VIDEO][:, :, 4:], guided[VIDEO][:, :, 4:])
    if name == "ic_lora_image":
        same(sampled[VIDEO][:, :, 0], guided[VIDEO][:, :, 0])
    else:
        assert "cond/keyframe_idxs" not in ran["made"]
        assert ran["made"][VIDEO].shape[2] == 4


def test_the_second_stage_has_no_guide(runs: Runs):
    ran = runs.run("ic_lora_two_stages")
    assert ran["guided"][VIDEO].shape[2:] == (8, 2, 2)
    assert ran["made"][VIDEO].shape[2:] == (4, 4, 4)


def test_the_edges_of_a_video_are_lines_of_black_and_white(runs: Runs):
    edges = runs.run("ic_lora_canny")["edges"]["image"]
    assert edges.shape == (25, 96, 128, 3)
    assert 0.002 < edges.mean() < 0.2
    assert ((edges < 0.01) | (edges > 0.99)).all()


def test_a_union_lora_says_how_much_smaller_its_guide_is(runs: Runs):
    plain = runs.run("ic_lora_union")
    halved = runs.run("ic_lora_union", control={"lora": runs.half_size_lora})
    assert guide_frames(plain) == 4
    assert guide_frames(halved) == 4
    shown = halved["guided"]["mask/video"][0, 0, 4:] >= 0
    assert shown.float().mean() == 0.25, "a guide of half the size fills one cell in four"
    assert (plain["guided"]["mask/video"][0, 0, 4:] >= 0).all()
    assert halved["made"][VIDEO].shape == plain["made"][VIDEO].shape
