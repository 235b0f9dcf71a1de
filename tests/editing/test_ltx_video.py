"""Edits with LTX-Video, which has no audio: the source keeps its own, and audio cannot be generated."""

from __future__ import annotations

import av
import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.plan import print_edit
from ltx2_core.editing import Footage, add_audio, extend, long_video, retake
from ltx2_core.editing.task import EditTask
from ltx2_core.media import VideoWriter
from ltx2_core.tiny.write import write_tiny_set

QUICK = {"steps": 1, "seed": 3}
FPS, FRAMES = 8.0, 17


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    files = write_tiny_set(tmp_path_factory.mktemp("ltxv"), generation="ltxv-2b", dtype=torch.float32)
    return LTX2Pipeline(
        files.checkpoint, text_encoder=files.text_encoder, upscaler=files.upsampler, device="cpu"
    )


def footage(*, audio: bool) -> Footage:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(FRAMES, 3, 64, 64, generator=generator)
    seconds = FRAMES / FPS
    track = (torch.rand(2, round(16000 * seconds), generator=generator) - 0.5, 16000) if audio else None
    return Footage(frames=frames, fps=FPS, audio=track)


@pytest.mark.parametrize("stages", [1, 2])
def test_seconds_of_the_video_are_regenerated_and_the_audio_is_that_of_the_source(pipeline, stages):
    source = footage(audio=True)
    edit = retake(pipeline, "a ball", source, video=[(1.0, 1.5)], stages=stages, seed=3)
    frames = (edit.frames() + 1) / 2
    assert torch.allclose(frames[0], source.frames[0:1][0], atol=1e-6)
    assert not torch.allclose(frames[10], source.frames[10:11][0], atol=1e-2)
    waveform, rate = edit.audio()
    assert rate == 16000
    assert torch.equal(waveform, source.audio[0])


def test_an_extension_continues_the_video_behind_the_audio_of_the_source(pipeline):
    source = footage(audio=True)
    edit = extend(pipeline, "a ball", source, seconds=1.0, keep_frames=9, **QUICK)
    assert edit.frame_count == FRAMES + 8
    assert len(edit.frames()) == edit.frame_count
    waveform, rate = edit.audio()
    joint = source.audio[0].shape[1]
    assert torch.equal(waveform[:, : joint - rate // 20], source.audio[0][:, : -rate // 20])
    assert waveform[:, joint + rate // 20 :].abs().max() == 0


def test_an_edit_of_a_silent_clip_has_no_track(pipeline, tmp_path):
    edits = {
        "retake": retake(pipeline, "a ball", footage(audio=False), video=[(1.0, 1.5)], **QUICK),
        "extend": extend(pipeline, "a ball", footage(audio=False), seconds=1.0, keep_frames=9, **QUICK),
        "long": long_video(pipeline, "0-2: a ball", width=64, height=64, num_frames=33, fps=FPS, **QUICK),
    }
    for name, edit in edits.items():
        path = tmp_path / f"{name}.mp4"
        edit.save(path)
        with av.open(str(path)) as file:
            assert not file.streams.audio, name
            assert sum(1 for _ in file.decode(video=0)) == edit.frame_count


def test_audio_cannot_be_generated(pipeline):
    source = footage(audio=True)
    with pytest.raises(ValueError, match=r"--audio-region.*LTX-Video has no audio"):
        retake(pipeline, "a ball", source, audio=[(0.5, 1.0)], **QUICK)
    with pytest.raises(ValueError, match=r"audio is to be generated.*LTX-Video has no audio"):
        add_audio(pipeline, "a ball", source, **QUICK)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("retake", {"video": [(1.0, 1.5)]}), ("extend", {"frames": 8, "keep_frames": 9})],
)
def test_the_plan_of_an_edit_names_no_audio(pipeline, tmp_path, capsys, kind, options):
    source, clip = tmp_path / "source.mp4", footage(audio=True)
    with VideoWriter(source, width=64, height=64, fps=FPS, sample_rate=clip.audio[1]) as writer:
        writer.write_frames(clip.frames * 2 - 1)
        writer.write_audio(clip.audio[0])
    task = EditTask(kind=kind, prompt="a ball", source=source, options=options)
    print_edit(pipeline, *task.plan(pipeline))
    lines = capsys.readouterr().out.splitlines()
    source_line, planned = lines[0], [line for line in lines[1:] if not line.startswith("files")]
    assert source_line.endswith("audio")
    assert any(line.startswith("peak") for line in planned)
    assert not [line for line in planned if "audio" in line or "modality" in line]
