"""Training of the spatial x2 latent upsampler on pairs of latents: one scene, encoded at two sizes.

B batch, C channels, f h w latent frames, rows and columns; F frames, H W rows and columns of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...config import UpsamplerConfig
from ...upsampler import LatentUpsampler, ResBlock, upsample_latent
from ..data import noise_like
from ..loop import History, LoopOptions, StepFn, train, warmup_stable_decay
from ..optimisers import Muon
from ..state import load_averaged
from ..world.batches import HELD_OUT, ClipSize, draw_seeds, draw_size, video_batch
from .initial import rotate_convolution
from .video_code import EncodesVideo


@dataclass(frozen=True, kw_only=True)
class UpsamplerRecipe:
    """Settings for training the latent upsampler: batches, learning rates and number of steps.

    ``sizes`` are the number, length and size of the clips of a batch before upsampling; each step draws one
    of them, and the targets have twice the width and height. ``lr`` is the learning rate of matrices (Muon),
    ``adam_lr`` that of other parameters.
    """

    total_steps: int = 3000
    lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    input_noise: float = 0.1
    """Standard deviation of noise on inputs, because sampled latents are less clean than encoded ones."""
    sizes: tuple[ClipSize, ...] = (
        ClipSize(batch=16, frames=9, width=64, height=64),
        ClipSize(batch=8, frames=25, width=64, height=64),
        ClipSize(batch=8, frames=9, width=96, height=64),
        ClipSize(batch=4, frames=17, width=96, height=96),
    )


def train_upsampler(
    config: UpsamplerConfig,
    code: EncodesVideo,
    state_path: str | Path,
    *,
    recipe: UpsamplerRecipe | None = None,
    seed: int = 0,
    options: LoopOptions | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LatentUpsampler, History]:
    """Train a new upsampler for the latents of the encoder ``code``, or resume from ``state_path``.

    ``code`` must be on ``device``. It resumes if the training state ``state_path`` exists; ``recipe`` and
    ``options`` of None are the defaults. Returns the upsampler with its averaged weights, and the history of
    the run.
    """
    recipe = recipe or UpsamplerRecipe()
    net = new_upsampler(config, seed).to(device)
    history = train(
        upsampler_step(recipe, code),
        net,
        Muon(net.parameters(), lr=recipe.lr, adam_lr=recipe.adam_lr, weight_decay=recipe.weight_decay),
        warmup_stable_decay(recipe.total_steps),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=options,
        evaluate=lambda model, step: {"error": held_out_upsampling_error(model, code)},
    )
    load_averaged(net, state_path)
    return net, history


def upsampler_step(recipe: UpsamplerRecipe, code: EncodesVideo) -> StepFn:
    """Return a step function for :func:`ltx2_core.training.loop.train`.

    Its loss is the mean squared error of the upsampled normalised latents of one random batch, encoded by
    ``code``.
    """
    statistics = code.per_channel_statistics

    def step_fn(net: nn.Module, generator: torch.Generator, _step: int) -> Mapping[str, Tensor]:
        assert isinstance(net, LatentUpsampler)
        size = draw_size(recipe.sizes, generator)
        with torch.no_grad():
            small, large = encoded_pair(code, draw_seeds(generator, size.batch), size, _device(net))
        noise = noise_like(small, generator)
        # The network works on raw latents, while both latents here are normalised; this function converts.
        upsampled = upsample_latent(net, small + recipe.input_noise * noise, statistics)
        return {"loss": (upsampled.float() - large).square().mean()}

    return step_fn


def encoded_pair(
    code: EncodesVideo, seeds: list[int], size: ClipSize, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Render the scenes of ``seeds`` at ``size`` and at twice its width and height, and encode both.

    Returns two normalised latents of the encoder ``code``: (B, C, f, h, w) and (B, C, f, 2h, 2w).
    """
    small, large = (
        # The same scene rendered twice, not one rendering scaled: the target has the edges of the larger
        # size.
        code.encode(
            video_batch(
                seeds,
                frames=size.frames,
                width=scale * size.width,
                height=scale * size.height,
                device=device,
            )
        )
        for scale in (1, 2)
    )
    return small, large


def new_upsampler(config: UpsamplerConfig, seed: int) -> LatentUpsampler:
    """Build an upsampler with the weights from which training starts; ``seed`` draws them.

    Its convolutions are nearly isometric, and its residual branches output zero.
    """
    generator = torch.Generator().manual_seed(seed)
    net = LatentUpsampler(config)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                rotate_convolution(module, generator)
        for module in net.modules():
            if isinstance(module, ResBlock):
                # The norm ends the branch, so that its gain alone silences it.
                module.norm2.weight.zero_()
    return net


@torch.no_grad()
def held_out_upsampling_error(net: nn.Module, code: EncodesVideo, *, clips: int = 8) -> float:
    """Squared error of the latents that ``net`` upsamples, relative to the power of the true ones.

    It is measured on ``clips`` clips that training never uses, encoded by ``code``.
    """
    assert isinstance(net, LatentUpsampler)
    size = ClipSize(batch=clips, frames=25, width=64, height=64)
    seeds = [HELD_OUT + index for index in range(clips)]
    small, large = encoded_pair(code, seeds, size, _device(net))
    upsampled = upsample_latent(net, small, code.per_channel_statistics)
    return float((upsampled - large).square().sum() / large.square().sum())


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device
