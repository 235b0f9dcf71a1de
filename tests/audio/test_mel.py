"""The mel front end: lengths, resampling, short and mono audio."""

import math

import pytest
import torch

from ltx2_core.audio import log_mel, resample, to_stereo
from ltx2_core.audio.mel import LOG_FLOOR
from ltx2_core.config import AudioVAEConfig

CONFIG = AudioVAEConfig()


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 511, 512, 513, 639, 640, 1279, 1280, 1281])
def test_a_mel_frame_starts_at_every_hop_however_short_the_waveform(samples) -> None:
    mel = log_mel(torch.randn(1, 2, samples), CONFIG)
    assert mel.shape == (1, 2, samples // 160 + 1, 64)
    assert mel.isfinite().all()


def test_silence_is_the_logarithm_of_the_floor() -> None:
    mel = log_mel(torch.zeros(1, 2, 1600), CONFIG)
    torch.testing.assert_close(mel, torch.full_like(mel, math.log(LOG_FLOOR)))


def test_a_tone_is_loudest_in_a_higher_bin_the_higher_it_is() -> None:
    seconds = torch.arange(8000) / CONFIG.sample_rate
    bins = []
    for hertz in (200, 800, 2000, 6000):
        tone = torch.sin(2 * math.pi * hertz * seconds).expand(1, 2, -1)
        bins.append(int(log_mel(tone, CONFIG)[0, 0, 20].argmax()))
    assert bins == sorted(set(bins))


def test_twice_the_amplitude_adds_log_two_because_magnitude_and_not_power_is_taken() -> None:
    waveform = torch.rand(1, 2, 3200) - 0.5
    louder, mel = log_mel(2 * waveform, CONFIG), log_mel(waveform, CONFIG)
    torch.testing.assert_close(louder - mel, torch.full_like(mel, math.log(2)), atol=1e-4, rtol=0)


def test_the_mel_is_float32_inside_autocast_and_for_a_half_precision_waveform() -> None:
    waveform = (torch.rand(1, 2, 3200) - 0.5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = log_mel(waveform, CONFIG)
    torch.testing.assert_close(mel, log_mel(waveform.float(), CONFIG), atol=0, rtol=0)


def test_mono_is_repeated_and_of_surround_the_first_two_channels_are_taken() -> None:
    mono, surround = torch.randn(2, 1, 5), torch.randn(2, 6, 5)
    assert torch.equal(to_stereo(mono), torch.cat([mono, mono], dim=1))
    assert torch.equal(to_stereo(surround), surround[:, :2])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000, 96000])
def test_resampling_preserves_duration_and_a_low_tone(rate) -> None:
    tone = torch.sin(2 * math.pi * 300 * torch.arange(rate // 5) / rate)
    expected = torch.sin(2 * math.pi * 300 * torch.arange(3200) / 16000)
    resampled = resample(tone, rate, 16000)
    assert resampled.shape[-1] == math.ceil(rate // 5 * 16000 / rate)
    torch.testing.assert_close(resampled[100:3100], expected[100:3100], atol=5e-3, rtol=0)


def test_what_is_not_audio_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        log_mel(torch.zeros(1, 2, 0), CONFIG)
    with pytest.raises(ValueError, match="no channels"):
        to_stereo(torch.zeros(1, 0, 100))
    with pytest.raises(ValueError, match="sample rate"):
        resample(torch.zeros(1, 2, 100), 0, 16000)
