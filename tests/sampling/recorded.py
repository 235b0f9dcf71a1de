"""A tiny network that records its calls, and clips for it, shared by the tests of the denoiser."""

from __future__ import annotations

import torch

from ltx2_core.conditioning.items import ImageInPlace, InputAudio
from ltx2_core.conditioning.state import empty_state
from ltx2_core.config import TransformerConfig
from ltx2_core.sampling.noise import make_noise
from ltx2_core.shapes import plan_clip
from ltx2_core.transformer import Transformer
from ltx2_core.types import TextContext

PLAN = plan_clip(64, 64, frames=17, fps=25)
CONFIG = TransformerConfig(
    num_layers=2,
    heads=2,
    head_dim=12,
    audio_head_dim=8,
    caption_projection=False,
    cross_attention_adaln=True,
    caption_channels=24,
)


class Recorded(Transformer):
    """The real network, tiny, with a list of the inputs and outputs of its calls."""

    def forward(self, video, audio, perturbations=None, **options):
        out = super().forward(video, audio, perturbations, **options)
        if options.get("until") is None:
            self.calls.append((video, audio, perturbations, out))
        return out


def text(seed=0, batch=1, length=6):
    generator = torch.Generator().manual_seed(seed)
    return TextContext(
        torch.randn(batch, length, CONFIG.dim, generator=generator),
        torch.randn(batch, length, CONFIG.audio_dim, generator=generator),
    )


def noisy(state, seed=1):
    return make_noise(state.latent, seed)


def soft_state(batch=1):
    torch.manual_seed(2)
    state = ImageInPlace(latent=torch.randn(1, 128, 3, 2, 2), strength=0.4).apply(empty_state(PLAN, batch))
    state = ImageInPlace(latent=torch.randn(1, 128, 1, 2, 2)).apply(state)
    return InputAudio(latent=torch.randn(1, 8, 17, 16), strength=0.3).apply(state)


def assert_equal(a, b):
    """Both streams bit for bit."""
    assert torch.equal(a.video, b.video)
    assert torch.equal(a.audio, b.audio)
