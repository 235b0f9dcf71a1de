"""Mel front end, audio autoencoder and vocoders against the reference implementation."""

import pytest
import torch
import torch.nn.functional as F

from ltx2_core.audio import AudioDecoder, AudioEncoder, build_vocoder, log_mel, resample
from ltx2_core.audio.bandwidth import sinc_taps, sinc_upsample
from ltx2_core.audio.mel import mel_filters
from ltx2_core.audio.vocoder import BandwidthVocoder
from ltx2_core.config import audio_vae_config, vocoder_config


def close(actual, expected, tolerance) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def tags(tensors, prefix, suffix):
    found = [n[len(prefix) : -len(suffix)] for n in tensors if n.startswith(prefix) and n.endswith(suffix)]
    assert found
    return found


def load(module, tensors, *prefixes, strip):
    state = {n[len(strip) :]: t for n, t in tensors.items() if n.startswith(prefixes)}
    module.load_state_dict(state, strict=True, assign=True)
    return module


@pytest.mark.golden("mel")
@torch.no_grad()
def test_log_mel_of_any_rate_equals_the_reference(golden) -> None:
    tensors, config, rates = golden.tensors(), audio_vae_config(golden.config), golden.metadata["golden"]
    waveform = resample(tensors["golden.waveform"], rates["source_rate"], config.sample_rate)
    if "golden.resampled_16k" in tensors:
        close(waveform, tensors["golden.resampled_16k"], 1e-5)
    close(log_mel(waveform, config), tensors["golden.mel"], 5e-4)
    if "golden.mel_filterbank" in tensors:
        close(mel_filters(config), tensors["golden.mel_filterbank"], 1e-6)
        close(torch.hann_window(config.win_length), tensors["golden.window"], 1e-6)


@pytest.mark.golden("audio_vae")
@torch.no_grad()
def test_audio_autoencoder_equals_the_reference(golden) -> None:
    tensors, config = golden.tensors(), audio_vae_config(golden.config)
    shared = "audio_vae.per_channel_statistics."
    encoder = load(
        AudioEncoder(config, device="meta"), tensors, "audio_vae.encoder.", shared, strip="audio_vae."
    )
    decoder = load(
        AudioDecoder(config, device="meta"), tensors, "audio_vae.decoder.", shared, strip="audio_vae."
    )
    for tag in tags(tensors, "golden.encode.", ".mel"):
        close(encoder(tensors[f"golden.encode.{tag}.mel"]), tensors[f"golden.encode.{tag}.latent"], 1e-4)
    for tag in tags(tensors, "golden.decode.", ".latent"):
        close(decoder(tensors[f"golden.decode.{tag}.latent"]), tensors[f"golden.decode.{tag}.mel"], 1e-4)


@pytest.mark.golden("vocoder")
@torch.no_grad()
def test_vocoder_equals_the_reference(golden) -> None:
    tensors = golden.tensors()
    vocoder = load(
        build_vocoder(vocoder_config(golden.config), device="meta"), tensors, "vocoder.", strip="vocoder."
    )
    extended = isinstance(vocoder, BandwidthVocoder)
    for tag in tags(tensors, "golden.", ".waveform"):
        expected = {n: t for n, t in tensors.items() if n.startswith(f"golden.{tag}.")}
        mel = expected[f"golden.{tag}.mel"]
        close(vocoder(mel), expected[f"golden.{tag}.waveform"], 1e-3 if extended else 1e-4)
        if extended:
            low_rate = vocoder.vocoder(mel)
            close(low_rate, expected[f"golden.{tag}.low_rate"], 1e-4)
            close(vocoder.mel_stft(low_rate).transpose(2, 3), expected[f"golden.{tag}.bwe_log_mel"], 1e-3)
            # The reference adds zeros up to a whole hop before both branches.
            whole_hops = F.pad(low_rate, (0, -low_rate.shape[-1] % vocoder.hop_length))
            skip = expected[f"golden.{tag}.skip"]
            close(sinc_upsample(whole_hops, vocoder.ratio)[..., : skip.shape[-1]], skip, 1e-4)
    if extended:
        close(torch.tensor(sinc_taps(vocoder.ratio)), tensors["golden.resampler_filter"].flatten(), 1e-6)


@pytest.mark.golden("vocoder")
def test_an_unloaded_vocoder_has_the_filters_that_checkpoints_store(golden) -> None:
    fresh = build_vocoder(vocoder_config(golden.config))
    stored = golden.tensors()
    for name, buffer in fresh.named_buffers():
        close(buffer, stored[f"vocoder.{name}"], 1e-6)
