"""The predicted memory of a run: what it grows with and what it does not."""

from __future__ import annotations

from dataclasses import replace

import torch

from ltx2_core.config import transformer_config, video_vae_config
from ltx2_core.memory import MemoryEstimate, estimate_memory
from ltx2_core.shapes import plan_clip


def estimate(frames: int, *, width: int = 768, stages: int = 1) -> dict[str, MemoryEstimate]:
    clip = plan_clip(width, 512, frames=frames, stages=stages)
    entries = estimate_memory(
        text_weights=24_000_000_000,
        transformer_weights=38_000_000_000,
        decoder_weights=1_000_000_000,
        transformer=transformer_config({}),
        vae=video_vae_config({}),
        clips=[clip.half(), clip] if stages == 2 else [clip],
        dtype=torch.bfloat16,
    )
    return {entry.stage: entry for entry in entries}


def test_sampling_grows_with_the_clip_and_streamed_decoding_does_not() -> None:
    short, long = estimate(121), estimate(481)
    assert long["stage 1"].activations > 3 * short["stage 1"].activations
    assert long["decode"] == short["decode"]


def test_decoding_grows_with_the_frame_size() -> None:
    # Below that the pieces, whose size is bounded, are most of it.
    small, large = estimate(121)["decode"], estimate(121, width=3072)["decode"]
    assert large.activations > 1.3 * small.activations


def test_the_second_of_two_stages_is_the_larger_one() -> None:
    entries = estimate(121, stages=2)
    assert list(entries) == ["text", "stage 1", "stage 2", "decode"]
    assert entries["stage 1"].activations < entries["stage 2"].activations
    assert entries["stage 2"] == replace(estimate(121)["stage 1"], stage="stage 2")


def test_released_sizes_come_near_what_is_measured_elsewhere() -> None:
    # 768x512, 121 frames, bfloat16: 0.65 GB in the leanest public implementation of the transformer.
    assert 0.4e9 < estimate(121)["stage 1"].activations < 1.3e9
    assert 0.3e9 < estimate(121)["decode"].activations < 1.5e9
