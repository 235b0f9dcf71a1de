"""The plan keeps within its budget where anything can, and gives up as little as that needs."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.config import transformer_config, video_vae_config
from ltx2_core.memory import PRESETS, plan_memory
from ltx2_core.shapes import plan_clip

BLOCK = 770_000_000


def plan(budget, *, width=768, height=512, frames=121):
    return plan_memory(
        budget,
        text_weights=6_000_000_000,
        transformer_weights=38_000_000_000,
        block_weights=BLOCK,
        decoder_weights=1_000_000_000,
        transformer=transformer_config({}),
        vae=video_vae_config({}),
        clips=[plan_clip(width, height, frames=frames)],
        dtype=torch.bfloat16,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_holds_a_clip_of_five_seconds(preset):
    made = plan(PRESETS[preset])
    assert made.fits and made.peak <= PRESETS[preset]


def test_a_smaller_budget_keeps_fewer_blocks_and_accounts_for_all_of_them():
    plans = [plan(budget) for budget in PRESETS.values()]
    kept = [made.resident_blocks for made in plans]
    assert kept == sorted(kept) and kept[0] < 10 and kept[-1] == 48
    for made in plans:
        stage = next(stage for stage in made.stages if stage.stage == "stage 1")
        twice = 2 * BLOCK if made.resident_blocks < 48 else 0
        assert stage.weights + stage.host == 38_000_000_000 + twice


def test_chunks_come_before_streaming():
    whole = plan(80 * 10**9, width=1920, height=1088)
    assert whole.chunk_tokens is None and whole.resident_blocks == 48
    tight = plan(int(39.9e9 / 0.94), width=1920, height=1088)
    assert tight.chunk_tokens is not None and tight.resident_blocks == 48


def test_a_plan_that_cannot_fit_says_so():
    made = plan(2 * 10**9, width=1920, height=1088)
    assert not made.fits
    assert "does not fit" in made.lines()[-1]
    with pytest.raises(ValueError, match="at least 1 byte; got 0"):
        plan(0)
