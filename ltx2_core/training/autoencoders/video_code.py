"""The code of the tiny video autoencoder: principal components of cells of 32 x 32 pixels and 8 frames.

It is a linear encoder that is fixed before training, so that the trained encoder and decoder each have a
target that does not change, and so that latents can be computed without any network. 128 components
reconstruct clips of the synthetic world at 25 dB.

Letters: B clips, F frames, H W rows and columns of pixels; f h w latent frames, rows and columns, D values
of a cell, K components.
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
from ..world.batches import ClipSize, draw_seeds, video_batch

POOL = 2
"""Cells are average-pooled by this factor first; fine edges are left to the decoder."""

SAMPLES = (
    ClipSize(batch=160, frames=25, width=64, height=64),
    ClipSize(batch=60, frames=25, width=96, height=96),
    ClipSize(batch=60, frames=25, width=128, height=128),
    ClipSize(batch=40, frames=17, width=128, height=128),
)


@dataclass(frozen=True)
class VideoCode:
    """A linear encoder: it subtracts ``mean`` (D,) from each cell and projects it on ``basis`` (D, K).

    A cell is what one latent position stands for: 8 frames of 32 x 32 pixels. Pooled (each value the mean of
    2 x 2 pixels) and flattened in the order (colour, frame, row, column) it is D values. The K columns of
    ``basis`` are principal components of the cells of many clips, and ``deviation`` (K,) is the standard
    deviation of each. Channels of a raw latent have standard deviation 1, those of a normalised latent
    ``amplitude`` (K,). This is proportional to the square root of ``deviation``: components that matter more
    to the frames are larger, and so emerge from the noise first in sampling.
    """

    mean: Tensor
    basis: Tensor
    deviation: Tensor
    amplitude: Tensor

    @classmethod
    def load(cls, path: Path) -> VideoCode:
        """Load this linear encoder from a safetensors file of its :meth:`tensors`."""
        return cls(**load_file(path))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by field name, contiguous as safetensors needs them."""
        return {field.name: getattr(self, field.name).contiguous() for field in fields(self)}

    def to(self, device: torch.device) -> VideoCode:
        """A copy of this linear encoder with its tensors on ``device``."""
        return VideoCode(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, F, H, W) in [-1, 1] -> normalised latent (B, K, f, h, w), K components."""
        components = (cells(frames) - self.mean) @ (self.basis * (self.amplitude / self.deviation))
        return components.movedim(-1, 1).contiguous()

    @property
    def per_channel_statistics(self) -> PerChannelStatistics:
        """Mean and deviation of each channel, by which an autoencoder with these latents normalises them."""
        statistics = PerChannelStatistics(len(self.amplitude), device=self.amplitude.device)
        statistics.get_buffer("std-of-means").copy_(1 / self.amplitude)
        return statistics


class EncodesVideo(Protocol):
    """Interface of a video encoder that training uses: frames to normalised latents.

    The fixed linear encoder :class:`VideoCode` has it, and so has an autoencoder trained to encode like it.
    """

    @property
    def per_channel_statistics(self) -> PerChannelStatistics:
        """The mean and deviation of each latent channel, with which this encoder normalises."""

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, F, H, W) in [-1, 1] -> normalised latents (B, K, f, h, w), K channels."""


def cells(frames: Tensor) -> Tensor:
    """Split frames (B, 3, F, H, W), F = 8k + 1, into one cell per latent position: (B, f, h, w, D).

    A cell is 8 frames of 32 x 32 pixels, averaged over 2 x 2 pixels and flattened in the order (colour,
    frame, row, column) to D values. The first cell in time is the first frame, repeated 8 times.
    """
    # Pooled in space only: motion between two frames must not blur.
    small = F.avg_pool3d(frames, (1, POOL, POOL))
    first = small[:, :, :1].expand(-1, -1, TEMPORAL_SCALE, -1, -1)
    side = SPATIAL_SCALE // POOL
    return rearrange(
        torch.cat((first, small[:, :, 1:]), dim=2),
        "b c (f t) (h y) (w x) -> b f h w (c t y x)",
        t=TEMPORAL_SCALE,
        y=side,
        x=side,
    )


def principal_code(components: int, *, sizes: Sequence[ClipSize] = SAMPLES, seed: int = 0) -> VideoCode:
    """Compute a linear video encoder of ``components`` principal components from rendered clips.

    ``sizes`` are number, length and size of the clips of the synthetic world; the same ``seed`` gives the
    same code.
    """
    generator = torch.Generator().manual_seed(seed)
    found = sample_cells(sizes, generator)
    mean = found.mean(dim=0)
    found = found - mean
    # Randomised subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 4.4), with twice the
    # components.
    directions = torch.randn(found.shape[1], 2 * components, generator=generator)
    # Re-orthogonalised in each round, or all directions would turn into the first component.
    for _ in range(4):
        directions, _ = torch.linalg.qr(found.mT @ (found @ directions))
    _, values, right = torch.linalg.svd(found @ directions, full_matrices=False)
    basis = (directions @ right.mT)[:, :components]
    # Singular values are sums over all cells, deviations are means.
    deviation = values[:components] / len(found) ** 0.5
    amplitude = deviation.sqrt()
    # The mean square of a normalised latent is 1, as the schedules of sampling expect.
    return VideoCode(mean, basis, deviation, amplitude / amplitude.square().mean().sqrt())


def sample_cells(sizes: Sequence[ClipSize], generator: torch.Generator) -> Tensor:
    """Render random clips of each of ``sizes``, and return all their cells (N, D).

    An entry of ``sizes`` says how many clips are rendered, and their length and size; ``generator`` draws the
    scenes. N is the number of cells, D that of values in each: 8 frames of 32 x 32 pixels, averaged over
    2 x 2 pixels, in the order (colour, frame, row, column).
    """
    found = []
    for size in sizes:
        for scene in draw_seeds(generator, size.batch):
            clip = video_batch([scene], frames=size.frames, width=size.width, height=size.height)
            found.append(cells(clip).flatten(0, 3))
    return torch.cat(found)


def pooled_grid(found: Tensor, patch: int) -> Tensor:
    """Split cells (N, D) into patches (N, t, y, x, C) of ``patch`` x ``patch`` pooled pixels.

    A cell is 8 frames of 32 x 32 pixels, pooled (each pooled pixel is the mean of 2 x 2 pixels) and flattened
    in the order (colour, frame, row, column) to D values. The result has t frames of y rows and x columns of
    patches for each of the N cells; the C values of a patch are in the order (colour, row, column).
    """
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
