"""Trains the spatial x2 upsampler of latents: one scene, encoded at two sizes.

B batch, C channels, f h w grid of the latent; F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import UpsamplerConfig
from ..upsampler import LatentUpsampler, ResBlock, upsample_latent
from ..video_vae import VideoVAE
from .data import HELD_OUT, ClipSize, draw, draw_seeds, psnr, video_batch
from .initial import rotate_convolution
from .loop import History, LoopOptions, StepFn, train, warmup_stable_decay
from .muon import Muon
from .state import load_averaged
from .video_vae import decode_whole, latent_mean


@dataclass(frozen=True, kw_only=True)
class UpsamplerRecipe:
    """Sizes of the smaller clip of each pair, weights and length of the training."""

    total_steps: int = 600
    lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    input_noise: float = 0.1
    """Deviation of noise on normalised inputs: sampled latents are not as clean as encoded ones."""
    sizes: tuple[ClipSize, ...] = (
        ClipSize(batch=4, frames=9, width=64, height=64),
        ClipSize(batch=2, frames=25, width=64, height=64),
        ClipSize(batch=2, frames=9, width=96, height=64),
        ClipSize(batch=1, frames=17, width=96, height=96),
    )


def train_upsampler(
    config: UpsamplerConfig,
    vae: VideoVAE,
    state_path: str | Path,
    *,
    recipe: UpsamplerRecipe | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LatentUpsampler, History]:
    """Train for a finished ``vae``, from nothing or from ``state_path`` on, to averaged weights."""
    recipe = recipe or UpsamplerRecipe()
    net = new_upsampler(config, seed).to(device)
    history = train(
        upsampler_step(recipe, vae),
        net,
        Muon(net.parameters(), lr=recipe.lr, adam_lr=recipe.adam_lr, weight_decay=recipe.weight_decay),
        warmup_stable_decay(recipe.total_steps),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
        evaluate=lambda model, step: {"psnr": held_out_upsampled_psnr(model, vae)},
    )
    load_averaged(net, state_path)
    return net, history


def upsampler_step(recipe: UpsamplerRecipe, vae: VideoVAE) -> StepFn:
    """The loss of one batch: the squared error of normalised latents, in which all channels count alike."""

    def step_fn(net: nn.Module, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        assert isinstance(net, LatentUpsampler)
        device = vae.per_channel_statistics.get_buffer("mean-of-means").device
        size = draw(recipe.sizes, generator)
        seeds = draw_seeds(generator, size.batch)
        with torch.no_grad():
            small, large = (encoded(vae, seeds, size, scale, device) for scale in (1, 2))
        noise = torch.randn(small.shape, generator=generator).to(device)
        made = upsample_latent(net, small + recipe.input_noise * noise, vae.per_channel_statistics)
        return {"loss": (made.float() - large).square().mean()}

    return step_fn


def encoded(
    vae: VideoVAE, seeds: list[int], size: ClipSize, scale: int, device: torch.device | str
) -> Tensor:
    """Normalised latents (B, C, f, h, w) of the scenes at ``scale`` times the size."""
    frames = video_batch(seeds, frames=size.frames, width=scale * size.width, height=scale * size.height)
    return latent_mean(vae, frames.to(device))


def new_upsampler(config: UpsamplerConfig, seed: int) -> LatentUpsampler:
    """A network whose convolutions rotate channels and whose residual branches add nothing yet."""
    generator = torch.Generator().manual_seed(seed)
    net = LatentUpsampler(config)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                rotate_convolution(module, generator)
        for module in net.modules():
            if isinstance(module, ResBlock):
                module.norm2.weight.zero_()
    return net


@torch.no_grad()
def held_out_upsampled_psnr(
    net: nn.Module, vae: VideoVAE, *, clips: int = 8, frames: int = 25, width: int = 64, height: int = 64
) -> float:
    """Mean PSNR in dB of decoded upsampled latents against the scene at twice the size."""
    assert isinstance(net, LatentUpsampler)
    device = vae.per_channel_statistics.get_buffer("mean-of-means").device
    total = 0.0
    for index in range(clips):
        size = ClipSize(batch=1, frames=frames, width=width, height=height)
        small = encoded(vae, [HELD_OUT + index], size, 1, device)
        made = decode_whole(vae, upsample_latent(net, small, vae.per_channel_statistics))
        truth = video_batch([HELD_OUT + index], frames=frames, width=2 * width, height=2 * height)
        total += float(psnr(made, truth.to(device)))
    return total / clips
