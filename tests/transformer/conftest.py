"""Tiny random transformers and inputs."""

from dataclasses import replace

import pytest
import torch

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.config import TransformerConfig
from ltx2_core.transformer import Modality, Transformer

LTX20 = TransformerConfig(
    num_layers=2,
    heads=2,
    head_dim=16,
    audio_head_dim=8,
    in_channels=6,
    out_channels=6,
    audio_in_channels=10,
    audio_out_channels=10,
    caption_channels=12,
)
LTX23 = replace(LTX20, caption_projection=False, gated_attention=True, cross_attention_adaln=True)
LTX25 = replace(LTX23, ff_bias=False, keyframe_embedding=True)
LTX25_STATIC = replace(LTX25, prompt_adaln=False)
GENERATIONS = {"2.0": LTX20, "2.3": LTX23, "2.5": LTX25, "2.5 static prompt": LTX25_STATIC}


def random_model(config):
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.25)
    return model.eval()


@pytest.fixture(params=GENERATIONS, scope="session")
def model(request):
    return random_model(GENERATIONS[request.param])


@pytest.fixture(params=["2.0", "2.3"])
def make_deep(request):
    """A maker of the same network of four blocks, two of which are neither the first nor the last."""
    return lambda: random_model(replace(GENERATIONS[request.param], num_layers=4))


@pytest.fixture(params=["2.0", "2.3"], scope="session")
def shallow(request):
    """One block, for what is slow."""
    return random_model(replace(GENERATIONS[request.param], num_layers=1))


@pytest.fixture(scope="session")
def model23():
    return random_model(LTX23)


def video_stream(config, batch=2, *, noise=(0.9, 0.4), **changes):
    generator = torch.Generator().manual_seed(1)
    positions = video_positions(2, 2, 3, 24.0)
    count = positions.shape[2]
    width = config.caption_channels if config.caption_projection else config.dim
    values = {
        "tokens": torch.randn(batch, count, config.in_channels, generator=generator),
        "timesteps": torch.tensor(noise)[:batch, None],
        "sigma": torch.tensor(noise)[:batch],
        "positions": positions,
        "context": torch.randn(batch, 5, width, generator=generator),
    }
    return Modality(**{**values, **changes})


def audio_stream(config, batch=2, *, noise=(0.7, 0.2), **changes):
    generator = torch.Generator().manual_seed(2)
    width = config.caption_channels if config.caption_projection else config.audio_dim
    values = {
        "tokens": torch.randn(batch, 4, config.audio_in_channels, generator=generator),
        "timesteps": torch.tensor(noise)[:batch, None],
        "sigma": torch.tensor(noise)[:batch],
        "positions": audio_positions(4),
        "context": torch.randn(batch, 5, width, generator=generator),
    }
    return Modality(**{**values, **changes})


@pytest.fixture
def streams():
    """Makers of a video and an audio stream for a configuration."""
    return video_stream, audio_stream
