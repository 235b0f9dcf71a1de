"""Blocks of GGUF decode to what the package ``gguf`` makes of them."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.storage.gguf_blocks import BLOCKS, encode_q8_0, gguf_factors, gguf_values

gguf = pytest.importorskip("gguf")


def stored(kind: str, rows: int = 5, blocks: int = 3) -> torch.Tensor:
    """Random codes and scales, with factors that are ordinary numbers."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (rows, blocks, BLOCKS[kind][1]), generator=generator, dtype=torch.uint8)
    # The exponents of random float16 numbers reach infinity.
    factors = gguf_factors(kind, data.flatten(1))
    wrong = ~factors.isfinite().all(dim=-1)
    data[wrong] = 1
    return data.flatten(1)


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_decode_as_the_package_decodes_them(kind):
    data = stored(kind)
    expected = gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType[kind])
    found = gguf_values(kind, data)
    assert found.shape == (5, 3 * BLOCKS[kind][0])
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", BLOCKS)
def test_sizes_are_those_of_the_package(kind):
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] == BLOCKS[kind]


def test_q8_0_is_encoded_as_the_package_encodes_it():
    weight = torch.randn(7, 96, generator=torch.Generator().manual_seed(1))
    weight[2, 32:64] = 0
    found = encode_q8_0(weight)
    expected = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    decoded = [gguf_values("Q8_0", data) for data in (found, torch.from_numpy(expected))]
    # Where a value lies between two codes, the two may round differently: one step.
    torch.testing.assert_close(*decoded, rtol=0, atol=float(weight.abs().max()) / 120)
    assert (decoded[0] - weight).abs().max() <= weight.abs().max() / 250
