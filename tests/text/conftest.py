"""A tiny Gemma folder and configurations for the text tests."""

from __future__ import annotations

import io
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


@pytest.fixture(scope="session")
def pieces() -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red circle moves slowly to the right", "a blue square and a sound"] * 20),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        # As Gemma's.
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return model.getvalue()
