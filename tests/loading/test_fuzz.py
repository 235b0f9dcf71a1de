"""Damaged files give a ValueError with their path; none crashes, hangs, takes memory or runs anything."""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.storage.dequantize import Format
from ltx2_core.storage.quantize import encode
from ltx2_core.text import load_gemma, load_tokenizer

CASES = {"checkpoint": 500, "LoRA": 100, "upscaler": 50}
BATCH = 50
SECONDS = 10.0
"""Limit of processor time in seconds for one file."""
MEGABYTES = 64
"""Limit of memory in bytes beyond the size of the files and the memory in use before."""
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "pickle.find_class")

SETTINGS = ("config", "lora_adapter_metadata")
"""Metadata that is JSON."""

_events: list[str] | None = None

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**200, 0.5, 1e308, float("nan"), "", "x", "9" * 5000),
    *([], [[]], [2**62, 2**62], {}, {"a": 1}, "F64", "F8_E8M0", "F4", "BOOL", [0, 2**62], [5, 2]),
)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event in FORBIDDEN:
        _events.append(event)


@contextmanager
def guarded(size: int) -> Iterator[list[str]]:
    """Yields the list of programs and pickles that run inside of the context.

    Memory is refused beyond some copies of a file of ``size`` bytes.
    """
    global _events
    resource, status = pytest.importorskip("resource"), Path("/proc/self/status")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if status.is_file():
        (held,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmData"))
        limit = int(held) * 1024 + 4 * size + MEGABYTES * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    if _watch not in _hooks:
        sys.addaudithook(_watch)
        _hooks.append(_watch)
    _events = events = []
    try:
        yield events
    finally:
        _events = None
        resource.setrlimit(resource.RLIMIT_DATA, before)


_hooks: list[object] = []
"""An audit hook cannot be removed, so it is added once."""


@pytest.fixture(scope="module")
def originals(generations, tiny23) -> dict[str, bytes]:
    """A small transformer file with quantised layers and its configuration, a LoRA and an upscaler."""
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
    lora = {**load_file(tiny23.lora), "diffusion_model.transformer_blocks.0.attn1.to_q.alpha": torch.ones(1)}
    settings = json.dumps({"lora_alpha": 4, "r": 4, "alpha_pattern": {"to_k": 2}})
    stated = {"lora_adapter_metadata": settings, "reference_downscale_factor": "2"}
    save_file(lora, path.with_name("fuzz lora.safetensors"), metadata=stated)
    return {
        "checkpoint": path.read_bytes(),
        "LoRA": path.with_name("fuzz lora.safetensors").read_bytes(),
        "upscaler": tiny23.upsampler.read_bytes(),
    }


@pytest.fixture
def original(originals) -> bytes:
    return originals["checkpoint"]


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
    settings = next(name for name in SETTINGS if name in header["__metadata__"])
    config = json.loads(header["__metadata__"][settings])
    for _ in range(rng.randrange(1, 4)):
        target = descend(header if kind == 3 else config, rng)
        if not target:
            continue
        key = rng.choice(list(target) if isinstance(target, dict) else range(len(target)))
        if isinstance(target, dict) and rng.random() < 0.2:
            target[rng.choice(["", "x.lora_A.weight", "__metadata__", key + "0"])] = target.pop(key)
        else:
            target[key] = deepcopy(rng.choice(VALUES))
    metadata = header.get("__metadata__")
    if kind == 4 and isinstance(metadata, dict):
        metadata[settings] = json.dumps(config)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + original[8 + length :]


def descend(target: Any, rng: random.Random) -> Any:
    """A random object or list inside of ``target``, at most five levels deep."""
    for _ in range(rng.randrange(1, 6)):
        inner = [v for v in (target.values() if isinstance(target, dict) else target) if v]
        inner = [v for v in inner if isinstance(v, dict | list)]
        if not inner:
            break
        target = rng.choice(inner)
    return target


def use(path: Path, base: Path) -> None:
    """Load everything that the file holds; a LoRA, into the transformer of ``base``."""
    checkpoint = open_checkpoint(path)
    checkpoint.generation  # noqa: B018
    for component in checkpoint.components - {Component.LORA, Component.TEXT_ENCODER}:
        checkpoint.load(component)
    if Component.LORA in checkpoint.components:
        lora = open_lora(path)
        assert lora.ranks
        assert lora.reference_downscale_factor
        assert lora.reference_temporal_scale_factor
        open_checkpoint(base).load(Component.TRANSFORMER, loras=[lora])


def problem_of(read: Callable[[Path], object], path: Path) -> str | None:
    """The text of the ValueError that ``read`` raises for ``path``; None if it raises nothing."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return None


def read_damaged(
    kind: str, original: bytes, batch: int, path: Path, read: Callable[[Path], None]
) -> tuple[int, int]:
    """How many files of a batch were refused and how many could be read."""
    counts = [0, 0]
    for case in range(BATCH):
        path.write_bytes(mutated(original, random.Random(f"{kind} {batch} {case}")))
        start = time.process_time()
        problem = problem_of(read, path)
        counts[problem is None] += 1
        assert problem is None or str(path) in problem, (kind, batch, case, problem)
        assert time.process_time() - start < SECONDS, (kind, batch, case)
    return counts[0], counts[1]


@pytest.mark.parametrize(
    ("kind", "batch"), [(kind, batch) for kind, cases in CASES.items() for batch in range(cases // BATCH)]
)
def test_a_damaged_file_gives_a_value_error_with_its_path(kind, batch, originals, tiny23, tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(originals[kind])
    use(path, tiny23.checkpoint)  # Imports what reading needs, and proves that the original is valid.
    with guarded(len(originals[kind])) as events:
        refused, _ = read_damaged(
            kind, originals[kind], batch, path, lambda damaged: use(damaged, tiny23.checkpoint)
        )
    assert not events, f"ran {events}"
    assert refused > BATCH // 2


def test_the_guard_notices_memory_and_programs():
    with guarded(0) as events:
        os.system("exit")
        with pytest.raises((MemoryError, RuntimeError)):
            torch.empty(2**30)
    assert events == ["os.system"]


def test_reading_a_header_takes_memory_in_proportion_to_the_file(original, tmp_path):
    (length,) = struct.unpack("<Q", original[:8])
    path = tmp_path / "damaged.safetensors"
    for claimed in (2**62, 2**40, 99_000_000, length + len(original)):
        path.write_bytes(struct.pack("<Q", claimed) + original[8:])
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"damaged\.safetensors"):
            use(path, path)
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
            problem = problem_of(read, path)
            assert problem is None or str(path) in problem


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
