"""A tiny set whose transformer is worth streaming."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="session")
def deep(tiny_set, tmp_path_factory):
    """The tiny set with 32 blocks, so many that they are most of its weight."""
    blocks = 32
    with safe_open(tiny_set.checkpoint, "pt") as file:
        metadata = file.metadata()
    state = load_file(tiny_set.checkpoint)
    config = json.loads(metadata["config"])
    config["transformer"]["num_layers"] = blocks
    prefix = "model.diffusion_model.transformer_blocks."
    first = {
        name.removeprefix(f"{prefix}0."): t for name, t in state.items() if name.startswith(f"{prefix}0.")
    }
    for block in range(2, blocks):
        state |= {f"{prefix}{block}.{name}": (t * (1 + 0.01 * block)).clone() for name, t in first.items()}
    path = tmp_path_factory.mktemp("deep") / "deep.safetensors"
    save_file(state, path, metadata={**metadata, "config": json.dumps(config)})
    return replace(tiny_set, checkpoint=path)
