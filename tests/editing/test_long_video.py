"""Windows on the grid, prompts in time, and a long clip that ends the same however often it is stopped."""

from __future__ import annotations

import random

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.editing import FramesInFile, FramesInMemory, LongVideo, PromptSchedule, long_video
from ltx2_core.editing.audio_track import decoded_audio
from ltx2_core.editing.conditioning import Keyframe
from ltx2_core.editing.long_clip import plan_long
from ltx2_core.editing.windows import WindowStore, plan_windows, video_pieces
from ltx2_core.media import VideoWriter
from ltx2_core.sampling.caching import StepCache
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer.tiles import Tiles
from ltx2_core.types import AVLatent

OPTIONS = {"width": 64, "height": 64, "num_frames": 57, "fps": 8.0, "steps": 2, "cfg": 1.0, "seed": 5}
HOW = LongVideo(window_frames=25, overlap_frames=16)


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, keep_loaded=True)


def test_windows_cover_every_latent_once():
    rng = random.Random(0)
    for _ in range(300):
        clip = plan_clip(64, 64, frames=rng.randint(1, 2000), fps=rng.choice((8, 23.976, 24, 25, 29.97, 60)))
        length = 8 * rng.randint(2, 20) + 1
        windows = plan_windows(clip, length, 8 * rng.randint(2, max(2, length // 8 - 1)))
        assert sum(w.fresh for w in windows) == clip.latent_frames
        assert sum(w.audio_fresh for w in windows) == clip.audio_latents
        at = audio_at = 0
        for window in windows:
            assert (window.start, window.audio_start) == (at, audio_at)
            assert window.overlap < window.clip.latent_frames
            assert window.audio_overlap >= 0
            assert abs(window.audio_start - window.start * 8 / clip.fps * 25) <= 1.5
            at, audio_at = at + window.fresh, audio_at + window.audio_fresh


@pytest.mark.parametrize(("window", "overlap"), [(24, 8), (25, 12), (25, 8), (25, 32), (9, 8)])
def test_windows_off_the_grid_are_refused(window, overlap):
    with pytest.raises(ValueError, match="must be"):
        plan_windows(plan_clip(64, 64, frames=121), window, overlap)


@pytest.mark.parametrize(("window", "shared"), [(17, 16), (25, 16), (33, 24), (41, 24), (121, 24)])
def test_by_default_windows_share_what_fits_them(window, shared):
    how = LongVideo(window_frames=window)
    assert how.shared_frames == shared
    assert plan_windows(plan_clip(64, 64, frames=121), window, shared)


@pytest.mark.parametrize(
    ("prompts", "windows", "unused"),
    [
        ("a ball", [(0, 1, 2)], []),
        ("0: a; 3: b", [(0,), (1, 2)], []),
        ("0: a; 2.5: b; 2.7: c; 9: d", [(0,), (), (1, 2), ()], ["from 2.5 s (b)", "from 9 s (d)"]),
        ("a | b", [(0,), (1, 2)], []),
        ("a | b | c | d", [(0,), (1,), (2,), ()], ["from window 4 (d)"]),
    ],
)
def test_a_prompt_that_no_window_has_is_said(prompts, windows, unused, caplog):
    clip = plan_clip(64, 64, frames=49, fps=8)
    schedule = PromptSchedule.parse(prompts, seconds=clip.seconds)
    plan = plan_long(clip, schedule, LongVideo(window_frames=25), seed=0)
    assert [*plan.windows_of_prompts()] == windows
    plan.warn_of_unused_prompts()
    said = [record.getMessage() for record in caplog.records]
    assert [part in line for part, line in zip(unused, said, strict=True)] == [True] * len(unused)


def test_prompts_are_parsed_from_text_lines_and_json():
    assert PromptSchedule.parse("a: b").parts == ((0, "a: b"),)
    lines = PromptSchedule.parse("0: a red ball\n2.5s: a blue square")
    assert (lines.at(0), lines.at(2.4), lines.at(2.5), lines.at(99)) == (
        "a red ball", "a red ball", "a blue square", "a blue square",
    )  # fmt: skip
    as_json = PromptSchedule.parse('[{"prompt": "a red ball"}, {"from": 2.5, "prompt": "a blue square"}]')
    assert as_json == lines
    ranges = PromptSchedule.parse("0-2.5: a red ball\n2.5 to 4s: a blue square")
    assert ranges == lines
    for text in ("a red ball | a blue square", '["a red ball", "a blue square"]'):
        windows = PromptSchedule.parse(text)
        assert [windows.at(99, i) for i in range(3)] == ["a red ball", "a blue square", "a blue square"]
    wrong_ranges = ("0-3: a\n2: b", '[{"from": 2, "to": 1, "prompt": "a"}]', '[{"prompt": "a"}, "b"]')
    for wrong in ("[1]", "[{]", '[{"from": 1}]', "0: a\n0: b", "[]", *wrong_ranges):
        with pytest.raises(ValueError, match=r"prompt|JSON"):
            PromptSchedule.parse(wrong)


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_identical_clip(pipeline, tmp_path):
    prompts = "0: a red ball\n3: a blue square"
    whole = long_video(pipeline, prompts, how=HOW, folder=tmp_path / "whole", **OPTIONS)

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        long_video(pipeline, prompts, how=HOW, folder=tmp_path / "cut", on_window=kill, **OPTIONS)
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) == 2
    stages: list[str] = []
    again = long_video(
        pipeline,
        prompts,
        how=HOW,
        folder=tmp_path / "cut",
        on_step=lambda p: stages.append(p.stage),
        **OPTIONS,
    )
    assert torch.equal(whole.frames(), again.frames())
    assert torch.equal(whole.audio()[0], again.audio()[0])
    assert whole.frames().shape == (57, 3, 64, 64)
    assert whole.audio()[0].shape[1] == round(57 / 8 * whole.rate)
    runs = sum(stage == "stage 1" for stage in stages) // 3
    assert runs == 1, "two of three windows were there already"
    with pytest.raises(ValueError, match="other settings"):
        long_video(pipeline, "another", how=HOW, folder=tmp_path / "cut", **OPTIONS)


def test_the_overlap_is_preserved_and_a_keyframe_changes_the_windows_from_its_frame_on(pipeline, tmp_path):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    folders = {"plain": (), "keyed": (Keyframe(frames=image, frame=40),)}
    clip = plan_clip(64, 64, frames=57, fps=8)
    windows = plan_windows(clip, 25, 16)
    latents = {}
    for name, keyframes in folders.items():
        how = LongVideo(window_frames=25, overlap_frames=16, keyframes=keyframes)
        long_video(pipeline, "a ball", how=how, folder=tmp_path / name, **OPTIONS)
        store = WindowStore.__new__(WindowStore)
        store.folder, store.spare = tmp_path / name, None
        one, two = store.load(0).video, store.load(1).video
        assert torch.equal(two[:, :, :2], one[:, :, -2:])
        latents[name] = torch.cat(list(video_pieces(windows, store)), dim=2)
    differs = (latents["plain"] != latents["keyed"]).flatten(3).any(3)[0].any(0)
    first = differs.nonzero()[0].item()
    assert first >= 4, "frame 40 lies in the third window and the ones after it"


@pytest.mark.slow
def test_audio_decoded_in_chunks_equals_the_whole(pipeline):
    clip = plan_clip(64, 64, frames=121, fps=12)
    latent = torch.randn(1, 8, clip.audio_latents, 16, generator=torch.Generator().manual_seed(2))
    whole, rate = pipeline.decode_audio(latent)
    chunks = decoded_audio(lambda x: pipeline.decode_audio(x)[0], iter(latent.split(40, dim=2)), clip, rate)
    joined = torch.cat(list(chunks), dim=1)
    assert joined.shape[1] == round(clip.seconds * rate)
    length = min(joined.shape[1], whole.shape[1])
    difference = (joined[:, :length] - whole[:, :length]).norm() / whole.norm()
    assert difference < 1e-3


def test_a_window_in_the_store_is_complete_or_absent(tmp_path):
    store = WindowStore(tmp_path, {"a": 1})
    latent = AVLatent(torch.randn(1, 128, 2, 2, 2), torch.randn(1, 8, 3, 16))
    store.save(0, latent)
    assert store.has(0)
    assert not store.has(1)
    assert torch.equal(store.load(0).video, latent.video)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.json", "window_00000.safetensors"]


def test_two_stages_and_a_keyframe_past_the_end_are_refused(pipeline):
    with pytest.raises(ValueError, match="stages=1"):
        long_video(pipeline, "x", how=HOW, stages=2, **OPTIONS)
    late = LongVideo(
        window_frames=25, overlap_frames=16, keyframes=(Keyframe(frames=torch.zeros(1, 3, 8, 8), frame=57),)
    )
    with pytest.raises(ValueError, match="frames 0 to 56"):
        long_video(pipeline, "x", how=late, **OPTIONS)


def test_a_source_changes_the_clip_and_input_audio_comes_back_unchanged(pipeline, tmp_path):
    source = torch.rand(57, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    audio = torch.rand(1, 8 * 11025, generator=torch.Generator().manual_seed(5)) - 0.5
    clips = {}
    for name, more in {
        "free": {},
        "shown": {"source": FramesInMemory(source)},
        "other": {"source": FramesInMemory(source.flip(0))},
        "started": {"source": FramesInMemory(source), "source_strength": 0.0, "denoise": 0.5},
    }.items():
        how = LongVideo(window_frames=25, overlap_frames=16, **more)
        clips[name] = long_video(pipeline, "x", how=how, audio=(audio, 11025), **OPTIONS)
    frames = {name: clip.frames() for name, clip in clips.items()}
    for name, one in frames.items():
        assert one.shape == (57, 3, 64, 64)
        assert all(name == other or not torch.equal(one, frames[other]) for other in frames)
        track, rate = clips[name].audio()
        assert rate == 11025
        assert torch.equal(track, audio[:, : round(57 / 8 * rate)])


def test_a_source_in_a_file_is_read_in_parts(pipeline, tmp_path):
    frames = torch.rand(1, 3, 64, 64).expand(30, -1, -1, -1) * torch.linspace(0.2, 1, 30)[:, None, None, None]
    with VideoWriter(tmp_path / "clip.mp4", width=64, height=64, fps=8) as writer:
        writer.write_frames(frames * 2 - 1)
    source = FramesInFile.open(tmp_path / "clip.mp4")
    assert (source.frame_count, source.fps, source.width, source.height) == (30, 8.0, 64, 64)
    whole = source.part(0, 30)
    assert torch.equal(source.part(16, 9), whole[16:25])
    assert len(whole) == 30
    with pytest.raises(ValueError, match="30 frames and the clip needs 57"):
        long_video(
            pipeline, "x", how=LongVideo(window_frames=57, overlap_frames=16, source=source), **OPTIONS
        )


def test_tiled_frames_use_the_same_windows(pipeline):
    wide = {**OPTIONS, "width": 192, "num_frames": 25}
    whole = long_video(pipeline, "x", how=HOW, **wide).frames()
    tiled = long_video(pipeline, "x", how=HOW, tiles=Tiles(columns=2, overlap=2), **wide).frames()
    assert whole.shape == tiled.shape
    assert not torch.equal(whole, tiled)
    with pytest.raises(ValueError, match="one of the two"):
        long_video(pipeline, "x", how=HOW, tiles=Tiles(columns=2), cache=StepCache(), **wide)
