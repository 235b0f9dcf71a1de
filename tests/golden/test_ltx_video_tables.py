"""Tables of LTX-Video in JSON: noise levels, the guidance of each step, and the tokens of T5."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core.sampling.ltx_video import guidance_13b
from ltx2_core.sampling.schedules import FIXED_SIGMAS, linear_quadratic_sigmas, ltxv_sigmas
from ltx2_core.text.t5_tokenizer import load_t5_tokenizer

sys.path.insert(0, str(Path(__file__).parent))

from conftest import golden_dirs

TOLERANCE = 1e-6


@cache
def tables() -> list[dict[str, Any]]:
    """The JSON files beside the fixtures that no fixture belongs to."""
    files = [path for folder in golden_dirs() for path in sorted(folder.rglob("*.json"))]
    alone = [path for path in files if not path.with_suffix(".safetensors").exists()]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in alone]
    return [table for table in found if isinstance(table, dict)]


def rows(*keys: str) -> list[Any]:
    """All rows below ``keys`` in the tables that have them."""
    found = []
    for table in tables():
        part: Any = table
        for key in keys:
            part = part.get(key) if isinstance(part, dict) else None
        found += [] if part is None else part if isinstance(part, list) else [part]
    return found


def each(*keys: str) -> pytest.MarkDecorator:
    found = rows(*keys)
    absent = pytest.param(None, marks=pytest.mark.skip(reason=f"no table with {' / '.join(keys)}"))
    return pytest.mark.parametrize("row", found or [absent])


def assert_sigmas(found: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=TOLERANCE)


@each("shifted")
def test_shifted_noise_levels(row: dict[str, Any]) -> None:
    assert_sigmas(ltxv_sigmas(row["steps"], row["tokens"]), row["sigmas"])


@each("linear_quadratic")
def test_linear_quadratic_noise_levels(row: dict[str, Any]) -> None:
    assert_sigmas(linear_quadratic_sigmas(row["steps"]), row["sigmas"])


@each("two_pass", "13b dev, 30 steps")
def test_noise_levels_of_both_stages_of_13b(row: dict[str, list[float]]) -> None:
    first, second = row.values()
    assert_sigmas(FIXED_SIGMAS["ltxv_13b_first"], first)
    assert_sigmas(FIXED_SIGMAS["ltxv_13b_stage2"], second)


@each("two_pass", "distilled")
def test_noise_levels_of_both_stages_of_distilled_weights(row: dict[str, list[float]]) -> None:
    assert_sigmas(FIXED_SIGMAS["ltxv_distilled_first"], row["first"])
    assert_sigmas(FIXED_SIGMAS["ltxv_distilled_stage2"], row["second"])


@each("guidance_steps_13b_dev")
def test_guidance_of_each_step_of_13b(row: dict[str, list[Any]]) -> None:
    schedule = guidance_13b()
    sigmas = FIXED_SIGMAS["ltxv_13b_first"]
    assert len(row["index_per_step"]) == len(sigmas) - 1
    for sigma, index in zip(sigmas.tolist(), row["index_per_step"], strict=False):
        guidance = schedule.at(sigma)
        blocks = row["skip_block_list"][index]
        assert guidance.video.cfg == row["guidance_scale"][index]
        assert guidance.video.stg == (row["stg_scale"][index] if blocks else 0)
        assert list(guidance.stg_blocks) == blocks
        rescale = row["rescaling_scale"][index]
        assert guidance.video.rescale == (0 if rescale == 1 else rescale)


def t5_file() -> Path | None:
    """The tokenizer of T5 that comes with ComfyUI; this project has none of that size."""
    host = os.environ.get("COMFYUI_DIR")
    file = Path(host or os.devnull) / "comfy" / "text_encoders" / "t5_tokenizer" / "tokenizer.json"
    return file if file.is_file() else None


@each("rows")
def test_tokens_of_t5(row: dict[str, Any]) -> None:
    if "diffusers_128" not in row:
        pytest.skip("a table of something else")
    file = t5_file()
    if file is None:
        pytest.skip("set COMFYUI_DIR to a checkout of ComfyUI, which has the tokenizer of T5")
    tokenizer = load_t5_tokenizer(file)
    assert tokenizer(row["text"]) == row["ids"]
    tokenizer.max_tokens = row["diffusers_128"]["length"]
    assert tokenizer(row["text"]) == row["diffusers_128"]["ids"]
