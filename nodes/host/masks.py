"""Converts noise masks to one form, as ComfyUI's sampler reads them, and to one entry per latent frame.

Letters: B batch, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from .values import Latent


def streams_of(samples: Any) -> list[Tensor]:
    """A list of the tensors in samples or in a mask: those of a nested tensor, or the one plain tensor."""
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]


def masks_of(mask: Any, streams: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the noise mask of each of ``streams``, the latents of video and audio, from ComfyUI's ``mask``.

    If ``mask`` is None, so are all. A plain (not nested) mask belongs to the first stream; any other stream
    without a mask gets ones. A plain video mask with fewer frames than the latent is stretched in time.
    """
    if mask is None:
        return [None] * len(streams)
    given = streams_of(mask)[: len(streams)]
    masks: list[Tensor | None] = [
        _in_form_of(one, stream) for one, stream in zip(given, streams, strict=False)
    ]
    return [*masks, *(_ones(stream) for stream in streams[len(given) :])]


def frame_mask(video: Latent) -> Tensor:
    """A copy of a video LATENT's noise mask with one entry per latent frame.

    It is (B or 1, C or 1, F, H or 1, W or 1). Without a noise mask it is ones (B, 1, F, 1, 1).
    """
    samples: Tensor = video["samples"]
    (mask,) = masks_of(video.get("noise_mask"), [samples])
    if mask is None:
        return _ones(samples)
    # Callers write into the mask, which other branches of the graph share.
    return mask.expand(-1, -1, samples.shape[2], -1, -1).to(samples.device, copy=True)


def _in_form_of(mask: Tensor, samples: Tensor) -> Tensor:
    """Reshape a noise mask of any form to the axes of ``samples``, each of full size or 1."""
    if mask.ndim == samples.ndim and all(
        size in (1, full) for size, full in zip(mask.shape, samples.shape, strict=True)
    ):
        return mask
    # The host's own function, so that a mask selects the same cells as in its samplers.
    reshaped: Tensor = comfy.utils.reshape_mask(mask.float(), samples.shape)
    # The host repeats a mask of one channel for all; the first one says the same.
    has_channels = mask.ndim == samples.ndim == 5 and mask.shape[1] > 1
    return reshaped if has_channels else reshaped[:, :1]


def _ones(samples: Tensor) -> Tensor:
    """A mask of ones with one value for each latent frame of ``samples``.

    It is (B, 1, F, 1, 1) for video and (B, 1, T, 1) for audio.
    """
    shape = (len(samples), 1, samples.shape[2], *(1,) * (samples.ndim - 3))
    return torch.ones(shape, device=samples.device)
