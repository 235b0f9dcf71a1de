"""What is held of the source of an edit is in the plan, and does not follow its length."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.config import video_vae_config
from ltx2_core.editing import Footage, retake
from ltx2_core.loading import Component
from ltx2_core.media import VideoWriter, to_signed
from ltx2_core.memory import Trace, encoder_bytes, source_host_bytes
from ltx2_core.memory.source_stage import CHUNK_FRAMES
from ltx2_core.run.execution import Execution
from ltx2_core.shapes import plan_clip


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, keep_loaded=True)


def write(path, frames: int, width: int = 160, height: int = 90):
    with VideoWriter(path, width=width, height=height, fps=24) as writer:
        for number in range(frames):
            writer.write_frames(torch.full((1, 3, height, width), number / frames))
    return path


@pytest.mark.parametrize("frames", [33, 97])
def test_the_frames_that_are_held_are_those_of_the_estimate(tmp_path, frames):
    source = Footage.read(write(tmp_path / "a.mp4", frames))
    clip = plan_clip(96, 64, frames=frames, fps=24)
    with torch.inference_mode(), Trace() as trace:
        for part in source.fitted(clip).frames.split(CHUNK_FRAMES):
            to_signed(part)
    # The decoded bytes come from numpy, which a trace does not see, and are an eighth of it.
    assert 0.5 < trace.peak / source_host_bytes(source.size, clip) <= 1


@pytest.mark.parametrize("frames", [57, 121])
def test_the_encoder_takes_what_the_estimate_says(pipeline, frames):
    clip, networks = plan_clip(160, 96, frames=frames, fps=24), pipeline.networks
    config = video_vae_config(networks.file(Component.VIDEO_ENCODER).config)
    expected = encoder_bytes(config, clip.width, clip.height, torch.float32)
    with networks.use(Component.VIDEO_ENCODER) as encoder, torch.inference_mode(), Trace() as trace:
        chunk = torch.zeros(1, 3, CHUNK_FRAMES, clip.height, clip.width)
        starts = range(0, frames, CHUNK_FRAMES)
        chunks = (chunk[:, :, : min(CHUNK_FRAMES, frames - start)].clone() for start in starts)
        for _ in encoder.encode_stream(chunks):
            pass
        trace_peak = trace.peak - chunk.numel() * 4
    assert trace_peak == pytest.approx(expected, rel=0.1)


def test_a_plan_with_a_source_counts_it_and_others_do_not(pipeline):
    clip = plan_clip(160, 96, frames=33, fps=24)
    without = pipeline.networks.plan([clip], budget=10**10)
    plan = pipeline.networks.plan([clip], budget=10**10, source=(1920, 1080))
    assert [stage.stage for stage in plan.stages] == ["text", "source", "stage 1", "audio", "decode"]
    assert [stage.stage for stage in without.stages] == ["text", "stage 1", "audio", "decode"]
    source = plan.stages[1]
    assert source.host == source_host_bytes((1920, 1080), clip) > 10**9
    assert source.weights > 0
    longer = plan_clip(160, 96, frames=1201, fps=24)
    assert pipeline.networks.plan([longer], budget=10**10, source=(1920, 1080)).stages[1] == source


def test_an_edit_that_has_no_room_for_its_source_says_so_before_work(tiny_set):
    source = Footage(frames=torch.rand(9, 3, 192, 320), fps=8.0)
    clip = source.plan(9)
    probe = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder)
    needs = probe.networks.plan([clip], budget=10**10, source=source.size)
    others = max(stage.total for stage in needs.stages if stage.stage != "source")
    if needs.stages[1].total <= others:
        pytest.skip("another stage of the tiny set needs more than its source")
    budget = int(needs.stages[1].total * 0.99)
    execution = Execution(device=torch.device("cpu"), dtype=torch.float32, max_memory=budget)
    tight = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, execution=execution)
    with pytest.raises(ValueError, match="does not fit"):
        retake(tight, "x", source, video=[(0, 0.5)], audio=[(0, 0.5)], steps=1)
