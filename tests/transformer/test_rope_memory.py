"""Rotary tables are computed once for a clip, again for another one, and freed on request."""

from dataclasses import replace

import pytest
import torch

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.transformer import RopeMemory


def ropes(tables):
    return [table for table in vars(tables).values() if table is not None]


def same(one, other):
    return all(a.cos is b.cos and a.sin is b.sin for a, b in zip(ropes(one), ropes(other), strict=True))


@pytest.fixture
def clip(model23, streams):
    return [make(model23.config) for make in streams]


def longer(video):
    positions = video_positions(3, 2, 3, 24.0)
    return replace(video, tokens=torch.randn(2, positions.shape[2], 6), positions=positions)


@torch.inference_mode()
def test_the_second_step_takes_the_tables_of_the_first(model23, clip):
    memory = RopeMemory()
    video, audio = clip
    first = memory.tables(model23, video, audio)
    # Every step computes its positions again, as a sampler does.
    again = memory.tables(model23, replace(video, positions=video.positions.clone()), audio)
    assert same(first, again)
    assert memory.computed == 2
    fresh = model23.rope_tables(video.positions, audio.positions)
    assert all(torch.equal(a.cos, b.cos) for a, b in zip(ropes(first), ropes(fresh), strict=True))
    for a, e in zip(model23(video, audio, rope=again), model23(video, audio), strict=True):
        assert torch.equal(a, e)


@torch.inference_mode()
def test_another_shape_place_or_dtype_has_its_own_and_the_old_ones_go(model23, clip):
    memory = RopeMemory()
    video, audio = clip
    first = memory.tables(model23, video, audio)
    for made, other in enumerate(
        (
            longer(video),
            replace(video, positions=video.positions + 1),
            replace(video, tokens=video.tokens.bfloat16()),
        ),
        start=3,
    ):
        tables = memory.tables(model23, other, audio)
        assert memory.computed == made
        assert not same(tables, first)
        assert tables.audio is first.audio
        assert tables.video.cos.dtype == other.tokens.dtype
        assert memory.kept == 2


@torch.inference_mode()
def test_tables_of_audio_with_and_without_a_reference_are_both_cached(model23, clip):
    memory = RopeMemory()
    video, audio = clip
    referenced = replace(audio, tokens=torch.randn(2, 7, 10), positions=audio_positions(7))
    for _ in range(3):
        memory.tables(model23, video, audio)
        memory.tables(model23, video, referenced)
    assert memory.computed == 3


@torch.inference_mode()
def test_a_stream_alone_has_no_tables_for_the_other(model23, clip):
    memory = RopeMemory()
    video, audio = clip
    none = replace(audio, tokens=audio.tokens[:, :0], positions=audio.positions[:, :, :0])
    for absent in (None, none):
        tables = memory.tables(model23, video, absent)
        assert len(ropes(tables)) == 1
    assert memory.computed == 1
    assert len(ropes(memory.tables(model23, video, audio))) == 4


def test_it_frees_its_tables_and_caches_none_with_gradients(model23, clip):
    memory = RopeMemory()
    memory.tables(model23, *clip)
    assert memory.kept == 0
    with torch.no_grad():
        memory.tables(model23, *clip)
        assert memory.kept == 2
        memory.clear()
        assert memory.kept == 0
        memory.tables(model23, *clip)
    assert memory.computed == 6
