"""The plan stays within its budget if any plan can, and offloads no more than that needs."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.config import transformer_config, video_vae_config
from ltx2_core.memory import PRESETS, ModelSize, plan_memory, released_size
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


@pytest.mark.parametrize(("stored", "transformer", "text"), [("bf16", 42.0, None), ("int8", 21.5, 15.4)])
def test_sizes_of_released_files_of_2_5_are_those_of_the_files(stored, transformer, text):
    size = released_size("2.5", stored)
    # GB of the files with their connectors; those with the projection have the tokenizer too.
    assert (size.transformer_weights + size.connector_weights) / 1e9 == pytest.approx(transformer, rel=0.01)
    if text is not None:
        assert (size.text_weights - size.connector_weights) / 1e9 == pytest.approx(text, rel=0.02)


def test_the_last_line_of_a_plan_says_what_it_costs():
    last = {gb: plan(gb * 10**9).lines()[-1] for gb in (8, 80)}
    assert last[80].startswith("fits: needs ")
    assert last[80].endswith("of 80 GB; nothing is offloaded")
    assert "of system memory; slower, because each step copies" in last[8]


def test_a_smaller_clip_is_advised_only_where_it_helps():
    assert "make a smaller clip" in plan(10**9).shortage
    # The text of any clip needs more than that.
    size = released_size("2.5")
    clip = plan_clip(64, 64, frames=9)
    few = plan_memory(3 * 10**9, size, clips=[clip], dtype=torch.bfloat16)
    assert "in text" in few.shortage
    assert "files with weights of fewer bits" in few.shortage
