"""Both vocoders: key names, lengths, filters, float32 in any weight dtype."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ltx2_core.audio import build_vocoder
from ltx2_core.audio.antialias import AntiAliasedSnake
from ltx2_core.audio.bandwidth import sinc_upsample
from ltx2_core.audio.layers import Layers
from ltx2_core.config import BandwidthExtensionConfig, GeneratorConfig, VocoderConfig, vocoder_config

SHORT = {"resblock_kernels": (3,), "resblock_dilations": ((1, 3),)}
PLAIN = VocoderConfig(
    generator=GeneratorConfig(
        initial_channels=8, upsample_rates=(6, 5), upsample_kernels=(16, 15), mel_bins=4, **SHORT
    ),
    sample_rate=3000,
)
AMP = {"amp": True, "final_bias": False, **SHORT}
EXTENDED = VocoderConfig(
    generator=GeneratorConfig(
        initial_channels=8,
        upsample_rates=(5, 2),
        upsample_kernels=(11, 4),
        final_activation="clamp",
        mel_bins=4,
        **AMP,
    ),
    sample_rate=48000,
    bwe=BandwidthExtensionConfig(
        generator=GeneratorConfig(
            initial_channels=4,
            upsample_rates=(6, 2),
            upsample_kernels=(12, 4),
            final_activation="none",
            mel_bins=8,
            **AMP,
        ),
        n_fft=64,
        win_length=64,
        hop_length=4,
        mel_bins=8,
    ),
)


def build(config, **options):
    torch.manual_seed(0)
    return build_vocoder(config, **options).requires_grad_(False)


def released(config):
    state = build_vocoder(vocoder_config(config), device="meta").state_dict()
    return {name: tuple(t.shape) for name, t in state.items()}, sum(t.numel() for t in state.values())


def test_released_20_has_the_keys_and_values_of_the_released_checkpoint() -> None:
    sizes, values = released({"vocoder": {}})
    assert (len(sizes), values) == (194, 55_592_802)
    assert sizes["conv_pre.weight"] == (1024, 128, 7)
    assert sizes["ups.1.weight"] == (512, 256, 15)
    assert sizes["resblocks.14.convs1.2.weight"] == (32, 32, 11)
    assert sizes["conv_post.bias"] == (2,)


def test_released_23_has_the_keys_and_values_of_the_released_checkpoint() -> None:
    stage = {
        "resblock": "AMP1",
        "activation": "snakebeta",
        "use_tanh_at_final": False,
        "use_bias_at_final": False,
    }
    sizes, values = released({"vocoder": {"vocoder": stage, "bwe": stage}})
    assert (len(sizes), values) == (1227, 129_085_032)
    assert sizes["vocoder.resblocks.17.acts2.2.downsample.lowpass.filter"] == (1, 1, 12)
    assert sizes["vocoder.act_post.act.alpha"] == (24,)
    assert sizes["bwe_generator.ups.0.weight"] == (512, 256, 12)
    assert sizes["mel_stft.mel_basis"] == (64, 257)
    assert sizes["mel_stft.stft_fn.forward_basis"] == sizes["mel_stft.stft_fn.inverse_basis"] == (514, 1, 512)
    assert not any(name.endswith("conv_post.bias") for name in sizes)


@pytest.mark.parametrize(("config", "samples"), [(PLAIN, 30), (EXTENDED, 30)], ids=["plain", "extended"])
def test_every_mel_frame_becomes_the_same_number_of_samples_within_full_scale(config, samples) -> None:
    vocoder = build(config)
    assert vocoder.sample_rate == config.sample_rate
    for frames in range(1, 8):
        waveform = vocoder(20 * torch.randn(2, 2, frames, 4))
        assert waveform.shape == (2, 2, frames * samples)
        assert waveform.abs().max() <= 1


@pytest.mark.parametrize("config", [PLAIN, EXTENDED], ids=["plain", "extended"])
def test_bfloat16_weights_give_the_float32_result_of_the_same_values_even_inside_autocast(config) -> None:
    stored, exact = build(config, dtype=torch.bfloat16), build(config)
    assert {t.dtype for t in stored.state_dict().values()} == {torch.bfloat16}
    exact.load_state_dict(stored.state_dict())
    mel = torch.randn(1, 2, 5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        waveform = stored(mel)
    assert waveform.dtype == torch.float32
    torch.testing.assert_close(waveform, exact(mel), atol=0, rtol=0)


def test_every_layer_comes_from_the_injected_namespace() -> None:
    class Operations:
        Conv1d = type("Conv1d", (nn.Conv1d,), {})
        ConvTranspose1d = type("ConvTranspose1d", (nn.ConvTranspose1d,), {})

    vocoder = build(EXTENDED, operations=Operations)
    layers = [m for m in vocoder.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    assert {type(m) for m in layers} == {Operations.Conv1d, Operations.ConvTranspose1d}
    torch.testing.assert_close(vocoder(torch.ones(1, 2, 3, 4)), build(EXTENDED)(torch.ones(1, 2, 3, 4)))


def test_a_constant_passes_the_filters_unchanged() -> None:
    constant = torch.full((1, 3, 20), 0.5)
    activation = AntiAliasedSnake(3, Layers(nn, None, None))
    torch.testing.assert_close(activation.downsample(activation.upsample(constant)), constant)
    assert activation(constant).shape == constant.shape
    torch.testing.assert_close(sinc_upsample(constant, 3), torch.full((1, 3, 60), 0.5), atol=2e-3, rtol=0)


@pytest.mark.parametrize("ratio", [2, 3, 6])
def test_sinc_interpolation_is_in_place_with_the_samples_it_came_from(ratio) -> None:
    tone = torch.sin(0.3 * torch.arange(60.0)).expand(1, 1, -1)
    torch.testing.assert_close(
        sinc_upsample(tone, ratio)[..., ::ratio][..., 10:-10], tone[..., 10:-10], atol=5e-3, rtol=0
    )


def test_configurations_whose_lengths_do_not_meet_are_refused() -> None:
    odd = replace(PLAIN, generator=replace(PLAIN.generator, upsample_kernels=(16, 14)))
    with pytest.raises(ValueError, match="upsampling by 5 with kernel 14"):
        build_vocoder(odd)
    hop = replace(EXTENDED, bwe=replace(EXTENDED.bwe, hop_length=8))
    with pytest.raises(ValueError, match="needs 24"):
        build_vocoder(hop)
    rate = replace(EXTENDED, bwe=replace(EXTENDED.bwe, output_sample_rate=44100))
    with pytest.raises(ValueError, match="must be a multiple"):
        build_vocoder(rate)
