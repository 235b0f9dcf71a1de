"""The plan stays within its budget if any plan can, and offloads no more than that needs."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.config import transformer_config, video_vae_config
from ltx2_core.memory import PRESETS, ModelSize, plan_memory
from ltx2_core.shapes import plan_clip

BLOCK = 770_000_000


def plan(budget, *, width=768, height=512, frames=121):
    size = ModelSize(
        text_weights=6_000_000_000,
        transformer_weights=38_000_000_000,
        block_weights=BLOCK,
        decoder_weights=1_000_000_000,
        transformer=transformer_config({}),
        vae=video_vae_config({}),
    )
    clip = plan_clip(width, height, frames=frames)
    return plan_memory(budget, size, clips=[clip], dtype=torch.bfloat16)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_holds_a_clip_of_five_seconds(preset):
    result = plan(PRESETS[preset])
    assert result.fits
    assert result.peak <= PRESETS[preset]


def test_a_smaller_budget_holds_fewer_blocks_and_accounts_for_all_of_them():
    plans = [plan(budget) for budget in PRESETS.values()]
    resident = [result.resident_blocks for result in plans]
    assert resident == sorted(resident)
    assert resident[0] < 10
    assert resident[-1] == 48
    for result in plans:
        stage = next(stage for stage in result.stages if stage.stage == "stage 1")
        twice = 2 * BLOCK if result.resident_blocks < 48 else 0
        assert stage.weights + stage.host == 38_000_000_000 + twice


def test_chunks_come_before_streaming():
    whole = plan(80 * 10**9, width=1920, height=1088)
    assert whole.chunk_tokens is None
    assert whole.resident_blocks == 48
    tight = plan(int(39.9e9 / 0.94), width=1920, height=1088)
    assert tight.chunk_tokens is not None
    assert tight.resident_blocks == 48


def test_a_plan_that_cannot_fit_says_so():
    result = plan(2 * 10**9, width=1920, height=1088)
    assert not result.fits
    assert "does not fit" in result.lines()[-1]
    with pytest.raises(ValueError, match="at least 1 byte; got 0"):
        plan(0)
