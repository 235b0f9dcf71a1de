"""Reference audio: clean tokens before the clip, no part of it, and what identity guidance adds."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.reference import ReferenceAudio
from ltx2_core.conditioning.state import empty_state
from ltx2_core.config import TransformerConfig
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG, Guidance, StreamGuidance
from ltx2_core.sampling.model_calls import ModelCalls
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
VOICE = torch.randn(1, 8, 5, 16, generator=torch.Generator().manual_seed(9))


def text(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TextContext(
        torch.randn(1, 6, CONFIG.dim, generator=generator),
        torch.randn(1, 6, CONFIG.audio_dim, generator=generator),
    )


def noisy(state):
    return make_noise(state.latent, 1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = Transformer(CONFIG).requires_grad_(False).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.mark.parametrize("batch", [1, 2])
def test_the_reference_is_placed_before_the_clip_without_noise(model, batch, monkeypatch):
    state, calls = ReferenceAudio(latent=VOICE).apply(empty_state(PLAN, batch)), []
    forward = Transformer.forward

    def record(self, video, audio, *args, **options):
        calls.append(audio)
        return forward(self, video, audio, *args, **options)

    monkeypatch.setattr(Transformer, "forward", record)
    x = noisy(state)
    x0 = Denoiser(model, state, text())(x, 0.7)
    assert x0.audio.shape == x.audio.shape
    (audio,) = calls
    assert audio.tokens.shape[1] == 5 + x.audio.shape[2]
    assert not audio.timesteps[:, :5].any()
    assert (audio.timesteps[:, 5:] == 0.7).all()
    times = audio.positions[0, 0]
    assert times[4, 1].item() == pytest.approx(-0.04, abs=1e-6)
    assert times[5, 0] == 0
    torch.testing.assert_close(times[1:5, 0] - times[:4, 0], torch.tensor([0.01, 0.04, 0.04, 0.04]))
    plain = Denoiser(model, empty_state(PLAN, batch), text())(x, 0.7)
    assert not torch.equal(plain.audio, x0.audio)
    assert not torch.equal(plain.video, x0.video)


@pytest.mark.parametrize("together", [1, 3])
def test_identity_adds_what_the_reference_changes(model, together):
    state, x = ReferenceAudio(latent=VOICE).apply(empty_state(PLAN)), noisy(empty_state(PLAN))
    guidance = Guidance(video=StreamGuidance(cfg=2.0), audio=StreamGuidance(cfg=2.0, identity=3.0))
    calls = ModelCalls(passes_per_call=together)
    found = Denoiser(model, state, text(), text(1), guidance=guidance, calls=calls)(x, 0.6)
    with_reference = Denoiser(model, state, text(), text(1), guidance=CFG(video=2.0, audio=2.0))(x, 0.6)
    c = Denoiser(model, state, text())(x, 0.6)
    r = Denoiser(model, empty_state(PLAN), text())(x, 0.6)
    torch.testing.assert_close(
        found.audio, with_reference.audio + 3 * (c.audio - r.audio), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(found.video, with_reference.video, atol=1e-5, rtol=1e-5)


def test_a_reference_of_another_shape_or_without_audio_is_refused():
    with pytest.raises(ValueError, match="only its length"):
        ReferenceAudio(latent=VOICE[:, :4]).apply(empty_state(PLAN))
    with pytest.raises(ValueError, match="no audio"):
        ReferenceAudio(latent=VOICE).apply(empty_state(PLAN, audio=False))


def test_the_pipeline_takes_a_reference_and_a_noise_floor(tiny_set, sound):
    pipeline = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, keep_loaded=True)
    options = {"width": 64, "height": 64, "num_frames": 9, "steps": 2, "cfg": 1.0, "seed": 3}
    plain = pipeline("a voice", **options).latents
    latents = {
        name: pipeline("a voice", reference_audio=sound, **more, **options).latents
        for name, more in (("off", {"identity": 0.0}), ("on", {}), ("short", {"reference_s": 0.5}))
    }
    assert all(one.audio.shape == plain.audio.shape for one in latents.values())
    audio = [plain.audio, *(one.audio for one in latents.values())]
    assert all(not torch.equal(a, b) for i, a in enumerate(audio) for b in audio[:i])
    clips = [pipeline("x", audio=sound, audio_noise_db=level, **options) for level in (None, -40.0)]
    assert not torch.equal(clips[0].latents.audio, clips[1].latents.audio)
    assert torch.equal(clips[0].audio()[0], clips[1].audio()[0])
