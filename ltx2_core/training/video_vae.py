"""Trains the video autoencoder: reconstruction and a little divergence from a normal prior.

B batch, C channels, f h w grid of the latent; F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import VideoVAEConfig
from ..video_vae import VideoVAE
from ..video_vae.layers import Downsample, ResBlock
from .data import HELD_OUT, ClipSize, draw, draw_seeds, psnr, video_batch
from .initial import rotate_convolution
from .loop import History, LoopOptions, StepFn, train, warmup_stable_decay
from .muon import Muon
from .state import load_averaged

WHOLE = 1 << 62
"""A piece size no clip reaches: gradients need every activation anyway."""


SMALL = ClipSize(batch=8, frames=9, width=64, height=64)
LARGE = (
    ClipSize(batch=4, frames=17, width=64, height=64),
    ClipSize(batch=3, frames=9, width=96, height=96),
    ClipSize(batch=2, frames=9, width=128, height=128),
    ClipSize(batch=1, frames=25, width=96, height=128),
    ClipSize(batch=1, frames=25, width=128, height=128),
)


@dataclass(frozen=True, kw_only=True)
class VideoVAERecipe:
    """Sizes, weights and length of the training. Clips grow: ``sizes`` are (share of the steps, choices)."""

    total_steps: int = 1600
    lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    absolute_weight: float = 0.2
    divergence_weight: float = 3e-4
    latent_noise: float = 0.1
    """Deviation of the posterior, a constant: learnt, it swings more than the means do early on."""
    sizes: tuple[tuple[float, tuple[ClipSize, ...]], ...] = ((0.25, (SMALL,)), (1.0, (SMALL, *LARGE)))

    def choices(self, step: int) -> tuple[ClipSize, ...]:
        """The clip sizes that ``step`` may use."""
        return next(sizes for until, sizes in self.sizes if step < until * self.total_steps or until >= 1)


DECODER_RECIPE = VideoVAERecipe(total_steps=1700, lr=0.012, sizes=((1.0, LARGE),))
"""For ``train_video_decoder``."""


def train_video_vae(
    config: VideoVAEConfig,
    state_path: str | Path,
    *,
    recipe: VideoVAERecipe | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
    device: torch.device | str = "cpu",
) -> tuple[VideoVAE, History]:
    """Train both halves from nothing or from ``state_path`` on, to averaged weights.

    When all steps are done, ``finish_video_vae`` makes it ready for use."""
    recipe = recipe or VideoVAERecipe()
    vae = new_video_vae(config, seed).to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    history = _train(vae, list(vae.parameters()), recipe, state_path, seed, options)
    load_averaged(vae, state_path)
    return vae, history


def train_video_decoder(
    vae: VideoVAE,
    state_path: str | Path,
    *,
    recipe: VideoVAERecipe | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train the decoder of a finished ``vae`` further, in place, to its averaged weights.

    The encoder and the statistics stay, so latents keep their meaning: what reads them can be trained
    meanwhile.
    """
    recipe = recipe or DECODER_RECIPE
    vae.encoder.requires_grad_(False)
    history = _train(vae, list(vae.decoder.parameters()), recipe, state_path, seed, options)
    load_averaged(vae, state_path)
    return history


def _train(
    vae: VideoVAE,
    parameters: list[nn.Parameter],
    recipe: VideoVAERecipe,
    state_path: str | Path,
    seed: int,
    options: LoopOptions | None,
) -> History:
    return train(
        video_vae_step(recipe),
        vae,
        Muon(parameters, lr=recipe.lr, adam_lr=recipe.adam_lr, weight_decay=recipe.weight_decay),
        warmup_stable_decay(recipe.total_steps),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
        evaluate=lambda model, step: {"psnr": held_out_psnr(model)},
    )


def video_vae_step(recipe: VideoVAERecipe) -> StepFn:
    """The loss of one batch; noise is added to raw latents."""

    def step_fn(vae: nn.Module, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        assert isinstance(vae, VideoVAE)
        statistics = vae.per_channel_statistics
        device = statistics.get_buffer("mean-of-means").device
        size = draw(recipe.choices(step), generator)
        seeds = draw_seeds(generator, size.batch)
        frames = video_batch(seeds, frames=size.frames, width=size.width, height=size.height)
        frames = frames.to(device, memory_format=torch.channels_last_3d)
        raw = statistics.un_normalize(latent_mean(vae, frames))
        noise = torch.randn(raw.shape, generator=generator).to(device)
        latent = statistics.normalize(raw + recipe.latent_noise * noise)
        error = decode_whole(vae, latent).float() - frames
        square = error.square().mean()
        # The divergence from a unit normal, less what a constant variance adds to it.
        divergence = 0.5 * raw.square().mean()
        loss = square + recipe.absolute_weight * error.abs().mean() + recipe.divergence_weight * divergence
        return {"loss": loss, "square": square, "divergence": divergence}

    return step_fn


def latent_mean(vae: VideoVAE, frames: Tensor) -> Tensor:
    """Frames (B, 3, F, H, W) -> normalised latent (B, C, f, h, w) in float32: in one piece, for gradients."""
    return vae.encode(frames, max_piece_bytes=WHOLE).float()


def decode_whole(vae: VideoVAE, latent: Tensor) -> Tensor:
    """Normalised latent -> frames, with gradients in mind: in one piece."""
    return vae.decode(latent, max_piece_bytes=WHOLE)


def new_video_vae(config: VideoVAEConfig, seed: int) -> VideoVAE:
    """A network whose convolutions rotate channels and whose residual branches add nothing yet."""
    generator = torch.Generator().manual_seed(seed)
    vae = VideoVAE(config)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                rotate_convolution(module, generator)
        for module in vae.modules():
            if isinstance(module, ResBlock):
                module.conv2.conv.weight.zero_()
            elif isinstance(module, Downsample):
                module.conv.conv.weight.mul_(0.5)
        vae.decoder.conv_out.conv.weight.mul_(0.2)
        vae.encoder.conv_out.conv.weight[-1] = 0
    return vae


@torch.no_grad()
def held_out_psnr(
    vae: nn.Module, *, clips: int = 12, frames: int = 25, width: int = 128, height: int = 128
) -> float:
    """Mean PSNR in dB of reconstructions of scenes that are never trained on, in the caller's precision."""
    assert isinstance(vae, VideoVAE)
    device = vae.per_channel_statistics.get_buffer("mean-of-means").device
    total = 0.0
    for index in range(clips):
        truth = video_batch([HELD_OUT + index], frames=frames, width=width, height=height).to(device)
        total += float(psnr(decode_whole(vae, vae.encode(truth, max_piece_bytes=WHOLE)), truth))
    return total / clips


@torch.no_grad()
def finish_video_vae(vae: VideoVAE, recipe: VideoVAERecipe, *, clips: int = 64, seed: int = 0) -> None:
    """Set per-channel statistics, from fresh training clips, and the log-variance.

    The deviation is that of the noisy posterior: a channel that says less than its noise hides must not be
    blown up to unit size, or a diffusion model would spend its effort on nothing.
    """
    statistics = vae.per_channel_statistics
    device = statistics.get_buffer("mean-of-means").device
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for scene in draw_seeds(generator, clips):
        batch = video_batch([scene], frames=25, width=128, height=128).to(device)
        samples.append(statistics.un_normalize(latent_mean(vae, batch)).movedim(1, -1).flatten(0, -2))
    latents = torch.cat(samples)
    statistics.get_buffer("mean-of-means").copy_(latents.mean(0))
    statistics.get_buffer("std-of-means").copy_((latents.var(0) + recipe.latent_noise**2).sqrt())
    assert vae.encoder.conv_out.conv.bias is not None
    vae.encoder.conv_out.conv.bias[-1] = 2 * math.log(recipe.latent_noise)
