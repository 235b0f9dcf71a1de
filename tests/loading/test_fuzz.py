"""Damaged files give a ValueError with the path; none crashes, hangs or takes more memory than its size."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.storage.dequantize import Format
from ltx2_core.storage.quantize import encode
from ltx2_core.text import load_gemma, load_tokenizer

CASES = 500
BATCHES = 10

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**200, 0.5, 1e308, float("nan"), "", "x", "9" * 5000),
    *([], [[]], [2**62, 2**62], {}, {"a": 1}, "F64", "F8_E8M0", "F4", "BOOL", [0, 2**62], [5, 2]),
)


@pytest.fixture(scope="module")
def original(generations) -> bytes:
    """A small transformer file with quantised layers and its configuration."""
    from safetensors.torch import load_file

    tensors = {
        n: t for n, t in load_file(generations["2.3"]).items() if n.startswith("model.diffusion_model")
    }
    layer = "model.diffusion_model.transformer_blocks.0.attn1.to_q"
    tensors |= {f"{layer}.{k}": v for k, v in encode(Format("nvfp4"), tensors[f"{layer}.weight"]).items()}
    mark = json.dumps({"format": "nvfp4"}).encode()
    tensors[f"{layer}.comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8)
    path = Path(generations["2.3"]).with_name("fuzz.safetensors")
    config = json.dumps(open_checkpoint(generations["2.3"]).config)
    save_file(tensors, path, metadata={"config": config, "model_version": "2.3.0"})
    return path.read_bytes()


def mutated(original: bytes, rng: random.Random) -> bytes:
    """One of: cut short, bits flipped, the header's JSON or its configuration changed in a few places."""
    (length,) = struct.unpack("<Q", original[:8])
    kind = rng.randrange(5)
    if kind == 0:
        return original[: rng.choice([rng.randrange(len(original)), rng.randrange(8 + length)])]
    if kind == 1:
        content = bytearray(original)
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(8 + length)] = rng.randrange(256)
        return bytes(content)
    if kind == 2:
        return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, 2**40, 2**63])) + original[8:]
    header = json.loads(original[8 : 8 + length])
    config = json.loads(header["__metadata__"]["config"])
    for _ in range(rng.randrange(1, 4)):
        target = header if kind == 3 else config
        for _ in range(rng.randrange(1, 6)):
            inner = [v for v in (target.values() if isinstance(target, dict) else target) if v]
            inner = [v for v in inner if isinstance(v, dict | list)]
            if not inner:
                break
            target = rng.choice(inner)
        key = rng.choice(list(target) if isinstance(target, dict) else range(len(target)))
        if isinstance(target, dict) and rng.random() < 0.2:
            target[rng.choice(["", "x.lora_A.weight", "__metadata__", key + "0"])] = target.pop(key)
        else:
            target[key] = rng.choice(VALUES)
    metadata = header.get("__metadata__")
    if kind == 4 and isinstance(metadata, dict):
        metadata["config"] = json.dumps(config)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + original[8 + length :]


def use(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    checkpoint.generation  # noqa: B018
    for component in checkpoint.components - {Component.LORA, Component.TEXT_ENCODER}:
        checkpoint.load(component)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_damaged_file_gives_a_value_error_with_its_path(batch, original, tmp_path):
    path = tmp_path / "damaged.safetensors"
    refused = 0
    for case in range(CASES // BATCHES):
        content = mutated(original, random.Random(batch * 1000 + case))
        path.write_bytes(content)
        try:
            use(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error), (batch, case, error)
    assert refused > CASES // BATCHES // 2


def test_reading_a_header_takes_memory_in_proportion_to_the_file(original, tmp_path):
    (length,) = struct.unpack("<Q", original[:8])
    path = tmp_path / "damaged.safetensors"
    for claimed in (2**62, 2**40, 99_000_000, length + len(original)):
        path.write_bytes(struct.pack("<Q", claimed) + original[8:])
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"damaged\.safetensors"):
            use(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < len(original)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": "12", "data_offsets": [0, 0]}}',
        b"\xff\xfe",
    ],
)
def test_hostile_json_is_refused(header, raw):
    with pytest.raises(ValueError, match=r"file\.safetensors"):
        open_checkpoint(raw(header))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_text_encoders_are_refused_with_their_path_too(seed, tiny23, tmp_path):
    from safetensors.torch import load_file

    tensors = load_file(tiny23.text_encoder / "model.safetensors")
    whole = tmp_path / "whole.safetensors"
    named = {f"model.{n.removeprefix('model.')}": t for n, t in tensors.items()}
    save_file(named, whole, metadata={"config": "{}"})
    content, path = whole.read_bytes(), tmp_path / "damaged.safetensors"
    for case in range(10):
        path.write_bytes(mutated_header(content, random.Random(100 * seed + case)))
        for read in (lambda p: load_gemma(p, dtype=torch.float32), load_tokenizer):
            try:
                read(path)
            except ValueError as error:
                assert str(path) in str(error)


def mutated_header(original: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", original[:8])
    header = json.loads(original[8 : 8 + length])
    name = rng.choice([key for key in header if key != "__metadata__"])
    if rng.random() < 0.5:
        header[rng.choice(["model.layers.99999999999.mlp.up_proj.weight", "x"])] = header.pop(name)
    else:
        header[name][rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(VALUES)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + original[8 + length :]
