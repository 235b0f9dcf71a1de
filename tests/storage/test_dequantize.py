"""Stored fp8, NVFP4 and int8 weights are decoded to their values."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.storage.dequantize import E2M1, untile_block_scales
from ltx2_core.storage.header import read_header
from ltx2_core.storage.quantized import find_quantized
from ltx2_core.storage.reading import read_markers, read_state

CPU = torch.device("cpu")


def marker(kind: str) -> Tensor:
    return torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)


@pytest.fixture
def decoded(tmp_path):
    """Tensors of the layer "a" -> its weight as it is read from a file of them, in float32."""

    def read(tensors: dict[str, Tensor], shape: tuple[int, int] = (2, 2)) -> Tensor:
        save_file({f"a.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
        header = read_header(tmp_path / "a.safetensors")
        layers = find_quantized(header.tensors, read_markers(header.tensors, header.metadata))
        shapes = {"a.weight": shape}
        return read_state(header.tensors, layers, frozenset(), shapes, torch.float32, CPU)["a.weight"]

    return read


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", ["weight_scale", "scale_weight"])
def test_fp8_values_are_multiplied_with_their_scale(decoded, dtype, scale) -> None:
    weight = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    assert torch.equal(decoded({"weight": weight.to(dtype), scale: torch.tensor(0.25)}), weight * 0.25)


def test_weights_without_scale_are_only_cast(decoded) -> None:
    for dtype in (torch.float8_e4m3fn, torch.bfloat16):
        result = decoded({"weight": torch.tensor([[1.5, -2.0]], dtype=dtype)}, (1, 2))
        assert result.dtype == torch.float32
        assert result.tolist() == [[1.5, -2.0]]


def test_every_element_of_a_tiled_scale_sits_at_its_published_offset() -> None:
    rows, columns = 256, 8
    flat = torch.arange(rows * columns)
    logical = untile_block_scales(flat.reshape(rows, columns), rows, columns)
    for r, c in ((0, 0), (1, 0), (31, 3), (32, 0), (127, 7), (128, 4), (200, 5), (255, 7)):
        offset = (r // 128) * 128 * columns + (c // 4) * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
        assert logical[r, c] == offset
    assert sorted(logical.flatten().tolist()) == flat.tolist()


@pytest.mark.parametrize("scale_dtype", [torch.float8_e4m3fn, torch.uint8])
@pytest.mark.parametrize("marked", [True, False])
def test_nvfp4_reads_the_high_nibble_first_and_cuts_the_padding(decoded, scale_dtype, marked) -> None:
    codes = torch.arange(16).repeat(16, 2)
    tensors = {
        "weight": (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8),
        "weight_scale": torch.full((128, 4), 2.0).to(torch.float8_e4m3fn).view(scale_dtype),
        "weight_scale_2": torch.tensor(0.5),
        **({"comfy_quant": marker("nvfp4")} if marked else {}),
    }
    expected = [*E2M1, *(-value for value in E2M1)] * 2
    whole = decoded(tensors, (16, 32))
    assert whole.shape == (16, 32)
    assert whole[3].tolist() == expected
    assert decoded(tensors, (5, 30)).tolist() == [expected[:30]] * 5


def test_what_cannot_be_decoded_is_named(decoded) -> None:
    weight = torch.zeros(2, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="a is quantised as 'int4'; supported are float8_e4m3fn"):
        decoded({"weight": weight, "comfy_quant": marker("int4")})
    with pytest.raises(ValueError, match=r"a\.weight_scale_2 is missing"):
        decoded({"weight": weight, "weight_scale": weight.clone(), "comfy_quant": marker("nvfp4")})
    with pytest.raises(ValueError, match="without a marker"):
        decoded({"weight": weight})
    with pytest.raises(ValueError, match="one scale per tensor"):
        decoded({"weight": weight.to(torch.float8_e4m3fn), "weight_scale": torch.ones(2)})
