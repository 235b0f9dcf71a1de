"""Training of the vocoder on a hop-locked waveform and its spectra, without a discriminator.

The mel of a steady tone is the same in every frame, so the output of a convolutional network for it repeats
with every hop: it consists of harmonics of 100 Hz. Training on spectra alone ends in silence, a nearer
minimum, so the target is a waveform that such a network can produce (:func:`hop_locked`).

All audio of the world lies below 8 kHz. The second stage, which extends the bandwidth, therefore stays at
zero, and its sinc interpolation alone gives 48 kHz.

Letters: B batch, T mel frames, M mel bins, S samples, K frequency bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ...audio import build_vocoder, log_mel
from ...audio.generator import Generator
from ...audio.vocoder import BandwidthVocoder
from ...config import AudioVAEConfig, VocoderConfig
from ..loop import History, LoopOptions, StepFn, train, warmup_stable_decay
from ..optimisers import Muon
from ..state import load_averaged
from ..world.batches import HELD_OUT, audio_batch, draw_seeds
from .audio_vae import AudioPair

FLOOR = 3e-3
"""Amplitude below which differences do not count: above the noise floor, far below any tone."""

QUIET = 0.02
"""Added to the loudness by which errors are divided, so that silence is no division by zero."""


@dataclass(frozen=True, kw_only=True)
class VocoderRecipe:
    """Settings for training the vocoder: segments, loss, learning rates and number of steps.

    ``batch`` is clips per step, ``mel_frames`` the length of a segment in mel frames, ``lr`` the learning
    rate of matrices (Muon), ``adam_lr`` that of other parameters.
    """

    total_steps: int = 5000
    batch: int = 4
    seconds: float = 0.8
    """Length of the rendered waveforms; a segment of ``mel_frames`` frames is cut from each."""
    mel_frames: int = 32
    resolutions: tuple[int, ...] = (128, 256, 512)
    """Window lengths of the spectra. Longer ones would resolve the difference between a locked and a true
    tone."""
    spectral_weight: float = 0.1
    coarse_share: float = 1.0
    """Share of steps, from the first on, that train the residual blocks of the first upsampling stage only: a
    third of the cost, and the pitch is right sooner. The other blocks stay at zero until then."""
    lr: float = 0.003
    """Learning rate of matrices; at 0.015 the error of the waveform stays near one half."""
    adam_lr: float = 2e-3
    decoded_share: float = 0.3
    """Share of steps whose mel has passed through the audio autoencoder, if there is one."""


def train_vocoder(
    config: VocoderConfig,
    mel_config: AudioVAEConfig,
    state_path: str | Path,
    *,
    recipe: VocoderRecipe | None = None,
    pair: AudioPair | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
    device: torch.device | str = "cpu",
) -> tuple[BandwidthVocoder, History]:
    """Train a new vocoder, or resume from the training state ``state_path`` if it exists.

    ``mel_config`` says how mels are computed. ``pair`` is the audio autoencoder through which some of the
    mels pass first; None uses true mels only. ``recipe`` and ``options`` of None are the defaults. Returns
    the vocoder with its averaged weights, and the history of the run.
    """
    recipe = recipe or VocoderRecipe()
    vocoder = new_vocoder(config, seed).to(device)
    optimizer = Muon(vocoder.vocoder.parameters(), lr=recipe.lr, adam_lr=recipe.adam_lr)
    history = train(
        vocoder_step(recipe, mel_config, pair),
        vocoder,
        optimizer,
        warmup_stable_decay(recipe.total_steps),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
        evaluate=lambda model, step: {"spectral": held_out_spectral_error(model, mel_config, recipe)},
    )
    load_averaged(vocoder, state_path)
    return vocoder, history


def vocoder_step(recipe: VocoderRecipe, mel_config: AudioVAEConfig, pair: AudioPair | None) -> StepFn:
    """Build a step function for :func:`ltx2_core.training.loop.train`: the loss of one random batch.

    The loss is the error of the waveform plus that of its spectra, both against a waveform that repeats with
    every hop (:func:`hop_locked`). ``recipe`` has the batch size, the lengths and the weights; ``mel_config``
    says how mels are computed from waveforms. ``pair`` is the audio autoencoder through which a share of the
    mels pass first, so that the vocoder learns to tolerate its errors; None uses true mels only.
    """

    def step_fn(vocoder: nn.Module, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        assert isinstance(vocoder, BandwidthVocoder)
        device = next(vocoder.parameters()).device
        seeds = draw_seeds(generator, recipe.batch)
        waveforms = audio_batch(seeds, seconds=recipe.seconds, sample_rate=mel_config.sample_rate).to(device)
        mel = log_mel(waveforms, mel_config)
        if pair is not None and float(torch.rand((), generator=generator)) < recipe.decoded_share:
            with torch.no_grad():
                decoded = pair.decoder(pair.encoder(mel))
            mel = decoded[:, :, : mel.shape[2]]
        # A segment is cut after the mel was computed, so that its edges are not those of a waveform.
        frames, hop = recipe.mel_frames, mel_config.hop_length
        last = min(mel.shape[2], waveforms.shape[2] // hop) - frames
        start = int(torch.randint(last + 1, (), generator=generator))
        stages = 1 if step < recipe.coarse_share * recipe.total_steps else None
        generated = generate(vocoder.vocoder, mel[:, :, start : start + frames], stages)
        locked = hop_locked(waveforms, hop)[:, :, start * hop : (start + frames) * hop]
        waveform = ((generated - locked).square().mean((1, 2)).sqrt() / (_loudness(locked) + QUIET)).mean()
        spectral = spectral_error(generated, locked, recipe.resolutions)
        return {
            "loss": waveform + recipe.spectral_weight * spectral,
            "waveform": waveform,
            "spectral": spectral,
        }

    return step_fn


def generate(generator: Generator, mel: Tensor, stages: int | None = None) -> Tensor:
    """Run the first stage of the vocoder: mel (B, 2, T, M) -> waveform (B, 2, S).

    T mel frames, M mel bins, S samples. With ``stages``, only the first so many upsampling stages use their
    residual blocks; None is all of them.
    """
    if stages is None:
        whole: Tensor = generator(mel)
        return whole
    x = generator.conv_pre(rearrange(mel, "b c t m -> b (c m) t"))
    count = generator.blocks_per_stage
    for stage, up in enumerate(generator.ups):
        x = up(generator.act_up(x))
        if stage < stages:
            blocks = generator.resblocks[stage * count : (stage + 1) * count]
            x = sum(block(x) for block in blocks) / count
    out: Tensor = generator.conv_post(generator.act_post(x))
    return out


def hop_locked(waveform: Tensor, hop: int) -> Tensor:
    """Approximate a waveform (B, 2, S) by one that repeats with every hop: (B, 2, S // hop * hop).

    ``hop`` is the distance of two mel frames in samples. The result consists of harmonics of the hop's
    frequency with fixed phases; their amplitudes are those of the input around them. Where neighbouring
    harmonics compete, the weaker ones are reduced further, so that one dominates. The sum is scaled to the
    loudness of the input, because a gliding tone would otherwise fade between two harmonics.
    """
    spectrum = torch.stft(
        rearrange(waveform, "b c s -> (b c) s"),
        n_fft=2 * hop,
        hop_length=hop,
        window=torch.hann_window(2 * hop, device=waveform.device),
        return_complex=True,
    )
    # With a window of two hops every second bin is a harmonic of the hop; the first is the constant part.
    amplitudes = spectrum.abs()[:, 2:-1:2] * (2 / hop)
    strongest = nn.functional.max_pool2d(amplitudes, (3, 1), stride=1, padding=(1, 0))
    amplitudes = rearrange(amplitudes.square() / (strongest + 1e-9), "n k t -> n t k")
    # A tone of amplitude a has a power of 3/8 (a hop)^2 in the bins of its Hann window.
    amplitude = (8 / 3 * spectrum.abs().square().sum(dim=1)).sqrt() / hop
    amplitudes = amplitudes * (amplitude / (amplitudes.norm(dim=2) + 1e-9))[:, :, None]
    number = torch.arange(1, amplitudes.shape[2] + 1, device=waveform.device)
    time = torch.arange(hop, device=waveform.device) / hop
    # Phases that grow with the square of the number make the peaks low (Schroeder, 1970).
    phases = 2 * math.pi * (number[:, None] * time + number[:, None].square() / (4 * len(number)))
    periods = amplitudes @ phases.cos()
    # Amplitudes change linearly from hop to hop, so that no step is heard.
    locked = torch.lerp(periods[:, :-1], periods[:, 1:], time)
    return rearrange(locked, "(b c) t p -> b c (t p)", b=waveform.shape[0])


def _loudness(waveform: Tensor) -> Tensor:
    """Root mean square (B,) of a waveform (B, 2, S)."""
    return waveform.square().mean((1, 2)).sqrt()


def spectral_error(generated: Tensor, truth: Tensor, resolutions: tuple[int, ...]) -> Tensor:
    """Distance of two waveforms (B, 2, S): spectral convergence plus difference of log amplitudes; a scalar.

    It is the mean over STFTs with windows of each length in ``resolutions``, in samples: the multi-resolution
    STFT loss (Yamamoto et al., "Parallel WaveGAN", 2020, equations 6 to 8) with a floor for quiet amplitudes.
    """
    total = generated.new_zeros(())
    for size in resolutions:
        m, t = _amplitudes(generated, size), _amplitudes(truth, size)
        convergence = (m - t).square().sum().sqrt() / (t.square().sum().sqrt() + FLOOR * t.numel() ** 0.5)
        total = total + convergence + ((m + FLOOR).log() - (t + FLOOR).log()).abs().mean()
    return total / len(resolutions)


def _amplitudes(waveform: Tensor, size: int) -> Tensor:
    """Amplitude spectra (B x C, K, T) of a waveform (B, C, S), by an STFT with windows of ``size`` samples.

    K is the number of frequencies, T that of windows in time. A steady tone appears with its own amplitude.
    """
    spectrum = torch.stft(
        rearrange(waveform, "b c s -> (b c) s"),
        n_fft=size,
        hop_length=size // 4,
        window=torch.hann_window(size, device=waveform.device),
        return_complex=True,
    )
    # The small constant gives the root a gradient at zero.
    return (torch.view_as_real(spectrum).square().sum(-1) + 1e-12).sqrt() * (4 / size)


def new_vocoder(config: VocoderConfig, seed: int) -> BandwidthVocoder:
    """Build a vocoder with the weights from which training starts; ``seed`` draws them.

    Its residual branches and its second stage, which extends the bandwidth, output zero. Raises ValueError
    for a configuration without bandwidth extension.
    """
    generator = torch.Generator().manual_seed(seed)
    vocoder = build_vocoder(config)
    if not isinstance(vocoder, BandwidthVocoder):
        raise ValueError("training needs a 2.3 vocoder; give a configuration with a `bwe` section")
    with torch.no_grad():
        for name, p in vocoder.named_parameters():
            if p.ndim == 1:
                continue  # Biases are set below, at random: with zeros nothing would oscillate.
            fan_in = math.prod(p.shape[1:])
            if ".ups." in name:
                # A transposed convolution sums about kernel / stride = 2 taps of each input channel.
                fan_in = 2 * p.shape[0]
            p.normal_(0, 1 / math.sqrt(fan_in), generator=generator)
            if ".convs2." in name:
                p.zero_()
            if name.endswith("conv_pre.weight"):
                # Log-mels reach -11, ten times the unit range of the layers that follow.
                p.mul_(0.2)
            if name.endswith("conv_post.weight"):
                p.mul_(0.1)
        for name, p in vocoder.named_parameters():
            if name.endswith(".bias"):
                p.uniform_(-0.3, 0.3, generator=generator)
        vocoder.get_parameter("bwe_generator.conv_post.weight").zero_()
    # The world has no audio above 8 kHz, so that the second stage has nothing to learn.
    vocoder.bwe_generator.requires_grad_(False)
    return vocoder


@torch.no_grad()
def held_out_spectral_error(
    vocoder: nn.Module, mel_config: AudioVAEConfig, recipe: VocoderRecipe, *, clips: int = 16
) -> float:
    """How far the audio that the vocoder's first stage generates from true mels is from the true audio.

    The figure is that of ``spectral_error``, a distance between spectrograms (0 is the same), at the window
    sizes ``recipe.resolutions``. It is measured on ``clips`` clips of one second that training never uses;
    ``mel_config`` says how mels are computed.
    """
    assert isinstance(vocoder, BandwidthVocoder)
    seeds = range(HELD_OUT, HELD_OUT + clips)
    waveforms = audio_batch(seeds, seconds=1.0, sample_rate=mel_config.sample_rate)
    waveforms = waveforms.to(next(vocoder.parameters()).device)
    generated = vocoder.vocoder(log_mel(waveforms, mel_config))[:, :, : waveforms.shape[2]]
    return float(spectral_error(generated, waveforms, recipe.resolutions))
