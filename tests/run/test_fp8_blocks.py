"""Blocks in fp8 in a run: left out with a reason if the device cannot, loaded again for other LoRAs."""

from __future__ import annotations

import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer.fp8 import exact_product, fp8_problem, is_fp8


def test_a_device_without_fp8_products_is_named(caplog, tiny_set):
    assert "need an NVIDIA GPU; the device is cpu" in fp8_problem(torch.device("cpu"), torch.bfloat16)
    pipeline = LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu", fp8_blocks=True
    )
    assert pipeline.networks.fp8_product is None
    assert "NVIDIA GPU" in pipeline.networks.fp8_problem
    assert "blocks are not held in fp8" in caplog.text
    with pipeline.networks.use_transformer() as transformer:
        assert not is_fp8(transformer)


def test_a_network_in_fp8_is_loaded_again_for_other_loras(deep):
    networks = LTX2Pipeline(deep.checkpoint, device="cpu", keep_loaded=True, loras=[deep.lora])
    loras, networks = networks.loras, networks.networks
    networks.fp8_product = exact_product
    weights = []
    for chosen in ((), loras, loras):
        with networks.use_transformer(chosen) as transformer:
            assert is_fp8(transformer)
            weights.append(transformer.transformer_blocks[1].attn1.to_q)
    assert weights[0] is not weights[1]
    assert weights[1] is weights[2]


def test_the_plan_counts_the_bytes_that_fp8_saves(deep):
    networks = LTX2Pipeline(deep.checkpoint, device="cpu", dtype=torch.bfloat16, keep_loaded=True).networks
    clips = [plan_clip(128, 128, frames=9, fps=25)]
    before = networks.plan(clips, budget=10**9).stages[1].weights
    networks.fp8_product = exact_product
    after = networks.plan(clips, budget=10**9).stages[1].weights
    with networks.use_transformer() as transformer:
        held = [*transformer.parameters(), *transformer.buffers()]
        assert after == sum(tensor.nbytes for tensor in held) < before
