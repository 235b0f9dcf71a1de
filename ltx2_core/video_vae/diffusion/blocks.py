"""Blocks of the diffusion decoder: attention and feed-forward, computed one strip of rows after another.

B batch, T H W time, rows and columns, C channels; tensors are (B, T, H, W, C). Only the input and the result
of a block exist for a whole piece of the clip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Masks, neighbourhood_attention, tile_size
from .layers import PLAIN, Attention, FeedForward, Layers, Modulation, Sizes
from .strips import Place, StripKeys, window
from .windows import Axis, Span, needed

STRIP_BYTES = 48 * 2**20
"""Bytes, roughly, of the part of a block's input whose attention keys are in memory at a time."""
MLP_TOKENS = 16384
"""Positions that a feed-forward computes at a time, as its hidden activations are four times its input."""


class Block(nn.Module):
    """Neighbourhood attention and feed-forward, each with a normalised input and a skip connection."""

    def __init__(self, width: int, kernel: Sizes, head_dim: int, layers: Layers) -> None:
        super().__init__()
        self.kernel = kernel
        self.norm1 = layers.norm(width)
        self.attn = Attention(width, head_dim, layers)
        self.norm2 = layers.norm(width)
        self.mlp = FeedForward(width, layers)

    def compute(self, x: Tensor, place: Place, masks: Masks, modulation: Modulation = PLAIN) -> Tensor:
        """The piece x (B, T, H, W, C) -> the result (B, T', H', W', C) at the positions ``place.out``.

        ``place`` says where the piece lies in its clip, ``masks`` holds the attention masks made so far, and
        ``modulation`` are scales and shifts of the two normalisations.
        """
        out = x.new_empty((x.shape[0], *(span.size for span in place.out), x.shape[-1]))
        rows = place.out[1]
        keys = StripKeys(self.attn, self.kernel[1] - 1, x, place, lambda part: self._normed(part, modulation))
        step = self._strip(x, place)
        for start in range(*rows, step):
            strip = Span(start, min(start + step, rows.stop))
            keys.cover(needed(strip, x.shape[2], min(self.kernel[1], x.shape[2])), step)
            # Without a name, which would hold this strip while the next one is computed.
            out[:, :, start - rows.start : strip.stop - rows.start] = self._feed_forward(
                self._strip_of(x, place, strip, keys, masks, modulation), modulation
            )
        return out

    def _strip_of(
        self, x: Tensor, place: Place, strip: Span, keys: StripKeys, masks: Masks, modulation: Modulation
    ) -> Tensor:
        """x plus its attention (B, T', rows, W', C), at the rows ``strip`` of the positions ``place.out``.

        x (B, T, H, W, C) is the piece of the clip that lies at ``place``. ``keys`` holds the keys and values
        of these rows and of those around them, ``masks`` the attention masks made so far. ``modulation`` has
        scale and shift of the normalisation before attention.
        """
        time, _, columns = place.out
        h = window(place.past, x, strip, columns, time.start - place.first, time.stop - place.first)
        q = self.attn.queries(self._normed(h, modulation), keys.rotation.box((time, strip, columns)))
        axes = self._axes(x, place, strip, keys.rows.start)
        attended = neighbourhood_attention(q, *keys.stored(), axes, masks)
        del q
        branch = self.attn.proj(attended.flatten(-2))
        # In place where nothing needs the sum's parts, since they are as large as a strip.
        return h + branch if torch.is_grad_enabled() else h.add_(branch)

    def _feed_forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        """h (B, T, H, W, C) plus its feed-forward update; h is overwritten if gradients are off.

        ``modulation`` has scale and shift of the normalisation before the feed-forward network.
        """
        scale, shift = modulation.mlp_scale, modulation.mlp_shift
        if torch.is_grad_enabled():
            branch: Tensor = self.mlp(self.norm2(h, scale=scale, shift=shift))
            return h + branch
        tokens = h.flatten(0, 3)
        for first in range(0, len(tokens), MLP_TOKENS):
            some = tokens[first : first + MLP_TOKENS]
            some += self.mlp(self.norm2(some, scale=scale, shift=shift))
        return h

    def _normed(self, x: Tensor, modulation: Modulation) -> Tensor:
        normed: Tensor = self.norm1(x, scale=modulation.scale, shift=modulation.shift)
        return normed

    def _axes(self, x: Tensor, place: Place, strip: Span, first_row: int) -> tuple[Axis, Axis, Axis]:
        time, _, columns = place.out
        # A position whose later ones have not all arrived is not asked for, so that the number of those seen
        # stands for the length of the clip.
        lengths = (place.seen, x.shape[2], x.shape[3])
        kernel = [min(size, length) for size, length in zip(self.kernel, lengths, strict=True)]
        return (
            Axis(queries=time, first_key=place.first, length=lengths[0], window=kernel[0]),
            Axis(queries=strip, first_key=first_row, length=lengths[1], window=kernel[1]),
            Axis(queries=columns, first_key=0, length=lengths[2], window=kernel[2]),
        )

    def _strip(self, x: Tensor, place: Place) -> int:
        """How many rows of the piece x (B, T, H, W, C) the block computes at a time, to limit its memory.

        It is a multiple of the rows of a tile of queries. ``place`` says how many frames the keys
        cover.
        """
        tile = tile_size(self.kernel)[1]
        row = (place.seen - place.first) * x.shape[0] * x.shape[3] * x.shape[4] * x.element_size()
        return max(tile, STRIP_BYTES // row // tile * tile)


class DiffusionBlock(Block):
    """A block of the diffusion stage, which denoises frames under the condition of features of the latent.

    In addition to the layers of ``Block`` it has its own part of the modulation by the diffusion time, and a
    projection of those features.
    """

    def __init__(self, width: int, kernel: Sizes, head_dim: int, layers: Layers) -> None:
        super().__init__(width, kernel, head_dim, layers)
        self.context_proj = layers.linear(width, width)
        self.scale_shift_table = nn.Parameter(torch.zeros(7, width, dtype=layers.dtype, device=layers.device))

    def modulation(self, shared: Tensor) -> Modulation:
        """The scales and shifts of this block: ``shared`` plus the block's own table, each (7, C).

        ``shared`` is computed from the diffusion time, and is the same for all blocks. Of the seven vectors
        scale and shift of both normalisations are used; the others, such as gates, are not.
        """
        vectors = shared.float() + self.scale_shift_table.to(shared.device).float()
        # The order is scale, shift, gate, unlike the transformer's; gates are not used.
        return Modulation(1 + vectors[0], vectors[1], 1 + vectors[3], vectors[4])
