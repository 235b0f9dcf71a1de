"""Live previews while an audio-video latent is sampled.

The host has none: its own previewer cannot read the packed latent. A wrapper around the sampling run unpacks
the predicted clean latent and sends an image of its middle frame. Without a decoder the colours have no
meaning: the three strongest directions of the 128 channels become red, green and blue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.utils
import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.patcher_extension import WrappersMP
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)
KEY = "ltx2_av_previews"
Callback = Callable[[int, Tensor, Tensor, int], None]


def add_av_previews(patcher: Any) -> None:
    """Attach previews to a MODEL. A preview that fails is logged once and never stops the run."""
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _outer_sample)


def _outer_sample(
    executor: Callable[..., Any],
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callback | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    latent_shapes: Sequence[Sequence[int]] | None = None,
    **more: Any,
) -> Any:
    if (
        callback is not None
        and latent_shapes is not None
        and args.preview_method != LatentPreviewMethod.NoPreviews
    ):
        callback = _with_preview(callback, latent_shapes, len(sigmas) - 1)
    if latent_shapes is not None:
        more["latent_shapes"] = latent_shapes
    return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **more)


def _with_preview(callback: Callback, latent_shapes: Sequence[Sequence[int]], steps: int) -> Callback:
    bar = comfy.utils.ProgressBar(steps)
    working = True

    def with_preview(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        nonlocal working
        callback(step, x0, x, total)
        image = None
        if working:
            try:
                image = preview_image(comfy.utils.unpack_latents(x0, latent_shapes)[0])
            except (RuntimeError, ValueError, IndexError):
                working = False
                log.warning("no preview of this run", exc_info=True)
        if image is not None:
            bar.update_absolute(step + 1, total, ("JPEG", image, latent_preview.MAX_PREVIEW_RESOLUTION))

    return with_preview


def preview_image(video: Tensor) -> Image.Image | None:
    """The middle frame of ``video`` (B, C, F, H, W) in false colours, 8 pixels a cell; None for audio."""
    if video.ndim != 5:
        return None
    frame = video[0, :, video.shape[2] // 2].detach().float().cpu()
    channels, height, width = frame.shape
    cells = frame.reshape(channels, -1)
    cells = cells - cells.mean(dim=1, keepdim=True)
    directions = torch.linalg.eigh(cells @ cells.T).eigenvectors[:, -3:].flip(1)
    # An eigenvector has no sign of its own; without this one the colours would flip from step to step.
    directions = directions * directions.sum(dim=0, keepdim=True).sign()
    rgb = directions.T @ cells
    spread = rgb.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
    pixels = (127.5 * (1 + rgb / spread)).reshape(3, height, width).byte().movedim(0, -1)
    return Image.fromarray(pixels.numpy()).resize((width * 8, height * 8), Image.Resampling.BILINEAR)
