"""Training of the video encoder and decoder, each by itself, on a fixed code (:mod:`.video_code`).

The encoder learns to compute the code of a clip, the decoder to reconstruct the clip from a code with noise.
Latents can be computed from the code before either is trained.

B batch, C channels, f h w latent frames, rows and columns; F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...config import VideoVAEConfig
from ...shapes import TEMPORAL_SCALE
from ...video_vae import DiffusionVAE, VideoVAE
from ...video_vae.layers import Downsample
from ...video_vae.residual import ResBlock
from ..data import psnr
from ..loop import Elapsed, Evaluate, History, LoopOptions, StepFn, train, warmup_stable_decay
from ..optimisers import Muon
from ..state import load_averaged
from ..world.batches import HELD_OUT, ClipSize, draw_seeds, draw_size, video_batch
from .initial import rotate_convolution
from .video_code import EncodesVideo

WHOLE = 1 << 62
"""Piece size in bytes that no clip reaches: gradients need all activations, so pieces save nothing."""

_LEAST = 1e-4
"""Added to squared errors before their logarithm, so that clips above 46 dB hardly count."""

LATENT_NOISE = 0.1
"""Standard deviation of the posterior, a constant."""

SIZES = (
    ClipSize(batch=8, frames=9, width=64, height=64),
    ClipSize(batch=4, frames=17, width=64, height=64),
    ClipSize(batch=3, frames=9, width=96, height=96),
    ClipSize(batch=2, frames=9, width=128, height=128),
    ClipSize(batch=1, frames=25, width=96, height=128),
    ClipSize(batch=1, frames=25, width=128, height=128),
)


@dataclass(frozen=True, kw_only=True)
class VideoVAERecipe:
    """Settings for training the encoder or the decoder: steps, learning rates, loss and clip sizes.

    ``lr`` is the learning rate of matrices (Muon), ``adam_lr`` that of other parameters. ``sizes`` are the
    number, length and size of the clips of a batch; each step draws one of them. ``clip`` is the largest norm
    of the gradient; None leaves it to the options of the loop.
    """

    total_steps: int
    lr: float = 3e-4
    adam_lr: float = 3e-4
    weight_decay: float = 0.01
    absolute_weight: float = 0.2
    """Weight of absolute errors of pixels, added to squared ones."""
    decibels: bool = False
    """Minimise instead the mean logarithm of each clip's squared error, which is the mean PSNR."""
    sizes: tuple[ClipSize, ...] = SIZES
    cuts: float = 0.0
    """Share of the decoder's clips that change the scene half-way. Without them it takes colours from
    neighbouring frames, and generated frames bleed into a preserved one next to them."""
    clip: float | None = None
    """Largest norm of the gradient."""
    seconds: float = math.inf
    """Training ends after so many seconds if not before, and the learning rate decays in time for that."""


def train_video_encoder(
    vae: VideoVAE,
    code: EncodesVideo,
    state_path: str | Path,
    *,
    recipe: VideoVAERecipe,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train the encoder of ``vae`` in place to compute ``code``, a fixed linear encoder.

    It resumes from the training state ``state_path`` if the file exists; ``options`` of None are the
    defaults. At the end the encoder has its averaged weights.
    """

    device = _device(vae)

    def step_fn(_model: nn.Module, generator: torch.Generator, _step: int) -> Mapping[str, Tensor]:
        frames = draw_frames(recipe, generator, device)
        return {"loss": encoder_error(vae, code, frames)}

    def evaluate(_model: nn.Module, _step: int) -> dict[str, float]:
        return {"error": held_out_code_error(vae, code)}

    # The loop trains and averages all parameters that need gradients.
    vae.decoder.requires_grad_(False)
    return _train(vae, list(vae.encoder.parameters()), step_fn, evaluate, recipe, state_path, seed, options)


def train_video_decoder(
    vae: VideoVAE,
    code: EncodesVideo,
    state_path: str | Path,
    *,
    recipe: VideoVAERecipe,
    encoded: bool = False,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train the decoder of ``vae`` in place to invert ``code``, a fixed linear encoder.

    It resumes from the training state ``state_path`` if the file exists; ``options`` of None are the
    defaults. At the end the decoder has its averaged weights. With ``encoded`` half of the latents come from
    the encoder of ``vae`` and half from the code, so that the decoder learns to tolerate the errors of the
    encoder.
    """
    device = _device(vae)

    def step_fn(_model: nn.Module, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        frames = draw_frames(recipe, generator, device, cuts=recipe.cuts)
        # For a batch of one the halves alternate from step to step.
        own = (len(frames) + step % 2) // 2 if encoded else 0
        error = decoder_error(vae, code, frames, generator, encoded=own)
        return frame_loss(error, recipe)

    def evaluate(_model: nn.Module, _step: int) -> dict[str, float]:
        figures = {"psnr": held_out_psnr(vae, code)}
        return figures | {"encoded": held_out_psnr(vae)} if encoded else figures

    vae.encoder.requires_grad_(False)
    return _train(vae, list(vae.decoder.parameters()), step_fn, evaluate, recipe, state_path, seed, options)


def frame_loss(error: Tensor, recipe: VideoVAERecipe) -> dict[str, Tensor]:
    """The loss of a decoder, and the mean square of ``error`` (B, 3, F, H, W), decoded minus true frames."""
    square = error.square().mean()
    # The logarithm gives every clip the same weight, however large its error is.
    if recipe.decibels:
        return {"loss": (error.square().flatten(1).mean(1) + _LEAST).log().mean(), "square": square}
    return {"loss": square + recipe.absolute_weight * error.abs().mean(), "square": square}


def _train(
    vae: VideoVAE,
    parameters: list[nn.Parameter],
    step_fn: StepFn,
    evaluate: Evaluate,
    recipe: VideoVAERecipe,
    state_path: str | Path,
    seed: int,
    options: LoopOptions | None,
) -> History:
    options = options or LoopOptions()
    options = replace(
        options,
        clip=recipe.clip or options.clip,
        # A run of a minute is evaluated too.
        evaluate_every_s=min(options.evaluate_every_s, recipe.seconds / 4),
        max_seconds=min(options.max_seconds, recipe.seconds),
    )
    history = train(
        step_fn,
        vae,
        Muon(parameters, lr=recipe.lr, adam_lr=recipe.adam_lr, weight_decay=recipe.weight_decay),
        warmup_stable_decay(Elapsed(recipe.total_steps, recipe.seconds)),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
        evaluate=evaluate,
    )
    load_averaged(vae, state_path)
    return history


def draw_frames(
    recipe: VideoVAERecipe, generator: torch.Generator, device: torch.device, *, cuts: float = 0.0
) -> Tensor:
    """Render random clips (B, 3, F, H, W) in [-1, 1] on ``device``, of one of the recipe's sizes.

    A share ``cuts`` of them, from 0 to 1, changes to another scene half-way.
    """
    size = draw_size(recipe.sizes, generator)
    # One clip more, since each may end as the next one.
    seeds = draw_seeds(generator, size.batch + (cuts > 0))
    frames = video_batch(seeds, frames=size.frames, width=size.width, height=size.height, device=device)
    if cuts:
        frames = cut_to_next(frames, cuts, generator)
    # Channels-last is the faster layout of these convolutions.
    return frames.contiguous(memory_format=torch.channels_last_3d)


def _device(vae: nn.Module) -> torch.device:
    return next(vae.parameters()).device


def cut_to_next(frames: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Turn clips (B + 1, C, F, H, W) of F pixel frames into B clips, some of which cut to another scene.

    A random ``share`` of them, 0 to 1, continues as the next clip of the batch. The cut lies at a random one
    of the pixel frames 1, 9, 17 and so on, where a latent frame begins.
    """
    length = frames.shape[2]
    chance, where = torch.rand(2, len(frames) - 1, 1, generator=generator)
    # Only between latent frames: within one the code itself would blend the scenes.
    first = 1 + (where * ((length - 1) // TEMPORAL_SCALE)).long() * TEMPORAL_SCALE
    after = (chance < share) & (torch.arange(length) >= first)
    after = after.to(frames.device, non_blocking=True)[:, None, :, None, None]
    return torch.where(after, frames[1:], frames[:-1])


def encoder_error(vae: VideoVAE, code: EncodesVideo, frames: Tensor) -> Tensor:
    """Mean squared error of the encoder's latents of ``frames`` (B, 3, F, H, W) against those of ``code``."""
    with torch.no_grad():
        target = code.encode(frames)
    return (latent_mean(vae, frames) - target).square().mean()


def decoder_error(
    vae: VideoVAE, code: EncodesVideo, frames: Tensor, generator: torch.Generator, *, encoded: int = 0
) -> Tensor:
    """Decode noisy latents of ``frames`` and subtract ``frames``: the error of each pixel, (B, 3, F, H, W).

    The latents of the first ``encoded`` clips come from the encoder of ``vae``, those of the others from
    ``code``.
    """
    with torch.no_grad():
        latents = [code.encode(frames[encoded:])] if encoded < len(frames) else []
        latents = [latent_mean(vae, frames[:encoded]), *latents] if encoded else latents
    latent = torch.cat(latents)
    noise = torch.randn(latent.shape, generator=generator).to(frames.device, non_blocking=True)
    return decode_whole(vae, latent + LATENT_NOISE * noise).float() - frames


def latent_mean(vae: VideoVAE | DiffusionVAE, frames: Tensor) -> Tensor:
    """Encode frames (B, 3, F, H, W) in one piece: normalised latent (B, C, f, h, w), float32.

    It is the mean of the posterior, without noise.
    """
    return vae.encode(frames, max_piece_bytes=WHOLE).float()


def decode_whole(vae: VideoVAE | DiffusionVAE, latent: Tensor) -> Tensor:
    """Decode a normalised latent (B, C, f, h, w) in one piece: frames (B, 3, F, H, W)."""
    return vae.decode(latent, max_piece_bytes=WHOLE)


@torch.no_grad()
def new_video_vae(config: VideoVAEConfig, code: EncodesVideo, seed: int) -> VideoVAE:
    """Build an autoencoder with initial weights, drawn by ``seed``, and the latent statistics of ``code``.

    Its convolutions are nearly isometric, its residual branches output zero, and its log-variance is
    constant.
    """
    generator = torch.Generator().manual_seed(seed)
    vae = VideoVAE(config)
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            rotate_convolution(module, generator)
    for module in vae.modules():
        if isinstance(module, ResBlock):
            # A residual branch of zero leaves the skip alone, which is nearly linear at first.
            module.conv2.conv.weight.zero_()
        elif isinstance(module, Downsample):
            # The convolution and the skip are summed, so that half of the gain leaves the sum near the scale
            # of the skip.
            module.conv.conv.weight.mul_(0.5)
    # A decoder that starts near grey has no large errors of random colours to undo first.
    vae.decoder.conv_out.conv.weight.mul_(0.2)
    last = vae.encoder.conv_out.conv
    assert last.bias is not None
    last.weight[-1] = 0
    # The log-variance is that of a deviation, so twice its logarithm.
    last.bias[-1] = 2 * math.log(LATENT_NOISE)
    vae.per_channel_statistics = code.per_channel_statistics
    return vae


@torch.no_grad()
def held_out_psnr(
    vae: nn.Module,
    code: EncodesVideo | None = None,
    *,
    clips: int = 12,
    frames: int = 25,
    width: int = 128,
    height: int = 128,
) -> float:
    """Mean PSNR in dB of clips that training never uses against what the decoder of ``vae`` reconstructs.

    The latents come from ``code`` or, if it is None, from the encoder of ``vae``. ``clips`` scenes are
    rendered with ``frames`` frames of ``width`` x ``height`` pixels.
    """
    assert isinstance(vae, VideoVAE | DiffusionVAE)
    total = 0.0
    for index in range(clips):
        truth = video_batch(
            [HELD_OUT + index], frames=frames, width=width, height=height, device=_device(vae)
        )
        latent = latent_mean(vae, truth) if code is None else code.encode(truth)
        # One clip at a time, since each is decoded in one piece, with all its activations.
        total += float(psnr(decode_whole(vae, latent), truth))
    return total / clips


@torch.no_grad()
def held_out_code_error(vae: VideoVAE, code: EncodesVideo, *, clips: int = 12) -> float:
    """Squared error of the encoder's latents, relative to the mean square of its targets.

    The targets are the latents of ``code``, the fixed linear encoder that the encoder is trained to compute.
    It is measured on ``clips`` clips that training never uses.
    """
    error = power = 0.0
    for index in range(clips):
        frames = video_batch([HELD_OUT + index], frames=25, width=128, height=128, device=_device(vae))
        target = code.encode(frames)
        error += float((latent_mean(vae, frames) - target).square().sum())
        power += float(target.square().sum())
    return error / power
