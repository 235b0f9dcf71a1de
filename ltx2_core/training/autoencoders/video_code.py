"""The code that the video autoencoder is taught: principal components of cells, 32 x 32 pixels and 8 frames.

Two halves that are trained against each other chase a code that moves; a linear code, known before training,
stands still. It is cheap enough to make latents without any network, and its 128 components alone give back
clips of this world at 25 dB, where a small autoencoder of the same topology had come to 20 dB in an hour.

B clips, F frames, H W rows and columns of pixels; f h w grid of the latent, D numbers a cell, K components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ...shapes import SPATIAL_SCALE, TEMPORAL_SCALE
from ...video_vae import PerChannelStatistics
from ..data import ClipSize, draw_seeds, video_batch

POOL = 2
"""Pixels that are averaged first: the decoder learns edges, the code need not hold them."""

SAMPLES = (
    ClipSize(batch=160, frames=25, width=64, height=64),
    ClipSize(batch=60, frames=25, width=96, height=96),
    ClipSize(batch=60, frames=25, width=128, height=128),
    ClipSize(batch=40, frames=17, width=128, height=128),
)


@dataclass(frozen=True)
class VideoCode:
    """``mean`` (D,) of cells, their ``basis`` (D, K), ``deviation`` and ``amplitude`` (K,) of its components.

    A raw latent holds components of unit deviation; a normalised one has them at ``amplitude``, the square
    root of their true proportions: what matters more to the picture is larger and comes first in sampling.
    """

    mean: Tensor
    basis: Tensor
    deviation: Tensor
    amplitude: Tensor

    @classmethod
    def load(cls, path: Path) -> VideoCode:
        """From what :meth:`tensors` gave."""
        return cls(**load_file(path))

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""
        return {field.name: getattr(self, field.name).contiguous() for field in fields(self)}

    def to(self, device: torch.device) -> VideoCode:
        """The same code where its clips are."""
        return VideoCode(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, F, H, W) in [-1, 1] -> normalised latent (B, K, f, h, w)."""
        components = (cells(frames) - self.mean) @ (self.basis * (self.amplitude / self.deviation))
        return components.movedim(-1, 1).contiguous()

    @property
    def per_channel_statistics(self) -> PerChannelStatistics:
        """Those of an autoencoder with this code."""
        statistics = PerChannelStatistics(len(self.amplitude), device=self.amplitude.device)
        statistics.get_buffer("std-of-means").copy_(1 / self.amplitude)
        return statistics


class EncodesVideo(Protocol):
    """The code, or an encoder that has learnt one."""

    @property
    def per_channel_statistics(self) -> PerChannelStatistics:
        """What normalises its latents."""

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, F, H, W) in [-1, 1] -> normalised latents (B, K, f, h, w)."""


def cells(frames: Tensor) -> Tensor:
    """Frames (B, 3, F, H, W), F 8k + 1 -> (B, f, h, w, D); the first cell is the first frame throughout."""
    small = F.avg_pool3d(frames, (1, POOL, POOL))
    held = small[:, :, :1].expand(-1, -1, TEMPORAL_SCALE, -1, -1)
    side = SPATIAL_SCALE // POOL
    return rearrange(
        torch.cat((held, small[:, :, 1:]), dim=2),
        "b c (f t) (h y) (w x) -> b f h w (c t y x)",
        t=TEMPORAL_SCALE,
        y=side,
        x=side,
    )


def principal_code(components: int, *, sizes: Sequence[ClipSize] = SAMPLES, seed: int = 0) -> VideoCode:
    """The code of the world's clips, ``components`` of it; deterministic in ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    found = sample_cells(sizes, generator)
    mean = found.mean(dim=0)
    found = found - mean
    # Randomised subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 4.4), with some to spare.
    directions = torch.randn(found.shape[1], 2 * components, generator=generator)
    for _ in range(4):
        directions, _ = torch.linalg.qr(found.mT @ (found @ directions))
    _, values, right = torch.linalg.svd(found @ directions, full_matrices=False)
    basis = (directions @ right.mT)[:, :components]
    deviation = values[:components] / len(found) ** 0.5
    amplitude = deviation.sqrt()
    return VideoCode(mean, basis, deviation, amplitude / amplitude.square().mean().sqrt())


def sample_cells(sizes: Sequence[ClipSize], generator: torch.Generator) -> Tensor:
    """Cells (N, D) of random clips, ``batch`` of each size."""
    found = []
    for size in sizes:
        for scene in draw_seeds(generator, size.batch):
            clip = video_batch([scene], frames=size.frames, width=size.width, height=size.height)
            found.append(cells(clip).flatten(0, 3))
    return torch.cat(found)


def pooled_grid(found: Tensor, patch: int) -> Tensor:
    """Cells (N, D) -> patches of ``patch`` pooled pixels, (N, t, y, x, C) with C (colour, row, column)."""
    side = SPATIAL_SCALE // POOL // patch
    return rearrange(
        found,
        "n (c t y q x r) -> n t y x (c q r)",
        c=3,
        t=TEMPORAL_SCALE,
        y=side,
        q=patch,
        x=side,
        r=patch,
    )
