"""Parts of the diffusion decoder's network; parameter names are those of the checkpoint.

B batch, T H W time, rows and columns, C channels; tensors are (B, T, H, W, C). A block computes one strip of
rows after another, so that only its input and its result exist for a whole piece.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Masks, neighbourhood_attention, tile_size
from .rope import Rotation, rotate
from .windows import Axis, Span, needed

NORM_EPS = 1e-6
STRIP_BYTES = 48 * 2**20
"""Bytes, roughly, of the part of a block's input whose attention keys are in memory at a time."""
CHUNK_BYTES = 8 * 2**20
"""Bytes, roughly, of the part of a block's input whose attention keys one call computes."""
MLP_TOKENS = 16384
"""Positions that a feed-forward computes at a time, as its hidden activations are four times its input."""

Sizes = tuple[int, int, int]


class Layers(NamedTuple):
    """How layers are made: in which dtype, on which device, and from which classes.

    ``operations`` is the namespace of the classes: torch.nn, or that of a host such as ComfyUI.
    """

    dtype: torch.dtype | None
    device: torch.device | str | None
    operations: Any

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
        layer: nn.Linear = self.operations.Linear(inputs, outputs, bias, dtype=self.dtype, device=self.device)
        return layer

    def norm(self, width: int) -> Norm:
        return Norm(width, dtype=self.dtype, device=self.device)


class Norm(nn.Module):
    """RMS normalisation of the last axis, with a weight."""

    def __init__(self, width: int, *, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype, device=device))

    def forward(self, x: Tensor, *, scale: Tensor | float = 1.0, shift: Tensor | None = None) -> Tensor:
        """Normalise x (..., C), then multiply by the weight and ``scale`` and add ``shift``, each (C,)."""
        weight = self.weight.to(x.device).float() * scale
        x = F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), NORM_EPS)
        return x if shift is None else x.add_(shift.to(x.dtype))


class Modulation(NamedTuple):
    """Scale and shift (C,) in float32 of the two normalisations of a block.

    ``scale`` and ``shift`` are those before attention, ``mlp_scale`` and ``mlp_shift`` those before the
    feed-forward. A shift of None adds nothing.
    """

    scale: Tensor | float = 1.0
    shift: Tensor | None = None
    mlp_scale: Tensor | float = 1.0
    mlp_shift: Tensor | None = None


PLAIN = Modulation()
"""No modulation, as in the stages before the diffusion stage."""


class Place(NamedTuple):
    """Where the piece that a block computes lies in its clip, and which part of the result is asked for.

    A piece is the block's input for a few steps along the time axis. ``past`` (B, P, H, W, C) is the input at
    the P steps before it, None if the piece begins the clip. ``first`` is the index in time at which ``past``
    begins (the piece, without it), ``seen`` how many steps the clip has up to the end of the piece. ``out``
    are the (time, rows, columns) asked for. Time is counted in steps of this block's input from the clip's
    start, rows and columns from the piece's top left corner.
    """

    past: Tensor | None
    first: int
    seen: int
    out: tuple[Span, Span, Span]


class Attention(nn.Module):
    """The linear layers of neighbourhood attention, and the normalisation of its queries and keys.

    N heads of width D. Rotated means turned by the rotary embedding of their positions.
    """

    def __init__(self, width: int, head_dim: int, layers: Layers) -> None:
        super().__init__()
        self.width, self.head_dim = width, head_dim
        self.qkv = layers.linear(width, 3 * width)
        self.q_norm = layers.norm(head_dim)
        self.k_norm = layers.norm(head_dim)
        self.proj = layers.linear(width, width)

    def queries(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, T, H, W, C) -> scaled queries (B, T, H, W, N, D) for N heads of width D.

        They are rotated by ``table``, the cosines and sines of their positions.
        """
        q = self._heads(_some_rows(self.qkv, x, 0, self.width))
        return rotate(self.q_norm(q, scale=self.head_dim**-0.5), table)

    def keys_and_values(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, T, H, W, C) -> keys and values, each (B, T, H, W, N, D) for N heads of width D.

        Keys are rotated by ``table``, the cosines and sines of their positions.
        """
        k, v = _some_rows(self.qkv, x, self.width, 3 * self.width).split(self.width, dim=-1)
        return rotate(self.k_norm(self._heads(k)), table), self._heads(v)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim))
        return heads


def _some_rows(linear: nn.Linear, x: Tensor, start: int, stop: int) -> Tensor:
    """x (..., C) -> the output channels ``start`` to before ``stop`` of a linear layer, (..., channels)."""
    # A host's layer that moves or casts its weights does so only when it is called itself.
    if getattr(linear, "comfy_cast_weights", False) or type(linear).forward is not nn.Linear.forward:
        out: Tensor = linear(x)
        return out[..., start:stop]
    return F.linear(x, linear.weight[start:stop], linear.bias[start:stop])


class FeedForward(nn.Module):
    """SwiGLU: ``w_down(silu(w_gate(x)) * w_up(x))``."""

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        # Rounded up to 16 in released files, whose widths are multiples of it.
        hidden = -(-4 * width // 16) * 16
        self.w_gate = layers.linear(width, hidden, bias=False)
        self.w_up = layers.linear(width, hidden, bias=False)
        self.w_down = layers.linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)."""
        out: Tensor = self.w_down(F.silu(self.w_gate(x), inplace=True).mul_(self.w_up(x)))
        return out


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
        keys = _Keys(self, x, place, modulation)
        step = self._strip(x, place)
        for start in range(*rows, step):
            strip = Span(start, min(start + step, rows.stop))
            keys.cover(needed(strip, x.shape[2], min(self.kernel[1], x.shape[2])), step)
            h = self._strip_of(x, place, strip, keys, masks, modulation)
            out[:, :, start - rows.start : strip.stop - rows.start] = self._feed_forward(h, modulation)
        return out

    def _strip_of(
        self, x: Tensor, place: Place, strip: Span, keys: _Keys, masks: Masks, modulation: Modulation
    ) -> Tensor:
        """x plus its attention (B, T', rows, W', C), at the rows ``strip`` of the positions ``place.out``.

        x (B, T, H, W, C) is the piece of the clip that lies at ``place``. ``keys`` holds the keys and values
        of these rows and of those around them, ``masks`` the attention masks made so far. ``modulation`` has
        scale and shift of the normalisation before attention.
        """
        time, _, columns = place.out
        h = _window(place.past, x, strip, columns, time.start - place.first, time.stop - place.first)
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

        It is a multiple of the rows of a tile of queries. ``place`` says how many steps in time the keys
        cover.
        """
        tile = tile_size(self.kernel)[1]
        row = (place.seen - place.first) * x.shape[0] * x.shape[3] * x.shape[4] * x.element_size()
        return max(tile, STRIP_BYTES // row // tile * tile)


class _Keys:
    """Keys and values of the image rows to which the rows of one strip attend, for an attention block.

    A block computes its frames strip by strip, a strip being some rows of tokens, from top to bottom. Rows
    that the next strip attends to as well are moved in memory, not computed again.
    """

    def __init__(self, block: Block, x: Tensor, place: Place, modulation: Modulation) -> None:
        self.block, self.x, self.place, self.modulation = block, x, place, modulation
        self.times, self.columns = Span(place.first, place.seen), Span(0, x.shape[3])
        self.rows = Span(0, 0)
        spans = (self.times, Span(0, x.shape[2]), self.columns)
        self.rotation = Rotation(spans, block.attn.head_dim, x.device)
        self._memory: Tensor | None = None

    def stored(self) -> tuple[Tensor, Tensor]:
        """The keys and values in memory, those of the rows ``self.rows``: each (B, T, rows, W, N, D)."""
        assert self._memory is not None
        keys, values = self._memory[:, :, :, : self.rows.size]
        return keys, values

    def cover(self, rows: Span, step: int) -> None:
        """Make the keys and values of ``rows`` available, by computing those that are not there yet.

        ``rows`` do not begin before the rows of the last call. They are at most ``step`` rows and those that
        the windows around these reach.
        """
        known = Span(rows.start, max(rows.start, self.rows.stop))
        if self._memory is None:
            most = min(self.x.shape[2], step + self.block.kernel[1] - 1)
            attn = self.block.attn
            heads = (most, self.columns.size, attn.width // attn.head_dim, attn.head_dim)
            self._memory = self.x.new_empty((2, self.x.shape[0], self.times.size, *heads))
        elif known.size:
            # A copy in between, because both places may overlap.
            shared = self._memory[:, :, :, rows.start - self.rows.start : self.rows.size].clone()
            self._memory[:, :, :, : known.size] = shared
        self.rows = rows
        chunk = max(1, CHUNK_BYTES // (self.x[:, :1, :1].numel() * self.times.size * self.x.element_size()))
        for start in range(known.stop, rows.stop, chunk):
            self._compute(Span(start, min(start + chunk, rows.stop)))

    def _compute(self, rows: Span) -> None:
        assert self._memory is not None
        window = _window(self.place.past, self.x, rows, self.columns, 0, self.times.size)
        table = self.rotation.box((self.times, rows, self.columns))
        normed = self.block._normed(window, self.modulation)
        at = slice(rows.start - self.rows.start, rows.stop - self.rows.start)
        k, v = self.block.attn.keys_and_values(normed, table)
        self._memory[0, :, :, at] = k
        self._memory[1, :, :, at] = v


class DiffusionBlock(Block):
    """A block of the diffusion stage, which denoises frames under the condition of features of the latent.

    Besides the layers of ``Block`` it has its own part of the modulation by the diffusion time, and a
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
        rows = shared.float() + self.scale_shift_table.to(shared.device).float()
        # The order is scale, shift, gate, unlike the transformer's; gates are not used.
        return Modulation(1 + rows[0], rows[1], 1 + rows[3], rows[4])


class Upsample(nn.Module):
    """Linear layer, then channels unfolded into cells of time and space."""

    def __init__(self, width: int, strides: Sizes, reduction: int, layers: Layers) -> None:
        super().__init__()
        self.strides = strides
        self.proj = layers.linear(width, prod(strides) * width // reduction)
        self.growth = prod(strides) / reduction

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, H, W, C) -> (B, T p, H q, W r, C / reduction).

        p, q and r are the ``strides`` in time, height and width, ``reduction`` is that of the constructor.
        """
        p, q, r = self.strides
        wide: Tensor = self.proj(x)
        return rearrange(wide, "b t h w (c p q r) -> b (t p) (h q) (w r) c", p=p, q=q, r=r)


class TimeEmbedder(nn.Module):
    """Embeds the diffusion time: its sinusoid, then two linear layers."""

    FREQUENCIES = 128

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            layers.linear(2 * self.FREQUENCIES, width), nn.SiLU(), layers.linear(width, width)
        )

    def forward(self, time: float, like: Tensor) -> Tensor:
        """The diffusion time, scaled to 0...1000 -> embedding (1, width), in device and dtype of ``like``."""
        # In float32 at least: bfloat16 holds 1000 only roughly.
        exponents = torch.arange(self.FREQUENCIES, dtype=torch.float32) / self.FREQUENCIES
        angles = time * torch.exp(-torch.log(torch.tensor(10000.0)) * exponents)
        sinusoid = torch.cat((angles.cos(), angles.sin()))[None].to(like.device, like.dtype)
        out: Tensor = self.mlp(sinusoid)
        return out


class SharedModulation(nn.Module):
    """Modulation of all diffusion blocks by the diffusion time."""

    def __init__(self, width: int, time_dim: int, layers: Layers) -> None:
        super().__init__()
        self.proj = layers.linear(time_dim, 7 * width)

    def forward(self, embedded: Tensor) -> Tensor:
        """The embedded diffusion time (1, time_dim) -> seven vectors (7, C); each block adds its own.

        They are scale, shift and gate of attention, then those of the feed-forward, and one more. A block
        uses scales and shifts only.
        """
        out: Tensor = self.proj(F.silu(embedded))
        return out.view(7, -1)


def _window(past: Tensor | None, x: Tensor, rows: Span, columns: Span, start: int, stop: int) -> Tensor:
    """A copy of some positions of ``past`` followed in time by x, both (B, T, H, W, C).

    Takes the steps ``start`` to before ``stop`` of the time axis, counted from the start of ``past`` (of x if
    ``past`` is None), at the rows ``rows`` and the columns ``columns`` of both tensors.
    """
    parts = []
    before = 0 if past is None else past.shape[1]
    if past is not None and start < before:
        parts.append(past[:, start : min(stop, before)])
    if stop > before:
        parts.append(x[:, max(0, start - before) : stop - before])
    return torch.cat([p[:, :, rows.start : rows.stop, columns.start : columns.stop] for p in parts], dim=1)
