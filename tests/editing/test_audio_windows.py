"""Audio for a long video is sampled window by window, and each continues the one before."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.editing import Footage, add_audio
from ltx2_core.editing.audio_windows import audio_windows
from ltx2_core.run.saved_latents import resume, save_latents
from ltx2_core.shapes import plan_clip

QUICK = {"steps": 1, "cfg": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, keep_loaded=True)


@pytest.fixture
def source() -> Footage:
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    return Footage(frames=torch.stack([noise.roll(n, 2) for n in range(100)]), fps=8.0)


class Spy:
    """A pipeline that also records the requests that it samples."""

    def __init__(self, pipeline):
        self.pipeline, self.runs = pipeline, []

    def __getattr__(self, name):
        return getattr(self.pipeline, name)

    def __call__(self, request: Request, **options):
        result = self.pipeline(request, **options)
        self.runs.append((request.size.num_frames, request.sampling.seed, result.latents.audio))
        return result


@pytest.mark.slow
def test_every_window_continues_the_audio_before_it(pipeline, source):
    spy = Spy(pipeline)
    saved = []
    edit = add_audio(spy, "x", source, window_frames=33, on_sampled=saved.append, **QUICK)
    assert [(frames, seed) for frames, seed, _ in spy.runs] == [(33, 3), (33, 4), (33, 5), (25, 6)]
    whole = saved[0].latents.audio
    windows = audio_windows(saved[0].clip, 33)
    for window, (_, _, sampled) in zip(windows, spy.runs, strict=True):
        part = whole[:, :, window.audio_start :][:, :, : sampled.shape[2]]
        # Overlaps are preserved, so that later windows change nothing of earlier ones.
        assert torch.equal(part, sampled.cpu())
        assert window.index == 0 or window.audio_overlap > 20
    waveform, rate = edit.audio()
    assert waveform.shape[1] == round(100 / 8 * rate)
    assert torch.equal(edit.frames(), source.frames * 2 - 1)


def test_a_short_video_is_one_run_and_windows_do_not_change_it(pipeline, source):
    short = Footage(frames=source.frames[:33], fps=8.0)
    spy = Spy(pipeline)
    one = add_audio(spy, "x", short, window_frames=33, **QUICK)
    assert [frames for frames, _, _ in spy.runs] == [33]
    assert torch.equal(one.audio()[0], add_audio(pipeline, "x", short, **QUICK).audio()[0])


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_from_its_latents(pipeline, source, tmp_path):
    path = []

    def save(done):
        path.append(save_latents(done, tmp_path / "o.mp4", folder=tmp_path / "saved"))

    edit = add_audio(pipeline, "x", source, window_frames=33, on_sampled=save, **QUICK)
    again = add_audio(pipeline, "x", source, window_frames=33, sampled=resume(path[0], pipeline), **QUICK)
    assert torch.equal(again.audio()[0], edit.audio()[0])
    short = Footage(frames=source.frames[:90], fps=8.0)
    with pytest.raises(ValueError, match="saved latents"):
        add_audio(pipeline, "x", short, window_frames=33, sampled=resume(path[0], pipeline), **QUICK)


@pytest.mark.parametrize("fps", [1, 8, 24, 60, 240])
@pytest.mark.parametrize("frames", [25, 121, 257])
def test_windows_cover_the_clip_and_mostly_bring_new_audio(fps, frames):
    clip = plan_clip(64, 64, frames=2001, fps=fps)
    windows = audio_windows(clip, frames)
    assert windows[-1].audio_start + windows[-1].clip.audio_latents == clip.audio_latents
    assert all(w.overlap * 8 <= max(w.clip.frames, frames) * 0.7 for w in windows)


def test_a_window_off_the_grid_is_an_error(pipeline, source):
    with pytest.raises(ValueError, match="8k"):
        add_audio(pipeline, "x", source, window_frames=50, **QUICK)


class Stopping(Spy):
    """Stops before it samples a window of this number."""

    def __init__(self, pipeline, at):
        super().__init__(pipeline)
        self.at = at

    def __call__(self, request: Request, **options):
        if len(self.runs) == self.at:
            raise KeyboardInterrupt
        return super().__call__(request, **options)


@pytest.mark.slow
def test_finished_windows_are_reused_by_the_same_call_alone(pipeline, source, tmp_path):
    def call(pipeline, **options):
        return add_audio(pipeline, "x", source, window_frames=33, folder=tmp_path, **{**QUICK, **options})

    whole = add_audio(pipeline, "x", source, window_frames=33, **QUICK).audio()[0]
    with pytest.raises(KeyboardInterrupt):
        call(Stopping(pipeline, 2))
    spy = Spy(pipeline)
    assert torch.equal(call(spy).audio()[0], whole)
    assert [seed for _, seed, _ in spy.runs] == [5, 6]
    for changed in ({"seed": 4}, {"steps": 2}):
        spy = Spy(pipeline)
        call(spy, **changed)
        assert len(spy.runs) == 4, changed


def test_windows_on_a_spare_disk_are_those_of_one_clip(tmp_path):
    from ltx2_core.editing.windows import WindowStore
    from ltx2_core.types import AVLatent

    latent = AVLatent(None, torch.zeros(1, 8, 2, 16))
    one = WindowStore(tmp_path / "a", {"seed": 1}, spare=tmp_path / "spare")
    other = WindowStore(tmp_path / "b", {"seed": 2}, spare=tmp_path / "spare")
    one.save(0, latent)
    # As if the disk of its folder had been full.
    one.spare.mkdir(parents=True)
    one._file(one.folder, 0).rename(one._file(one.spare, 0))
    assert one.has(0)
    assert not other.has(0)
