"""Sets a video decoder to the exact linear inverse of the video code, from which its layers are then fitted.

Without residual branches the decoder is linear from the latent to its last norm. Every upsampling splits a
block of the frames into smaller ones, so its convolution maps the principal components of a block to those of
its parts. Before the last norm each value has its negative next to it, and large constants: the norm then
divides by nearly the same number everywhere, and SiLU(a) - SiLU(-a) = a.

A pooled pixel is the mean of 2 x 2 pixels, a cell 8 frames of 32 x 32 pixels, a block a smaller or equal box
of pooled pixels. Letters: D values of a block, in the order (colour, frame, row, column), K principal
components of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ...shapes import SPATIAL_SCALE, TEMPORAL_SCALE
from ...video_vae.decoder import Decoder
from ...video_vae.layers import Strides, Upsample
from ..world.batches import ClipSize
from .video_code import POOL, VideoCode, sample_cells

_CONSTANT = 6.0
"""Value of the constant channels before the last norm."""
_BLOCKS = 40_000
"""Number of blocks from which the components of a level are computed."""


class Blocks(NamedTuple):
    """What the K channels mean that a layer of the video decoder outputs at each position of its grid.

    A grid position stands for a block: a box of ``shape`` (frames, rows, columns) of pooled pixels, each the
    mean of 2 x 2 pixels, in three colours. Flattened in the order (colour, frame, row, column), with the
    column changing fastest, it is D = 3 x frames x rows x columns values. The channels are its principal
    components: block = ``mean`` (D,) + ``basis`` (D, K) @ channels, and channels = (block - ``mean``) @
    ``read`` with ``read`` (D, K).
    """

    shape: Strides
    mean: Tensor
    basis: Tensor
    read: Tensor
    paired: bool = False
    """Whether the layer outputs the negatives of the K channels too, behind them."""


@torch.no_grad()
def start_linear_decoder(
    decoder: Decoder, code: VideoCode, *, sizes: Sequence[ClipSize], seed: int = 0
) -> list[Blocks]:
    """Set the convolutions of ``decoder`` to invert ``code``, a linear video encoder, in place.

    The residual branches must still output zero. Each upsampling splits a block (box of pixels and frames)
    into smaller ones; the principal components of these are computed on clips of ``sizes``, rendered from
    scenes that ``seed`` draws. Returns for the input layer, and then for each upsampling, the size of a block
    and the pixel values that each channel stands for.
    """
    cells = sample_cells(sizes, torch.Generator().manual_seed(seed))
    side = SPATIAL_SCALE // POOL
    # A narrow decoder gets only the first components, which matter most.
    width = min(decoder.conv_in.out_channels, code.basis.shape[1])
    _set(decoder.conv_in.conv, torch.eye(width))
    blocks = Blocks(
        (TEMPORAL_SCALE, side, side),
        code.mean,
        (code.basis * code.deviation)[:, :width],
        (code.basis / code.deviation)[:, :width],
    )
    levels = [blocks]
    # Residual blocks stay zero: only upsampling changes what the channels mean.
    upsamplers = [block for block in decoder.up_blocks if isinstance(block, Upsample)]
    for upsampler in upsamplers[:-1]:
        parts = block_components(cells, cut_shape(blocks.shape, upsampler.strides), upsampler.out_channels)
        _split(upsampler, blocks, parts, parts.basis.mT)
        blocks = parts
        levels.append(parts)
    last = upsamplers[-1]
    shape = cut_shape(blocks.shape, last.strides)
    # Half of the channels are negatives of the other half.
    parts = block_components(cells, shape, last.out_channels // 2)
    constants = last.out_channels - 2 * parts.basis.shape[1]
    _split(last, blocks, parts, torch.cat((parts.basis.mT, -parts.basis.mT)), constants=constants)
    _set_output(decoder, parts, cells)
    return [*levels, parts._replace(paired=True)]


def _split(upsampler: Upsample, blocks: Blocks, parts: Blocks, read: Tensor, *, constants: int = 0) -> None:
    """Set the convolution of an upsampling layer, which splits each block of pixels into smaller ones.

    The input channels are the principal components of blocks like ``blocks``. ``parts`` describes the smaller
    blocks, of D values each; for each of these the output channels become ``read`` (channels, D) @ (values -
    ``parts.mean``), and ``constants`` more channels get a constant value.
    """
    weight, bias = split_matrix(blocks, parts, upsampler.strides, read)
    weight = torch.cat((weight, weight.new_zeros(constants, *weight.shape[1:])))
    bias = torch.cat((bias, bias.new_full((constants, bias.shape[1]), _CONSTANT)))
    _set(upsampler.conv.conv, weight.flatten(0, 1), bias.flatten())


def split_matrix(
    blocks: Blocks, parts: Blocks, strides: Strides, read: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the linear map from the components of blocks to those of their parts.

    ``strides`` say into how many ``parts`` an upsampling splits each of ``blocks`` in time, height and width.
    Returns weights (outputs, parts of a block, K) and biases (outputs, parts of a block). Outputs are the
    components of a part, or ``read`` (outputs, D) @ (values of the part - their mean).
    """
    read = parts.read.mT if read is None else read
    p, q, r = strides
    pattern = "(c p t q y r x) k -> (p q r) (c t y x) k"
    t, y, x = parts.shape
    sizes = {"p": p, "q": q, "r": r, "t": t, "y": y, "x": x}
    of_parts = rearrange(blocks.basis, pattern, **sizes)
    means = rearrange(blocks.mean[:, None], pattern, **sizes)[..., 0]
    weight = torch.einsum("od,pdk->opk", read, of_parts)
    bias = torch.einsum("od,pd->op", read, means - parts.mean)
    return weight, bias


def _set_output(decoder: Decoder, parts: Blocks, cells: Tensor) -> None:
    """Set the decoder's last convolution to map its input channels to pixels.

    These channels are the principal components of small blocks of pixels, as ``parts`` describes them, then
    the same values with opposite sign, then constants. ``cells`` (N, values) are N example cells, on which
    the factor that undoes the last norm is measured: 8 frames of 32 x 32 pixels each, pooled to 16 x 16 and
    flattened in the order (colour, frame, row, column).
    """
    k = parts.basis.shape[1]
    width = decoder.conv_out.conv.in_channels
    towards, mean, power = patches_of(parts, cells, decoder.patch_size)
    # The norm divides by this power; the output has to multiply by it.
    towards = towards * ((2 * power + (width - 2 * k) * _CONSTANT**2) / width).sqrt()
    _set(
        decoder.conv_out.conv,
        torch.cat((towards, -towards, towards.new_zeros(len(towards), width - 2 * k)), dim=1),
        mean,
    )


def patches_of(parts: Blocks, cells: Tensor, patch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the map from components of ``parts``, each a patch of one frame, to the pixels of the patch.

    A patch has ``patch_size`` x ``patch_size`` pixels. Returns weights (values of a patch, K) and biases
    (values,), in the order that ``unpatchify`` expects, and the mean power of the components, summed over
    all K, in the example cells ``cells`` (N, values).
    """
    power = ((_blocks(cells, parts.shape) - parts.mean) @ parts.basis).square().sum(dim=1).mean()
    spread = {"y": parts.shape[1], "x": parts.shape[2]}
    rows = patch_size // parts.shape[1], patch_size // parts.shape[2]

    def pixels(blocks: Tensor) -> Tensor:
        """K blocks of D pooled values, (D, K), -> K patches of full pixels (values, K).

        Each pooled pixel is repeated over the pixels that it stands for. The values of a patch are in the
        order that ``unpatchify`` expects.
        """
        grid = rearrange(blocks, "(c t y x) k -> c (t y) x k", t=1, **spread)
        # Pooled pixels are spread evenly over the pixels they stand for.
        grid = grid.repeat_interleave(rows[0], 1).repeat_interleave(rows[1], 2)
        return rearrange(grid, "c p q k -> (c q p) k")

    return pixels(parts.basis), pixels(parts.mean[:, None])[:, 0], power


def block_components(cells: Tensor, shape: Strides, count: int) -> Blocks:
    """Compute the first ``count`` principal components of blocks of ``shape``, strongest first.

    ``shape`` is (frames, rows, columns) in pooled pixels. The blocks are those in the example cells ``cells``
    (N, values), or evenly chosen ones of them if there are many.
    """
    found = _blocks(cells, shape)
    # Every n-th block is enough, because neighbouring blocks are alike.
    found = found[:: max(1, len(found) // _BLOCKS)]
    mean = found.mean(dim=0)
    _, vectors = torch.linalg.eigh((found - mean).mT @ (found - mean))
    basis = vectors.flip(1)[:, :count].contiguous()
    return Blocks(shape, mean, basis, basis)


def _blocks(cells: Tensor, shape: Strides) -> Tensor:
    """Split N cells (N, values) into blocks of ``shape`` (frames, rows, columns): (blocks, block values).

    Cells and blocks are boxes of pooled pixels, flattened in the order (colour, frame, row, column).
    """
    t, y, x = shape
    side = SPATIAL_SCALE // POOL
    sizes = {"c": 3, "p": TEMPORAL_SCALE // t, "q": side // y, "r": side // x, "t": t, "y": y}
    return rearrange(cells, "n (c p t q y r x) -> (n p q r) (c t y x)", **sizes)


def cut_shape(shape: Strides, strides: Strides) -> Strides:
    t, y, x = (size // stride for size, stride in zip(shape, strides, strict=True))
    return t, y, x


def _set(conv: nn.Conv3d, centre: Tensor, bias: Tensor | None = None) -> None:
    """Set a 3 x 3 x 3 convolution to zero except for the bias and the centre of the kernel.

    ``centre`` (outputs, inputs) has the values there, for the first output and input channels; ``bias`` is
    (outputs,), or None for zero.
    """
    conv.weight.zero_()
    # Only the centre: a block is mapped by itself, without its neighbours.
    conv.weight[: centre.shape[0], : centre.shape[1], 1, 1, 1] = centre
    assert conv.bias is not None
    conv.bias.zero_()
    if bias is not None:
        conv.bias[: len(bias)] = bias
