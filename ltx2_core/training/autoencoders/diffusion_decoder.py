"""Training of the diffusion video decoder of LTX-2.5 on the latents of a finished video encoder.

It denoises in one step, from pure noise, so that the loss is the error of the frames that it predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...video_vae import DiffusionVAE, FrameNoise
from ..loop import Elapsed, History, LoopOptions, train, warmup_stable_decay
from ..optimisers import Muon
from ..state import load_averaged
from .video_vae import (
    LATENT_NOISE,
    WHOLE,
    VideoVAERecipe,
    draw_frames,
    frame_loss,
    held_out_psnr,
    latent_mean,
)

_FIRST_AND_LAST = ("conv_in", "conv_out", "shared_adaln", "t_embedder", "scale_shift_table")
"""Parts of the names of matrices outside the hidden layers, which AdamW trains."""


def train_diffusion_decoder(
    vae: DiffusionVAE,
    state_path: str | Path,
    *,
    recipe: VideoVAERecipe,
    seed: int = 0,
    options: LoopOptions | None = None,
) -> History:
    """Train the decoder of ``vae`` in place to reconstruct clips from the latents of its encoder.

    The latents have noise, as sampled ones are never exact, and decoding starts from new noise in each step.
    Training resumes from the training state ``state_path`` if the file exists; ``options`` of None are the
    defaults. At the end the decoder has its averaged weights.
    """
    options = options or LoopOptions()
    device = next(vae.parameters()).device

    def step_fn(_model: nn.Module, generator: torch.Generator, _step: int) -> Mapping[str, Tensor]:
        frames = draw_frames(recipe, generator, device, cuts=recipe.cuts)
        with torch.no_grad():
            latent = latent_mean(vae, frames)
        noise = torch.randn(latent.shape, generator=generator).to(device, non_blocking=True)
        start = FrameNoise(int(torch.randint(1 << 62, (), generator=generator)))
        decoded = vae.decode(latent + LATENT_NOISE * noise, max_piece_bytes=WHOLE, noise=start)
        return frame_loss(decoded.float() - frames, recipe)

    def evaluate(_model: nn.Module, _step: int) -> dict[str, float]:
        return {"psnr": held_out_psnr(vae)}

    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    plain = [p for name, p in vae.decoder.named_parameters() if any(part in name for part in _FIRST_AND_LAST)]
    history = train(
        step_fn,
        vae,
        Muon(
            list(vae.decoder.parameters()),
            lr=recipe.lr,
            adam_lr=recipe.adam_lr,
            weight_decay=recipe.weight_decay,
            plain=plain,
        ),
        warmup_stable_decay(Elapsed(recipe.total_steps, recipe.seconds)),
        state_path,
        total_steps=recipe.total_steps,
        seed=seed,
        options=replace(options, clip=recipe.clip or options.clip),
        evaluate=evaluate,
    )
    load_averaged(vae, state_path)
    return history
