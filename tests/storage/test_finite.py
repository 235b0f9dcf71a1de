"""Values that are NaN or infinite: found in every number format, and named by tensor and file at load."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.run.progress import check_estimate
from ltx2_core.storage import finite
from ltx2_core.storage.finite import is_finite
from ltx2_core.text import load_gemma
from ltx2_core.tiny import embedded_set
from ltx2_core.types import AVLatent

FORMATS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
PREFIX = "model.diffusion_model.transformer_blocks.0."


def extremes(dtype):
    info = torch.finfo(dtype)
    return torch.tensor([0.0, -0.0, 1.0, info.max, info.min, info.tiny, -info.tiny], dtype=torch.float64).to(
        dtype
    )


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_largest_values_of_a_format_are_finite(dtype):
    assert is_finite(extremes(dtype))
    assert is_finite(extremes(dtype).reshape(7, 1).t())


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FORMATS)
def test_one_bad_value_is_found_anywhere(dtype, bad, monkeypatch):
    monkeypatch.setattr(finite, "PIECE", 3)
    value = torch.tensor([bad]).to(dtype)
    if value.float().isfinite():
        pytest.skip("e4m3fn has no infinity: it saturates")
    for position in range(8):
        values = extremes(dtype)
        assert not is_finite(torch.cat((values[:position], value, values[position:])))


@pytest.mark.parametrize("bits", [0x7F, 0xFF, 0x7C, 0xFC, 0x7E, 0xFE])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_byte_of_fp8_is_judged_as_torch_does(dtype, bits):
    value = torch.tensor([bits], dtype=torch.uint8).view(dtype)
    assert is_finite(value) == bool(value.float().isfinite().all())


def test_integers_and_empty_tensors_are_finite():
    assert is_finite(torch.ones(3, dtype=torch.int8))
    assert is_finite(torch.ones(0))


@pytest.fixture
def damaged(tmp_path):
    """A copy of a file with one value of a tensor replaced."""

    def make(source, name, value, row=3):
        tensors = load_file(source)
        tensors[name].view(-1)[row] = value
        with safe_open(source, "pt") as file:
            metadata = file.metadata()
        path = tmp_path / "damaged.safetensors"
        save_file(tensors, path, metadata=metadata)
        return path

    return make


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("component", "name"),
    [
        (Component.TRANSFORMER, f"{PREFIX}attn1.to_q.weight"),
        (Component.TRANSFORMER, f"{PREFIX}attn1.q_norm.weight"),
        (Component.TRANSFORMER, f"{PREFIX}audio_attn1.to_k.bias"),
        (Component.TRANSFORMER, f"{PREFIX}scale_shift_table"),
        (Component.VIDEO_DECODER, "vae.per_channel_statistics.mean-of-means"),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_damaged_weight_is_refused_by_name(component, name, value, dtype, damaged):
    path = damaged(embedded_set().checkpoint, name, value)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"damaged\.safetensors: {name} holds values that are NaN"):
            open_checkpoint(path).load(component, dtype=dtype)


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_a_damaged_lora_is_refused_by_name(half, tmp_path):
    checkpoint = open_checkpoint(embedded_set().checkpoint)
    rows, columns = checkpoint.shapes(Component.TRANSFORMER)["transformer_blocks.0.attn1.to_k.weight"]
    module = "transformer_blocks.0.attn1.to_k"
    tensors = {
        f"{module}.lora_A.weight": torch.zeros(2, columns),
        f"{module}.lora_B.weight": torch.zeros(rows, 2),
    }
    tensors[f"{module}.{half}.weight"][1, 1] = math.nan
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=rf"lora\.safetensors: {module}\.{half}\.weight holds values"):
        checkpoint.load(Component.TRANSFORMER, loras=[open_lora(tmp_path / "lora.safetensors")])


def test_a_weight_below_a_lora_is_checked_too(damaged, tmp_path):
    path = damaged(embedded_set().checkpoint, f"{PREFIX}attn1.to_k.weight", math.nan)
    checkpoint = open_checkpoint(path)
    rows, columns = checkpoint.shapes(Component.TRANSFORMER)["transformer_blocks.0.attn1.to_k.weight"]
    module = "transformer_blocks.0.attn1.to_k"
    tensors = {
        f"{module}.lora_A.weight": torch.zeros(2, columns),
        f"{module}.lora_B.weight": torch.zeros(rows, 2),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"damaged\.safetensors: .*to_k\.weight holds values"):
        checkpoint.load(Component.TRANSFORMER, loras=[open_lora(tmp_path / "lora.safetensors")])


def test_a_damaged_text_encoder_is_refused_by_name(tmp_path, damaged):
    shutil.copytree(embedded_set().text_encoder, tmp_path / "gemma")
    (file,) = (tmp_path / "gemma").glob("*.safetensors")
    name = next(name for name in load_file(file) if name.endswith("layers.0.self_attn.q_norm.weight"))
    shutil.copy(damaged(file, name, math.nan), file)
    with pytest.raises(ValueError, match=rf"{name} holds values"):
        load_gemma(tmp_path / "gemma", dtype=torch.float32)


def test_an_exchanged_file_is_checked_again(damaged):
    name = f"{PREFIX}attn1.to_q.weight"
    path = damaged(embedded_set().checkpoint, name, 0.0)
    open_checkpoint(path).load(Component.TRANSFORMER)
    damaged(embedded_set().checkpoint, name, math.nan)
    with pytest.raises(ValueError, match="holds values"):
        open_checkpoint(path).load(Component.TRANSFORMER)


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_an_estimate_that_is_not_finite_names_stage_step_and_stream(stream):
    x0 = AVLatent(torch.zeros(1, 128, 2, 2, 2), torch.zeros(1, 8, 3, 16))
    check_estimate("stage 1", 1, 8, x0)
    getattr(x0, stream).view(-1)[5] = math.nan
    with pytest.raises(ValueError, match=rf"stage 1, step 1 of 8: the estimate of {stream} holds"):
        check_estimate("stage 1", 1, 8, x0)


def test_a_run_stops_after_its_first_step():
    pipeline = LTX2Pipeline.embedded()
    steps = []
    # Finite, so that they are taken, and too large to be squared in a norm.
    latents = AVLatent(torch.full((1, 128, 2, 2, 2), 3e38), None)
    with pytest.raises(ValueError, match="stage 1, step 1 of 2: the estimate of video"):
        pipeline(
            "a red circle",
            latents=latents,
            steps=2,
            cfg=1,
            denoise=0.5,
            fps=25,
            on_step=lambda p: steps.append(p),
        )
    assert not [p for p in steps if p.stage == "stage 1" and p.step]


def test_the_block_in_which_values_break_is_named():
    pipeline = LTX2Pipeline.embedded(loras=[(embedded_set().distilled, 1e30)])
    with pytest.raises(
        ValueError, match=r"holds NaN or infinite values, first in block 0, video( and audio)?, so"
    ):
        pipeline("a red circle", steps=2, cfg=1, width=64, height=64, num_frames=9, fps=8)
