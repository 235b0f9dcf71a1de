"""How far the diffusion decoder sees, and how its pieces are sized, from its configuration alone."""

from __future__ import annotations

from ...config import DiffusionDecoderConfig, VideoVAEConfig

FRAMES_AT_ONCE = 16
"""Frames that the diffusion stage computes at a time by default: those of two latent frames."""

LATENTS_AT_ONCE = 4
"""Latent frames that a tile decodes before the next tile; fewer would copy its caches more often."""

LAG = 20
"""Latent frames that must have arrived before the first frames are decoded, in released files."""


def least_latents(config: DiffusionDecoderConfig) -> tuple[int, int, int]:
    """The smallest latent, in latent (frames, rows, columns), in which every attention window fits."""
    sizes = [1, 1, 1]
    scale = (1, 1, 1)
    for stage in config.stages:
        sizes = [max(n, -(-k // s)) for n, k, s in zip(sizes, stage.kernel, scale, strict=True)]
        scale = _times(scale, stage.strides)
    sizes = [max(n, -(-k // s)) for n, k, s in zip(sizes, config.kernel, scale, strict=True)]
    return sizes[0], sizes[1], sizes[2]


def ghosts(config: DiffusionDecoderConfig) -> int:
    """How many copies of the last latent frame are appended to a latent before it is decoded.

    The stages that make features of the latent look ahead in time; beyond the clip's end they see these
    copies.
    """
    return config.stages[0].kernel[0] // 2 * 2


def frames_of(config: DiffusionDecoderConfig, latent_frames: int) -> int:
    """How many pixel frames the diffusion stage computes for ``latent_frames`` latent frames.

    They are 8 (latent_frames - 1) + 1, and at least those of one attention window.
    """
    return max(config.strides[0] * (latent_frames - 1) + 1, config.kernel[0])


def border(config: DiffusionDecoderConfig, axis: int) -> int:
    """How many patches to each side of a patch influence it through the stages that are decoded in tiles.

    They are the last stage that makes features of the latent, and all denoising steps. ``axis`` is 1 for rows
    and 2 for columns.
    """
    last = config.stages[-1]
    cells = last.depth * (last.kernel[axis] // 2) * last.strides[axis]
    return cells + config.steps * config.depth * (config.kernel[axis] // 2)


def tile_halo(config: VideoVAEConfig) -> int:
    """Border in latent cells that a tile of the frame needs for an exact result, 6 in released files.

    Tiles are decoded by the last stage that makes features of the latent, and by all denoising steps.
    """
    assert config.diffusion is not None
    diffusion = config.diffusion
    cell = diffusion.strides[1]
    return max(-(-border(diffusion, axis) // cell) for axis in (1, 2))


def piece_bytes(
    config: VideoVAEConfig, cells: tuple[int, int], itemsize: int, frames: int = FRAMES_AT_ONCE
) -> int:
    """Bytes of one activation of the diffusion stage for ``frames`` pixel frames.

    ``cells`` are the (rows, columns) of the latent, ``itemsize`` the bytes of one number.
    """
    assert config.diffusion is not None
    _, height, width = config.diffusion.strides
    return frames * cells[0] * height * cells[1] * width * config.diffusion.channels * itemsize


def _times(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]
