"""A network of toy size, text states and a batch of latents for training tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx2_core.tiny.settings import tiny_config
from ltx2_core.training.latents import Sample
from ltx2_core.training.network import FlowNetwork
from ltx2_core.training.text import batch_text, encode_captions, load_text
from ltx2_core.training.tiny.gemma import GEMMA_LAYERS, GEMMA_WIDTH, write_world_gemma
from ltx2_core.types import AVLatent

NEGATIVE = "blurry, low quality"


@pytest.fixture(scope="session")
def world_gemma(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    write_world_gemma(folder, prompts=(NEGATIVE,))
    return folder


@pytest.fixture(scope="session")
def states(world_gemma) -> list[torch.Tensor]:
    """States of an empty, a negative and two real captions."""
    gemma, tokenizer = load_text(world_gemma)
    captions = [
        "",
        NEGATIVE,
        "a red circle bounces on a blue background, a knock at each bounce",
        "a white square",
    ]
    return encode_captions(gemma, tokenizer, captions).all()


@pytest.fixture
def network() -> FlowNetwork:
    """A network without zero layers, so that every layer affects the output."""
    network = FlowNetwork(tiny_config("2.3"), hidden_size=GEMMA_WIDTH, num_states=GEMMA_LAYERS + 1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return network


@pytest.fixture
def sample(states) -> Sample:
    """Two clips of 17 frames, 64x96."""
    generator = torch.Generator().manual_seed(2)
    latent = AVLatent(
        torch.randn(2, 128, 3, 2, 3, generator=generator), torch.randn(2, 8, 17, 16, generator=generator)
    )
    return Sample(latent, batch_text(states[2:]), fps=25.0)
