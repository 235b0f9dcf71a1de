"""Files of tensors: equal tensors give equal bytes, and other readers read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ltx2_core.storage.header import read_header
from ltx2_core.storage.quantized import TORCH_DTYPES
from ltx2_core.storage.reading import read_state
from ltx2_core.storage.writing import Entry, write_safetensors, write_tensors

CORE = Path(__file__).resolve().parents[2] / "ltx2_core"
METADATA = {name: name * 3 for name in ("config", "format", "a", "b", "c", "d", "e", "model_version")}


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    made = {f"t_{name}": base.to(dtype) for name, dtype in TORCH_DTYPES.items() if name != "F8_E8M0"}
    return {**made, "transposed": base.t(), "strided": base[:, ::2], "scalar": base[1, 1], "none": base[:0]}


def test_equal_tensors_give_equal_files_that_safetensors_reads(tmp_path):
    for number in range(3):
        write_tensors(tmp_path / f"{number}.safetensors", tensors(), METADATA)
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 1
    read = load_file(tmp_path / "0.safetensors")
    for name, tensor in tensors().items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].double(), tensor.double())
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert file.metadata() == METADATA


def test_a_weight_that_is_trained_and_a_file_without_metadata_are_written(tmp_path):
    weight = torch.nn.Linear(3, 2).weight
    write_tensors(tmp_path / "a.safetensors", {"weight": weight, "again": weight})
    read = load_file(tmp_path / "a.safetensors")
    assert torch.equal(read["weight"], weight)
    assert torch.equal(read["again"], weight)


def test_a_tensor_that_is_not_what_its_entry_says_is_refused(tmp_path):
    with pytest.raises(ValueError, match="x is"):
        write_safetensors(
            tmp_path / "a.safetensors", {"x": Entry("F32", (2,), lambda: torch.zeros(3))}, METADATA
        )


def test_the_library_writes_tensors_by_this_alone():
    users = [path.name for path in CORE.rglob("*.py") if re.search(r"\bsave_file\b", path.read_text("utf-8"))]
    assert not users, "the writer of safetensors orders metadata differently in each run"


@pytest.mark.parametrize("before", [1, 3, 5, 16])
def test_weights_give_the_same_numbers_wherever_they_stand_in_a_file(before, tmp_path):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(28, 64, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"before": torch.zeros(before), "weight": weight})
    infos = read_header(path).tensors
    read = read_state(infos, {}, frozenset(), {}, torch.float32, torch.device("cpu"))
    assert torch.equal(torch.nn.functional.linear(tokens, read["weight"]), tokens @ weight.T)
    assert read["weight"].data_ptr() % 64 == 0
