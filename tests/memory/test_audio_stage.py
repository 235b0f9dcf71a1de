"""Predicted memory of audio decoding equals a trace of it, at released sizes and in a real run."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.audio import AudioDecoder, build_vocoder, decode_audio
from ltx2_core.config import audio_vae_config, vocoder_config
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.memory import AudioSize, Trace, audio_bytes, plan_memory, released_size
from ltx2_core.shapes import plan_clip


def traced(size: AudioSize, latents: int, device: str) -> int:
    decoder = AudioDecoder(size.decoder, dtype=torch.float32, device=device)
    vocoder = build_vocoder(size.vocoder, dtype=torch.float32, device=device)
    shape = (1, size.decoder.z_channels, latents, size.decoder.latent_bins)
    with torch.inference_mode(), Trace() as trace:
        decode_audio(decoder, vocoder, torch.zeros(shape, device=device))
    return trace.peak


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize("latents", [26, 126, 501])
def test_the_prediction_is_within_a_tenth_of_the_trace_at_released_sizes(generation, latents):
    size = released_size(generation).audio
    _, predicted = audio_bytes(size, latents)
    assert predicted == pytest.approx(traced(size, latents, "meta"), rel=0.1)


def test_the_prediction_is_within_a_tenth_of_a_real_trace(tiny_set):
    file = open_checkpoint(tiny_set.checkpoint)
    size = AudioSize(decoder=audio_vae_config(file.config), vocoder=vocoder_config(file.config))
    weights, predicted = audio_bytes(size, 60)
    assert predicted == pytest.approx(traced(size, 60, "cpu"), rel=0.1)
    parts = (file.infos(part).values() for part in (Component.AUDIO_DECODER, Component.VOCODER))
    stored = sum(info.numel for infos in parts for info in infos)
    assert weights == pytest.approx(4 * stored, rel=0.05)


def test_the_plan_has_a_stage_for_it():
    size, clip = released_size("2.3"), plan_clip(768, 512, frames=481)
    result = plan_memory(24 * 10**9, size, clips=[clip], dtype=torch.bfloat16)
    stage = result.stages[-2]
    weights, activations = audio_bytes(size.audio, clip.audio_latents)
    assert (stage.stage, stage.weights, stage.activations) == ("audio", weights, activations)
    assert any(line.startswith("audio") for line in result.lines())
