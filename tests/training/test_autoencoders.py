"""Training of the autoencoders, the vocoder and the upsampler, at toy size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ltx2_core import config as cfg
from ltx2_core.audio import log_mel
from ltx2_core.loading.components import build
from ltx2_core.loading.detect import Component
from ltx2_core.tiny.settings import tiny_config, tiny_upsampler_config
from ltx2_core.training.autoencoders import audio_vae, upsampler, video_vae, vocoder
from ltx2_core.training.autoencoders.initial import rotate_convolution
from ltx2_core.training.autoencoders.video_code import principal_code
from ltx2_core.training.data import psnr
from ltx2_core.training.loop import LoopOptions
from ltx2_core.training.tiny.recipe import trained_config, trained_upsampler_config
from ltx2_core.training.world.batches import HELD_OUT, ClipSize, audio_batch, draw_seeds
from ltx2_core.types import Numerics

QUIET = LoopOptions(progress=False, log_every_s=0, evaluate_every_s=1e9)
CLIP = ClipSize(batch=1, frames=9, width=32, height=32)
VIDEO = video_vae.VideoVAERecipe(total_steps=60, lr=0.02, adam_lr=2e-3, sizes=(replace(CLIP, batch=4),))
AUDIO = audio_vae.AudioVAERecipe(total_steps=30, batch=2, seconds=(0.4,))
VOCODER = vocoder.VocoderRecipe(total_steps=10, batch=1, seconds=0.4, mel_frames=20)
MEL_ERROR = audio_vae.held_out_mel_error
PSNR = video_vae.held_out_psnr
UPSAMPLER = upsampler.UpsamplerRecipe(total_steps=60, sizes=(replace(CLIP, batch=8),))


@pytest.fixture(autouse=True)
def quick_evaluation(monkeypatch):
    """Skip the evaluation at the end of each run, which these tests do not need."""
    for module, name in (
        (video_vae, "held_out_psnr"),
        (video_vae, "held_out_code_error"),
        (audio_vae, "held_out_mel_error"),
        (vocoder, "held_out_spectral_error"),
        (upsampler, "held_out_upsampling_error"),
    ):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: 0.0)


@pytest.fixture(scope="module")
def code():
    return principal_code(128, sizes=(ClipSize(batch=48, frames=17, width=64, height=64),))


def mean_of(history, first: slice) -> float:
    values = [value for _, value in history.curves["loss"]][first]
    return sum(values) / len(values)


def learns(history) -> bool:
    return mean_of(history, slice(-4, None)) < 0.8 * mean_of(history, slice(0, 4))


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_each_half_of_the_video_autoencoder_learns_and_leaves_the_other_alone(tmp_path, code, half):
    train = {"encoder": video_vae.train_video_encoder, "decoder": video_vae.train_video_decoder}[half]
    vae = video_vae.new_video_vae(cfg.video_vae_config(tiny_config("2.3")), code, 0)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    small = {"clips": 6, "frames": 9, "width": 32, "height": 32}
    untrained = PSNR(vae, code, **small) if half == "decoder" else 0.0
    history = train(vae, code, tmp_path / "state.safetensors", recipe=VIDEO, options=QUIET)
    assert learns(history) if half == "encoder" else PSNR(vae, code, **small) > untrained + 0.5
    changed = {name for name, tensor in vae.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed
    assert all(name.startswith(half) for name in changed)


def test_a_new_video_autoencoder_normalises_its_latents_to_the_amplitudes_of_the_code(code):
    vae = video_vae.new_video_vae(cfg.video_vae_config(tiny_config("2.3")), code, 0)
    raw = torch.ones(1, 128, 1, 1, 1)
    assert torch.allclose(vae.per_channel_statistics.normalize(raw).flatten(), code.amplitude)


def test_the_audio_autoencoder_learns(tmp_path):
    config = cfg.audio_vae_config(tiny_config("2.3"))
    path = tmp_path / "state.safetensors"
    pair, _ = audio_vae.train_audio_vae(config, path, recipe=AUDIO, options=QUIET)
    before, after = (
        MEL_ERROR(each, clips=12, seconds=0.4) for each in (audio_vae.new_audio_vae(config, 0), pair)
    )
    assert after < 0.8 * before


def test_the_vocoder_learns_from_true_and_from_decoded_mels(tmp_path):
    header = tiny_config("2.3")
    mel_config = cfg.audio_vae_config(header)
    for name, pair in (("true", None), ("decoded", audio_vae.new_audio_vae(mel_config, 0))):
        _, history = vocoder.train_vocoder(
            cfg.vocoder_config(header),
            mel_config,
            tmp_path / f"{name}.safetensors",
            recipe=VOCODER,
            pair=pair,
            options=QUIET,
        )
        assert learns(history), name


def test_the_upsampler_learns(tmp_path, code):
    config = replace(cfg.upsampler_config(tiny_upsampler_config()), mid_channels=32)
    _, history = upsampler.train_upsampler(
        config, code, tmp_path / "state.safetensors", recipe=UPSAMPLER, options=QUIET
    )
    assert mean_of(history, slice(-10, None)) < 0.9 * mean_of(history, slice(0, 10))


def test_finished_audio_latents_have_unit_size_per_channel_and_bin():
    config = cfg.audio_vae_config(tiny_config("2.3"))
    pair = audio_vae.new_audio_vae(config, 0)
    audio_vae.finish_audio_vae(pair, AUDIO, clips=24)
    seeds = draw_seeds(torch.Generator().manual_seed(7), 24)
    with torch.no_grad():
        latent = pair.encoder(log_mel(audio_batch(seeds, seconds=1.0, sample_rate=16000), config))
    flat = latent.transpose(1, 2).flatten(2).flatten(0, 1)
    assert flat.mean(0).abs().mean() < 0.3
    assert flat.std(0).mean() == pytest.approx(1, abs=0.3)


def test_a_new_vocoder_extends_the_band_by_interpolation_only():
    header = tiny_config("2.3")
    new = vocoder.new_vocoder(cfg.vocoder_config(header), 0)
    mel = torch.randn(1, 2, 12, 64, generator=torch.Generator().manual_seed(0)) - 4
    with torch.no_grad():
        high = new(mel)
        # Three times the rate: every third sample is one of the low rate, but for the filter's ripple.
        low = new.vocoder(mel)
    inner = slice(40, -40)
    assert high.shape[-1] == 3 * low.shape[-1]
    assert torch.allclose(high[..., ::3][..., inner], low[..., inner], atol=0.05 * float(low.abs().max()))


def test_the_spectral_error_ignores_phase_and_faint_noise_but_not_pitch():
    times = torch.arange(16000) / 16000

    def tone(
        hertz: float, phase: float = 0.0
    ) -> torch.Tensor:  # Faded in and out, because a cut is not a tone.
        return (
            (torch.pi * times).sin() * 0.5 * torch.sin(2 * torch.pi * hertz * times + phase).expand(1, 2, -1)
        )

    noise = 1e-4 * torch.randn(1, 2, 16000, generator=torch.Generator().manual_seed(0))
    same = vocoder.spectral_error(tone(440, 1.0) + noise, tone(440), (512, 2048))
    semitone = vocoder.spectral_error(tone(440 * 2 ** (1 / 12)), tone(440), (512, 2048))
    assert 8 * same < semitone


@pytest.mark.parametrize("hertz", [523.25, 783.99, 1174.66])
def test_a_hop_locked_tone_has_the_loudness_and_pitch_of_its_input_and_repeats_with_every_hop(hertz):
    times = torch.arange(8000) / 16000
    tone = 0.5 * torch.sin(2 * torch.pi * hertz * times).expand(1, 2, -1)
    locked = vocoder.hop_locked(tone, 160)[..., 1600:6400]
    assert torch.allclose(locked[..., 160:], locked[..., :-160], atol=0.02)
    spectrum = torch.fft.rfft(locked[0, 0]).abs()
    assert int(spectrum.argmax()) * 16000 / locked.shape[-1] == round(hertz, -2)
    assert locked.square().mean().sqrt() == pytest.approx(0.5 / 2**0.5, rel=0.01)


def test_a_hop_locked_glide_has_the_loudness_of_its_input_on_both_sides():
    times = torch.arange(16000) / 16000
    tone = torch.sin(2 * torch.pi * (900 * times + 150 * times.square())) * torch.tensor([[[0.1], [0.5]]])
    locked = vocoder.hop_locked(tone, 160)
    loudness = locked[..., 1600:-1600].unfold(2, 640, 160).square().mean(3).sqrt()
    for side, amplitude in enumerate((0.1, 0.5)):
        assert torch.allclose(loudness[0, side], torch.tensor(amplitude / 2**0.5), rtol=0.1)


def test_scenes_for_evaluation_are_never_drawn():
    seeds = draw_seeds(torch.Generator().manual_seed(0), 10_000)
    assert len(set(seeds)) > 9_990
    assert min(seeds) >= 0
    assert max(seeds) < HELD_OUT


def test_psnr_counts_decibels_of_the_whole_range():
    truth = torch.zeros(2, 3, 4, 4)
    assert psnr(truth + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1), truth).tolist() == pytest.approx([20, 40])
    white = torch.ones(1, 3, 4, 4)
    assert psnr(3 * white, white) > 90


@pytest.mark.parametrize("shape", [(8, 4, 3, 3, 3), (4, 16, 3, 3)])
def test_initial_convolutions_preserve_the_power_of_a_smooth_signal(shape):
    layer = (nn.Conv3d if len(shape) == 5 else nn.Conv2d)(shape[1], shape[0], 3, padding=1)
    rotate_convolution(layer, torch.Generator().manual_seed(0))
    signal = torch.randn(16, shape[1], *[1] * (len(shape) - 2), generator=torch.Generator().manual_seed(1))
    out = layer(signal.expand(-1, -1, *[5] * (len(shape) - 2)))[:, :, 2:3]
    gain = out.square().sum(1).mean() / signal.square().sum(1).mean()
    expected = 0.8**2 * min(1, shape[0] / shape[1])
    assert 0.5 * expected < gain < 2 * expected + 0.2


@pytest.mark.parametrize(
    "component",
    [Component.VIDEO_ENCODER, Component.VIDEO_DECODER, Component.AUDIO_ENCODER, Component.VOCODER],
)
def test_the_trained_configuration_builds_and_fits_the_budget(component):
    network = build(component, trained_config(), {}, operations=nn, numerics=Numerics.OFFICIAL)
    assert sum(p.numel() for p in network.parameters()) < 6e6


def test_the_trained_upsampler_fits_the_budget():
    network = build(
        Component.UPSAMPLER, trained_upsampler_config(), {}, operations=nn, numerics=Numerics.OFFICIAL
    )
    assert sum(p.numel() for p in network.parameters()) < 2.5e6
