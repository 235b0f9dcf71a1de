"""Sets a diffusion video decoder to the linear inverse of a video encoder, from which training starts.

Without its attention and feed-forward branches the decoder is linear from the latent to its last norm. Every
upsampling splits a block of the frames into smaller ones, so it maps the principal components of a block to
those of its parts, as in :mod:`.linear_decoder`. Before the last norm there are large constants, so that the
norm divides by nearly the same number everywhere.

A block is a box of pooled pixels (means of 2 x 2 pixels); D values of a block, K principal components.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from ...shapes import SPATIAL_SCALE, TEMPORAL_SCALE
from ...video_vae.diffusion.blocks import Block, DiffusionBlock
from ...video_vae.diffusion.layers import SharedModulation, Upsample
from ...video_vae.diffusion.network import Decoder
from ..world.batches import ClipSize, draw_seeds, video_batch
from .linear_decoder import Blocks, block_components, cut_shape, patches_of, split_matrix
from .video_code import POOL, EncodesVideo, cells

_CONSTANT = 3.0
"""Value of the constant channels before the last norm."""
_CONSTANTS = 8
"""Number of these channels."""
_RIDGE = 1e-4
"""Ridge penalty of the linear inverse, relative to the mean power of the latents."""
_NOISE_GAIN = 0.02
"""How strongly the noise enters at first: training decides what use it is."""


@torch.no_grad()
def start_linear_diffusion(
    decoder: Decoder, encoder: EncodesVideo, *, sizes: Sequence[ClipSize], seed: int = 0
) -> None:
    """Set the layers of ``decoder`` to invert ``encoder`` as well as a linear map can, in place.

    Clips of ``sizes`` are rendered from scenes that ``seed`` draws and encoded; the map from latents to their
    pixels, and the components of the blocks into which upsampling splits, are computed on them. Branches of
    attention and feed-forward output zero at first, their other layers have random weights. Raises ValueError
    for a decoder that is too narrow for the values of a patch.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks, found = _inverse(encoder, sizes, generator)
    _randomise(decoder, generator)
    if decoder.conv_in.out_features < blocks.basis.shape[1]:
        raise ValueError(f"stage_channels begins with {decoder.conv_in.out_features}; latents need more")
    _set(decoder.conv_in, torch.eye(blocks.basis.shape[1]))
    for upsample in decoder.upsamples:
        assert isinstance(upsample, Upsample)
        width = upsample.proj.out_features // prod(upsample.strides)
        parts = block_components(found, cut_shape(blocks.shape, upsample.strides), width)
        weight, bias = split_matrix(blocks, parts, upsample.strides)
        _set(upsample.proj, weight.flatten(0, 1), bias.flatten())
        blocks = parts
    _set_output(decoder, blocks, found)


def _inverse(
    encoder: EncodesVideo, sizes: Sequence[ClipSize], generator: torch.Generator
) -> tuple[Blocks, Tensor]:
    """Fit by least squares a linear map from the latents of ``encoder``, not normalised, to pixels.

    A latent cell is mapped to the pixels that it stands for: 8 frames of 32 x 32, pooled to 16 x 16. Returns
    the map, and these pixels (N, values) of all N latent cells of the clips on which it is fitted; ``sizes``
    says how many of these are rendered, and their length and size.
    """
    inputs, outputs = [], []
    for size in sizes:
        for seed in draw_seeds(generator, size.batch):
            frames = video_batch([seed], frames=size.frames, width=size.width, height=size.height)
            latent = encoder.per_channel_statistics.un_normalize(encoder.encode(frames))
            inputs.append(latent.movedim(1, -1).flatten(0, 3))
            outputs.append(cells(frames).flatten(0, 3))
    x, y = torch.cat(inputs), torch.cat(outputs)
    centre, mean = x.mean(dim=0), y.mean(dim=0)
    gram = (x - centre).mT @ (x - centre)
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    basis = torch.linalg.solve(gram, (x - centre).mT @ (y - mean)).mT.contiguous()
    side = SPATIAL_SCALE // POOL
    return Blocks((TEMPORAL_SCALE, side, side), mean - basis @ centre, basis, basis), y


def _set_output(decoder: Decoder, parts: Blocks, found: Tensor) -> None:
    """Set the layers of the diffusion stage so that its output depends on its conditioning features alone.

    They are mapped to pixels as ``parts`` says, which has the pixels that each feature stands for. ``found``
    (N, values) are pixels of N latent cells, on which the factor that undoes the last norm is measured.
    """
    used, width = parts.basis.shape[1], decoder.config.channels
    if used + _CONSTANTS > width:
        raise ValueError(
            f"stage_channels ends with {width}; patches of {used} values need {used + _CONSTANTS}"
        )
    first = decoder.diff_blocks[0]
    assert isinstance(first, DiffusionBlock)
    _set(first.context_proj, torch.eye(used))
    constants = slice(width - _CONSTANTS, width)
    decoder.conv_in_x_t.weight.mul_(_NOISE_GAIN)
    # Only channels that are free carry noise, so that at first it does not reach the pixels.
    decoder.conv_in_x_t.weight[:used] = 0
    decoder.conv_in_x_t.weight[constants] = 0
    decoder.conv_in_x_t.bias[constants] = _CONSTANT
    towards, mean, power = patches_of(parts, found, decoder.patch_size)
    # The norm divides by this power; the output has to multiply by it.
    scale = ((power + _CONSTANTS * _CONSTANT**2) / width).sqrt()
    _set(decoder.conv_out, towards * scale, mean)


def _randomise(decoder: Decoder, generator: torch.Generator) -> None:
    """Draw the weights of all attention and feed-forward branches, and set their last layers to zero.

    The modulation by the diffusion time is set so that it changes nothing.
    """
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in decoder.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.attn.proj.weight)
            nn.init.zeros_(module.mlp.w_down.weight)
        if isinstance(module, DiffusionBlock):
            nn.init.zeros_(module.context_proj.weight)
        if isinstance(module, SharedModulation):
            nn.init.zeros_(module.proj.weight)


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    """Set the first outputs and inputs of a linear layer, and everything else in it to zero."""
    layer.weight.zero_()
    layer.weight[: weight.shape[0], : weight.shape[1]] = weight
    layer.bias.zero_()
    if bias is not None:
        layer.bias[: len(bias)] = bias
