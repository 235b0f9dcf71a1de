"""Waveforms to latents and back: any rate, mono or stereo, exact lengths."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx2_core.audio import (
    AudioDecoder,
    AudioEncoder,
    AudioVAE,
    build_vocoder,
    decode_audio,
    encode_audio,
    samples_for_latents,
)
from ltx2_core.config import AudioVAEConfig, GeneratorConfig, VocoderConfig

CONFIG = AudioVAEConfig(channels=2, num_res_blocks=1)
torch.manual_seed(0)
ENCODER, DECODER = AudioEncoder(CONFIG), AudioDecoder(CONFIG)
VOCODER = build_vocoder(
    VocoderConfig(
        generator=GeneratorConfig(
            initial_channels=8,
            upsample_rates=(8, 5, 6),
            upsample_kernels=(16, 15, 16),
            resblock_kernels=(3,),
            resblock_dilations=((1,),),
        ),
        sample_rate=24000,
    )
)


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
def test_a_second_of_any_sample_rate_gives_one_latent_more_than_25(rate) -> None:
    assert encode_audio(ENCODER, noise(1, 2, rate), rate).shape == (1, 8, 26, 16)


@given(samples=st.integers(1, 4000), latent_frames=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_the_latent_has_exactly_the_requested_number_of_frames(samples, latent_frames) -> None:
    assert (
        encode_audio(ENCODER, noise(1, samples), 16000, latent_frames=latent_frames).shape[2] == latent_frames
    )


def test_samples_for_latents_is_the_longest_waveform_of_that_many_latents() -> None:
    for latent_frames in range(1, 6):
        samples = samples_for_latents(latent_frames, CONFIG)
        assert encode_audio(ENCODER, noise(1, samples), 16000).shape[2] == latent_frames
        assert encode_audio(ENCODER, noise(1, samples + 1), 16000).shape[2] == latent_frames + 1


@pytest.mark.parametrize("latent_frames", [1, 2, 7])
def test_trimming_audio_equals_encoding_all_of_it_and_cropping_the_latent(latent_frames) -> None:
    samples_in = noise(1, 2, 8000)
    whole = encode_audio(ENCODER, samples_in, 16000)
    trimmed = encode_audio(ENCODER, samples_in, 16000, latent_frames=latent_frames)
    torch.testing.assert_close(trimmed, whole[:, :, :latent_frames], atol=1e-5, rtol=0)


def test_short_audio_is_padded_with_silence() -> None:
    samples_in = noise(1, 2, 2000)
    silence = torch.zeros(1, 2, samples_for_latents(9, CONFIG) - 2000)
    padded = encode_audio(ENCODER, samples_in, 16000, latent_frames=9)
    assert torch.equal(padded, encode_audio(ENCODER, torch.cat([samples_in, silence], dim=-1), 16000))


def test_mono_equals_stereo_of_two_equal_channels_with_and_without_a_batch_axis() -> None:
    mono = noise(1, 3000)
    latent = encode_audio(ENCODER, mono, 44100)
    assert torch.equal(latent, encode_audio(ENCODER, mono.expand(2, -1), 44100))
    assert torch.equal(latent, encode_audio(ENCODER, mono[None], 44100))


def test_waveforms_of_a_batch_are_encoded_and_decoded_as_each_alone() -> None:
    batch = noise(3, 2, 2500)
    latents = encode_audio(ENCODER, batch, 16000)
    waveforms, _ = decode_audio(DECODER, VOCODER, latents)
    for i in range(3):
        alone = encode_audio(ENCODER, batch[i], 16000)
        torch.testing.assert_close(latents[i : i + 1], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            waveforms[i : i + 1], decode_audio(DECODER, VOCODER, alone)[0], atol=1e-5, rtol=0
        )


def test_inputs_are_not_written_to() -> None:
    samples_in, latent = noise(1, 2, 2500), noise(1, 8, 3, 16)
    samples_before, latent_before = samples_in.clone(), latent.clone()
    encode_audio(ENCODER, samples_in, 16000, latent_frames=2)
    decode_audio(DECODER, VOCODER, latent)
    assert torch.equal(samples_in, samples_before)
    assert torch.equal(latent, latent_before)


def test_latents_decode_to_ten_milliseconds_for_each_mel_frame() -> None:
    for latent_frames in range(1, 5):
        waveform, rate = decode_audio(DECODER, VOCODER, noise(1, 8, latent_frames, 16))
        assert (waveform.shape, rate) == ((1, 2, 240 * (4 * latent_frames - 3)), 24000)


def test_the_combined_network_has_the_interface_of_a_host() -> None:
    vae = AudioVAE(ENCODER, DECODER, VOCODER)
    assert (vae.sample_rate, vae.output_sample_rate) == (16000, 24000)
    assert (vae.latent_channels, vae.latent_frequency_bins) == (8, 16)
    assert [vae.num_of_latents_from_frames(n, fps) for n, fps in ((121, 24), (121, 25), (97, 30))] == [
        127,
        121,
        81,
    ]
    latent = vae.encode(noise(1, 2, 4000), 16000)
    assert latent.shape[2] == math.ceil((4000 // 160 + 1) / 4)
    assert torch.equal(vae.decode(latent), decode_audio(DECODER, VOCODER, latent)[0])


def test_what_is_not_a_waveform_or_a_latent_is_refused() -> None:
    with pytest.raises(ValueError, match="channels, samples"):
        encode_audio(ENCODER, noise(100), 16000)
    with pytest.raises(ValueError, match="empty"):
        encode_audio(ENCODER, noise(2, 0), 16000, latent_frames=4)
    with pytest.raises(ValueError, match="at least 1"):
        encode_audio(ENCODER, noise(2, 100), 16000, latent_frames=0)
    with pytest.raises(ValueError, match="audio latent"):
        decode_audio(DECODER, VOCODER, noise(1, 128, 4, 1))
