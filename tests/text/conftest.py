"""A tiny Gemma folder and configurations for the text tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx2_core.config import ConnectorConfig, TextConfig
from ltx2_core.text.tiny_gemma import write_tiny_gemma


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    write_tiny_gemma(folder, dtype=torch.float32, head_dim=32)
    return folder


@pytest.fixture(params=[False, True], ids=["2.0", "2.3"])
def text_config(request: pytest.FixtureRequest) -> TextConfig:
    options = {"num_layers": 1, "num_registers": 4, "gated_attention": request.param}
    return TextConfig(
        per_token_norm=request.param,
        video=ConnectorConfig(heads=2, head_dim=8, **options),
        audio=ConnectorConfig(heads=2, head_dim=4 if request.param else 8, **options),
    )
