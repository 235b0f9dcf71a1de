"""For any size, length and rate all stages and edits agree on one plan, and so does the written file."""

from __future__ import annotations

import random
from fractions import Fraction

import av
import pytest
import torch

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.conditioning.regions import Rounding
from ltx2_core.conditioning.state import empty_state
from ltx2_core.editing import Footage, LongVideo, add_audio, extend, long_video, retake
from ltx2_core.editing.extend import plan_extension
from ltx2_core.editing.retake import plan_retake
from ltx2_core.editing.windows import plan_windows
from ltx2_core.run.request import plan_stages
from ltx2_core.shapes import Snap, plan_clip
from ltx2_core.types import Numerics

RATES = (1, 7.5, 8, 12, 15, 23.976, 24, 24000 / 1001, 25, 29.97, 30, 48, 50, 59.94, 60, 120, 240)


def wanted(seed: int, largest: int = 4096, longest: float = 60.0) -> dict:
    """A random size, length and rate, on the grid or off it."""
    rng = random.Random(seed)
    fps = rng.choice([*RATES, rng.uniform(1, 240)])
    seconds = rng.uniform(0.02, min(longest, 3000 / fps))
    length = {"seconds": seconds} if rng.random() < 0.5 else {"frames": max(1, round(seconds * fps))}
    size = {name: rng.randint(1, largest) for name in ("width", "height")}
    return {**size, **length, "fps": fps, "snap": rng.choice([Snap.FLOOR, Snap.NEAREST, Snap.CEIL])}


def sizes(clip) -> tuple:
    return clip.width, clip.height, clip.frames, clip.fps, clip.audio_latents


@pytest.mark.parametrize("numerics", Numerics)
def test_stages_of_a_request_agree_with_the_plan(numerics):
    for seed in range(500):
        asked, stages = wanted(seed), seed % 2 + 1
        plan = plan_clip(**asked, stages=stages, numerics=numerics)
        length = {"num_frames" if k == "frames" else k: v for k, v in asked.items()}
        run = plan_stages(Request(prompt="x", stages=stages, **length), numerics)
        assert sizes(run[-1].clip) == sizes(plan)
        if stages == 2:
            assert sizes(run[0].clip) == sizes(plan.half())
            assert (run[0].clip.width * 2, run[0].clip.height * 2) == (plan.width, plan.height)
        again = plan_clip(plan.width, plan.height, frames=plan.frames, fps=plan.fps, snap=Snap.ERROR)
        assert sizes(again)[:4] == sizes(plan)[:4], "what is on the grid stays"
        assert abs(plan.audio_latents / 25 - plan.seconds) <= (0.04 if plan.seconds > 0.02 else 1)
        assert plan.frames % 8 == 1
        assert plan.width % (32 * stages) == 0


def test_every_edit_agrees_with_the_plan_of_its_run():
    for seed in range(300):
        asked = wanted(seed, 1024, 20.0)
        frames = max(1, asked.get("frames") or round(asked["seconds"] * asked["fps"]))
        pixels = torch.zeros(1, 1, 1, 1).expand(frames, 3, max(asked["height"], 33), max(asked["width"], 33))
        source, rng, stages = Footage(frames=pixels, fps=asked["fps"]), random.Random(seed), seed % 2 + 1
        keep, new = 8 * rng.randint(0, (frames - 1) // 8) + 1, rng.randint(1, 300)
        clip = plan_extension(source, keep, new, stages=stages, numerics=Numerics.COMFY).clip
        assert keep + new <= clip.frames < keep + new + 8
        longer = source.seconds + rng.uniform(-1, 2)
        start = rng.uniform(0, max(longer, 0.1))
        retaken = plan_retake(
            source, [(start, start + 1)], [(start, start + 1)], Rounding.COVER, stages=stages,
            numerics=Numerics.COMFY, allow_past_end=True,
        )  # fmt: skip
        assert retaken.video.shape == (retaken.clip.latent_frames,)
        assert retaken.audio.shape == (retaken.clip.audio_latents,)
        assert retaken.frame_count >= frames
        assert retaken.frame_count - retaken.clip.frames < 8
        for one in (clip, retaken.clip):
            assert one.fps == source.fps
            assert one.width % (32 * stages) == one.height % (32 * stages) == 0
            state = empty_state(plan_clip(32, 32, frames=one.frames, fps=one.fps, numerics=Numerics.COMFY))
            assert state.latent.video.shape[2] == one.latent_frames
            assert state.latent.audio.shape[2] == one.audio_latents


def test_windows_agree_with_the_plan_of_the_whole():
    for seed in range(300):
        plan = plan_clip(**wanted(seed, longest=300.0), numerics=Numerics.COMFY)
        rng = random.Random(seed)
        length = 8 * rng.randint(2, 20) + 1
        windows = plan_windows(plan, length, 8 * rng.randint(2, max(2, length // 8 - 1)))
        assert all(sizes(w.clip)[:2] == sizes(plan)[:2] and w.clip.fps == plan.fps for w in windows)
        last = windows[-1]
        assert last.first_frame + last.clip.frames == plan.frames
        assert last.audio_start + last.clip.audio_latents == plan.audio_latents


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, upscaler=tiny_set.upsampler, keep_loaded=True
    )


def assert_file(path, frames: int, fps: float) -> None:
    """Video and audio of the file end within less than a frame of each other."""
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        video_s, audio_s = video.duration * video.time_base, audio.duration * audio.time_base
        assert sum(1 for _ in file.decode(video=0)) == frames
    assert float(video_s) == pytest.approx(frames / fps, abs=1.5e-3)
    assert abs(video_s - audio_s) < Fraction(1) / Fraction(fps).limit_denominator(1001)


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 6, 7))])
def test_video_and_audio_of_a_written_file_end_together(pipeline, tmp_path, seed):
    rng = random.Random(seed)
    fps, frames = rng.choice((7.5, 8, 23.976, 24, 25, 29.97, 30, 50, 60)), rng.randint(1, 40)
    options = {"steps": 1, "cfg": 1.0, "fps": fps}
    size = {"width": rng.randint(40, 90), "height": rng.randint(40, 90)}
    generation = pipeline("x", **size, **options, num_frames=frames, stages=seed % 2 + 1)
    generation.save(tmp_path / "generated.mp4")
    assert_file(tmp_path / "generated.mp4", generation.clip.frames, fps)
    waveform = torch.rand(2, round(rng.uniform(0.1, 2) * 22050)) - 0.5
    with_audio = pipeline("x", **size, **options, num_frames=frames, audio=(waveform, 22050))
    with_audio.save(tmp_path / "audio.mp4")
    assert_file(tmp_path / "audio.mp4", with_audio.clip.frames, fps)


# An odd one has a source with audio.
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_video_and_audio_of_a_written_edit_end_together(pipeline, tmp_path, seed):
    rng = random.Random(seed)
    fps, frames = rng.choice((8, 23.976, 24, 25, 30, 60)), rng.randint(9, 30)
    audio = (torch.rand(1, round(frames / fps * 16000)) - 0.5, 16000) if seed % 2 else None
    source = Footage(frames=torch.rand(frames, 3, 70, 66), fps=fps, audio=audio)
    options = {"steps": 1, "cfg": 1.0}
    end = frames / fps
    edits = {
        frames + 5: extend(pipeline, "x", source, frames=5, keep_frames=9, **options),
        frames: retake(pipeline, "x", source, video=[(0, end / 2)], audio=[(0, end / 2)], **options),
        -frames: add_audio(pipeline, "x", source, **options),
    }
    for count, edit in edits.items():
        edit.save(tmp_path / "edit.mp4")
        assert_file(tmp_path / "edit.mp4", abs(count), fps)
    long = long_video(
        pipeline, "x", how=LongVideo(window_frames=17, overlap_frames=16), width=64, height=64, num_frames=25,
        fps=fps, **options,
    )  # fmt: skip
    long.save(tmp_path / "long.mp4")
    assert_file(tmp_path / "long.mp4", 25, fps)
