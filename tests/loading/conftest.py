"""Tiny model sets and hand-made files for the loading tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.loading import open_checkpoint
from ltx2_core.tiny.write import TinySet, write_tiny_set


@pytest.fixture(scope="session")
def tiny23(tmp_path_factory) -> TinySet:
    return write_tiny_set(tmp_path_factory.mktemp("tiny23"), generation="2.3")


@pytest.fixture(scope="session")
def tiny20(tmp_path_factory) -> TinySet:
    return write_tiny_set(tmp_path_factory.mktemp("tiny20"), generation="2.0", dtype=torch.float32)


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., Path]:
    """Write a file with any header, true or not."""

    def write(header: object, data: bytes = b"", name: str = "file.safetensors") -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return path

    return write


@pytest.fixture
def repack(tmp_path: Path) -> Callable[..., Path]:
    """Copy a file with its tensors renamed; a name that becomes None is left out. Metadata only if given."""

    def write(
        source: Path,
        rename: Callable[[str], str | None],
        *,
        metadata: dict[str, str] | None = None,
        name: str = "repacked.safetensors",
    ) -> Path:
        tensors = {rename(key): tensor for key, tensor in load_file(source).items()}
        tensors.pop(None, None)
        path = tmp_path / name
        save_file(tensors, path, metadata=metadata)
        return path

    return write


@pytest.fixture(scope="session")
def metadata23(tiny23: TinySet) -> dict[str, str]:
    return {"config": json.dumps(open_checkpoint(tiny23.checkpoint).config), "model_version": "2.3.0"}
