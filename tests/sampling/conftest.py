"""The tiny network for the tests of the denoiser."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recorded import CONFIG, Recorded


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Recorded(CONFIG).requires_grad_(False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def model(network):
    network.calls = []
    return network
