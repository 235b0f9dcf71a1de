"""Runs a latent upscaler of either type: a ModelPatcher that ComfyUI manages, or a bare network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import cast

import comfy.model_management
import torch
from torch import Tensor, nn

from ...ltx2_core.out_of_memory import attempt
from ...ltx2_core.shapes import SPATIAL_SCALE
from ...ltx2_core.upsampler import LatentUpsampler, upsample_latent
from .values import UpscaleModel, Vae
from .video_vae import checked_video_vae

BYTES_PER_VALUE = 3000.0
"""Working memory per value of the latent: the host's own estimate."""


def upscale_video(upscale_model: UpscaleModel, samples: Tensor, video_vae: Vae) -> Tensor:
    """Upscale ``samples``, a normalised video latent (B, C, F, H, W), in space.

    ``video_vae`` has the statistics of normalisation. The result is on ComfyUI's device for results, in the
    dtype of ``samples``. Raises ValueError if ``upscale_model`` belongs to another model family, or if its
    factor would give a fraction of a latent row or column.
    """
    # Upscalers work on raw latents, and only the VAE has the statistics that convert to them.
    statistics = checked_video_vae(video_vae).first_stage_model.per_channel_statistics
    with _on_device(upscale_model, prod(samples.shape) * BYTES_PER_VALUE) as (network, device, dtype):
        _check_grid(network, samples)
        larger = attempt(
            "upscaling the latent",
            lambda: upsample_latent(network, samples.to(device=device, dtype=dtype), statistics),
        )
    return larger.to(device=comfy.model_management.intermediate_device(), dtype=samples.dtype)


def check_temporal(upscale_model: UpscaleModel, *, wanted: bool) -> None:
    """Raise ValueError unless an upscaler doubles the frames (``wanted`` True), or none of them (False)."""
    network = upscale_model if isinstance(upscale_model, nn.Module) else upscale_model.model
    settings = network.config if isinstance(network, LatentUpsampler) else network
    temporal = bool(getattr(settings, "temporal", False) or getattr(settings, "temporal_upsample", False))
    if temporal and not wanted:
        raise ValueError("upscale_model doubles the frames: connect a spatial latent upscaler, such as x2")
    if wanted and not temporal:
        raise ValueError(
            "temporal_upscale_model enlarges the frames: connect a temporal latent upscaler, which doubles "
            "their number"
        )


def _check_grid(network: nn.Module, samples: Tensor) -> None:
    """Raise ValueError if the upscaler's factor would give a fraction of a latent row or column.

    This happens with a factor such as 1.5 and an odd number of rows or columns in ``samples``.
    """
    # The host's network has these attributes itself, ours in its configuration.
    settings = network.config if isinstance(network, LatentUpsampler) else network
    rational = getattr(settings, "rational", False) or getattr(settings, "rational_resampler", False)
    factor = float(getattr(settings, "spatial_scale", 2.0)) if rational else 2.0
    rows, columns = samples.shape[-2:]
    if rows * factor % 1 or columns * factor % 1:
        width, height = columns * SPATIAL_SCALE, rows * SPATIAL_SCALE
        raise ValueError(
            f"this upscaler enlarges by {factor:g}, and the first stage of {width}x{height} would become "
            f"{width * factor:g}x{height * factor:g}, which is off the grid of {SPATIAL_SCALE}: two stages "
            "of LTX-2 Clip Plan need an upscaler x2"
        )


@contextmanager
def _on_device(
    upscale_model: UpscaleModel, nbytes: float
) -> Iterator[tuple[LatentUpsampler, torch.device, torch.dtype]]:
    """A context with the upscaler's network on its device: yields (network, device, dtype of the weights).

    ``nbytes`` of working memory are freed on the device first. Raises ValueError if ``upscale_model`` is of
    another kind.
    """
    host = comfy.model_management
    # Older hosts pass the bare network, whose memory nobody manages.
    if isinstance(upscale_model, nn.Module):
        device = host.get_torch_device()
        # Both the weights and the work have to fit, as the host manages neither for a bare network.
        host.free_memory(host.module_size(upscale_model) + nbytes, device)
        try:
            yield (
                cast(LatentUpsampler, upscale_model.to(device)),
                device,
                next(upscale_model.parameters()).dtype,
            )
        finally:
            # Back at once: nothing else would ever free this memory.
            upscale_model.cpu()
    elif hasattr(upscale_model, "model_dtype") and upscale_model.model_dtype() is not None:
        host.load_models_gpu([upscale_model], memory_required=nbytes)
        yield upscale_model.model, upscale_model.load_device, upscale_model.model_dtype()
    else:
        raise ValueError(
            f"{type(upscale_model).__name__} is no latent upscaler of LTX-2: load "
            "ltx-2-spatial-upscaler-x2 with LTX-2 Load Latent Upscaler"
        )
