"""Training of the audio autoencoder: reconstruction of log-mels, and a weak pull of latents to zero.

B batch, C channels, T mel frames, M mel bins; L latent frames, N latent bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...audio import AudioDecoder, AudioEncoder, log_mel
from ...audio.autoencoder import ResidualBlock
from ...config import AudioVAEConfig
from ..loop import History, LoopOptions, StepFn, train, warmup_stable_decay
from ..optimisers import Muon
from ..state import load_averaged
from ..world.batches import HELD_OUT, audio_batch, draw_seeds
from .initial import rotate_convolution

LOUD = -6.0
"""Log-mel value between the noise floor of the world, about -9, and its tones, about 0."""


@dataclass(frozen=True, kw_only=True)
class AudioVAERecipe:
    """Settings for training the audio autoencoder: batches, loss weights, learning rates, number of steps.

    ``batch`` is clips per step, ``seconds`` the lengths that these may have, ``lr`` the learning rate of
    matrices (Muon), ``adam_lr`` that of other parameters. ``divergence_weight`` is the weight of the pull of
    latents to zero, ``latent_noise`` the standard deviation of the noise added to latents in training.
    """

    total_steps: int = 500
    batch: int = 6
    seconds: tuple[float, ...] = (0.7, 1.0, 2.0)
    """Lengths of clips; all clips of a batch have one of them."""
    lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    divergence_weight: float = 1e-3
    """Weight of half the mean square of latents."""
    latent_noise: float = 0.1
    """Standard deviation of the posterior, a constant."""


class AudioPair(nn.Module):
    """An audio encoder and decoder; as in a checkpoint, each holds its own copy of the latent statistics."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        self.encoder = AudioEncoder(config)
        self.decoder = AudioDecoder(config)


def train_audio_vae(
    config: AudioVAEConfig,
    state_path: str | Path,
    *,
    recipe: AudioVAERecipe | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
    device: torch.device | str = "cpu",
) -> tuple[AudioPair, History]:
    """Train a new audio encoder and decoder, or resume from the training state ``state_path`` if it exists.

    ``recipe`` and ``options`` of None are the defaults. Returns the pair with its averaged weights, and the
    history of the run. The latent statistics are not set yet: call ``finish_audio_vae`` after the last step.
    """
    recipe = recipe or AudioVAERecipe()
    pair = new_audio_vae(config, seed).to(device)
    pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Muon(
        pair.parameters(), lr=recipe.lr, adam_lr=recipe.adam_lr, weight_decay=recipe.weight_decay
    )
    history = train(
        audio_vae_step(recipe),
        pair,
        optimizer,
        warmup_stable_decay(recipe.total_steps),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
        evaluate=lambda model, step: {"mel_error": held_out_mel_error(model)},
    )
    load_averaged(pair, state_path)
    return pair, history


def audio_vae_step(recipe: AudioVAERecipe) -> StepFn:
    """Build a step function for :func:`ltx2_core.training.loop.train`.

    It renders one random batch by the settings of ``recipe``, and returns the loss and its parts.
    """

    def step_fn(pair: nn.Module, generator: torch.Generator, _step: int) -> Mapping[str, Tensor]:
        assert isinstance(pair, AudioPair)
        config, device = pair.encoder.config, _device(pair)
        seconds = recipe.seconds[int(torch.randint(len(recipe.seconds), (), generator=generator))]
        seeds = draw_seeds(generator, recipe.batch)
        waveforms = audio_batch(seeds, seconds=seconds, sample_rate=config.sample_rate).to(device)
        mel = log_mel(waveforms, config)
        # The inner networks are called because the outer ones disable autocast, which training may use.
        mean = pair.encoder.encoder(mel).chunk(2, dim=1)[0].float()
        latent = mean + recipe.latent_noise * torch.randn(mean.shape, generator=generator).to(device)
        decoded = pair.decoder.decoder(latent).float()
        # The decoder returns 4L - 3 frames, up to three fewer than were encoded.
        error = weighted_mel_error(decoded, mel[:, :, : decoded.shape[2]])
        # The part of the Kullback-Leibler divergence that depends on the mean; the deviation is a constant.
        divergence = 0.5 * mean.square().mean()
        return {
            "loss": error + recipe.divergence_weight * divergence,
            "error": error,
            "divergence": divergence,
        }

    return step_fn


def weighted_mel_error(mel: Tensor, truth: Tensor) -> Tensor:
    """Weighted mean of the absolute and squared errors of log-mels (B, C, T, M) against ``truth``; a scalar.

    T mel frames, M mel bins. Quiet values weigh a tenth of loud ones: the noise floor is random, and learning
    it would take the capacity that tones need.
    """
    weight = 0.1 + 0.9 * torch.sigmoid(torch.maximum(truth, mel.detach()) - LOUD)
    difference = (mel - truth).abs()
    return (weight * (difference + 0.5 * difference.square())).mean()


def new_audio_vae(config: AudioVAEConfig, seed: int) -> AudioPair:
    """Build an encoder and a decoder with the weights from which training starts; ``seed`` draws them.

    Convolutions are nearly isometric, residual branches output zero, and the decoder outputs near silence.
    """
    generator = torch.Generator().manual_seed(seed)
    pair = AudioPair(config)
    with torch.no_grad():
        for module in pair.modules():
            if isinstance(module, nn.Conv2d):
                rotate_convolution(module, generator)
        for module in pair.modules():
            if isinstance(module, ResidualBlock):
                module.get_parameter("conv2.conv.weight").zero_()
        # Log-mels lie between -11 and 2, several times the unit range that the following layers start from.
        pair.get_parameter("encoder.encoder.conv_in.conv.weight").mul_(0.3)
        # About the log-mel of the noise floor of the world, which is most of a clip.
        pair.get_parameter("decoder.decoder.conv_out.conv.bias").fill_(-8.0)
    return pair


@torch.no_grad()
def held_out_mel_error(pair: nn.Module, *, clips: int = 32, seconds: float = 1.0) -> float:
    """``weighted_mel_error`` between audio that training never uses and its reconstruction by ``pair``.

    It is the mean over ``clips`` clips of ``seconds`` each.
    """
    assert isinstance(pair, AudioPair)
    config = pair.encoder.config
    seeds = range(HELD_OUT, HELD_OUT + clips)
    waveforms = audio_batch(seeds, seconds=seconds, sample_rate=config.sample_rate).to(_device(pair))
    mel = log_mel(waveforms, config)
    decoded = pair.decoder(pair.encoder(mel))
    return float(weighted_mel_error(decoded, mel[:, :, : decoded.shape[2]]))


@torch.no_grad()
def finish_audio_vae(pair: AudioPair, recipe: AudioVAERecipe, *, clips: int = 256, seed: int = 0) -> None:
    """Set the latent statistics of ``pair`` and its constant log-variance, in place, after training.

    The mean and deviation of each channel and bin of the latents are measured on ``clips`` clips, drawn by
    ``seed``. The log-variance becomes that of ``recipe.latent_noise``.
    """
    config = pair.encoder.config
    generator = torch.Generator().manual_seed(seed)
    waveforms = audio_batch(draw_seeds(generator, clips), seconds=1.0, sample_rate=config.sample_rate)
    mean = pair.encoder.encoder(log_mel(waveforms.to(_device(pair)), config)).chunk(2, dim=1)[0]
    flat = mean.transpose(1, 2).flatten(2).flatten(0, 1)  # (B L, C N), channels slower than bins
    # Of samples of the posterior, whose noise adds to the spread of the means.
    deviation = (flat.var(0) + recipe.latent_noise**2).sqrt()
    for half in (pair.encoder, pair.decoder):
        half.per_channel_statistics.get_buffer("mean-of-means").copy_(flat.mean(0))
        half.per_channel_statistics.get_buffer("std-of-means").copy_(deviation)
    final = pair.encoder.get_submodule("encoder.conv_out.conv")
    # Training used one constant deviation, and a file states it as readers of a posterior expect it.
    final.get_parameter("weight")[config.z_channels :] = 0
    final.get_parameter("bias")[config.z_channels :] = 2 * math.log(recipe.latent_noise)


def _device(pair: AudioPair) -> torch.device:
    return pair.encoder.per_channel_statistics.get_buffer("mean-of-means").device
