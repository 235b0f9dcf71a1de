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
"""About the size of the part of a block's input whose keys exist at a time."""
CHUNK_BYTES = 8 * 2**20
"""About the size of the part of a block's input whose keys are computed at a time."""
MLP_TOKENS = 16384
"""Positions that a feed-forward computes at a time; its hidden width is four times that of its input."""

Sizes = tuple[int, int, int]


class Layers(NamedTuple):
    """How layers are made: their dtype, device, and the namespace of layer classes, torch.nn or a host's."""

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
    """Scale and shift (C,) in float32 of the two normalisations of a diffusion block."""

    scale: Tensor | float = 1.0
    shift: Tensor | None = None
    mlp_scale: Tensor | float = 1.0
    mlp_shift: Tensor | None = None


PLAIN = Modulation()
"""No modulation, as in the stages before the diffusion stage."""


class Place(NamedTuple):
    """Where a block's piece lies, and which part of its result is asked for.

    ``past`` are the rows of time (B, P, H, W, C) before the piece. ``first`` is the position in time of the
    first of them, ``seen`` the number of positions up to the end of the piece. ``out`` are the positions
    asked for: in time counted from the clip's start, in rows and columns from the piece's corner.
    """

    past: Tensor | None
    first: int
    seen: int
    out: tuple[Span, Span, Span]


class Attention(nn.Module):
    """Projections of neighbourhood attention: normalised, rotated queries and keys, values, output."""

    def __init__(self, width: int, head_dim: int, layers: Layers) -> None:
        super().__init__()
        self.width, self.head_dim = width, head_dim
        self.qkv = layers.linear(width, 3 * width)
        self.q_norm = layers.norm(head_dim)
        self.k_norm = layers.norm(head_dim)
        self.proj = layers.linear(width, width)

    def queries(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, T, H, W, C) -> queries (B, T, H, W, N, D), rotated by ``table``."""
        q = self._heads(_some_rows(self.qkv, x, 0, self.width))
        return rotate(self.q_norm(q, scale=self.head_dim**-0.5), table)

    def keys_and_values(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, T, H, W, C) -> keys, rotated by ``table``, and values, each (B, T, H, W, N, D)."""
        k, v = _some_rows(self.qkv, x, self.width, 3 * self.width).split(self.width, dim=-1)
        return rotate(self.k_norm(self._heads(k)), table), self._heads(v)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim))
        return heads


def _some_rows(linear: nn.Linear, x: Tensor, start: int, stop: int) -> Tensor:
    """The outputs ``start`` to ``stop`` of a linear layer."""
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
        """The piece x (B, T, H, W, C) -> the result at the positions ``place.out``, (B, T', H', W', C)."""
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
        """The rows ``strip`` after attention, (B, T', rows, W', C)."""
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
        """h (B, T, H, W, C) plus its feed-forward, in place where nothing needs h."""
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
        """Rows of a strip: as many as a tile of queries has, or a multiple of that."""
        tile = tile_size(self.kernel)[1]
        row = (place.seen - place.first) * x.shape[0] * x.shape[3] * x.shape[4] * x.element_size()
        return max(tile, STRIP_BYTES // row // tile * tile)


class _Keys:
    """The keys and values of a strip of rows and of those around it, while a block moves down its piece.

    Rows that the next strip shares with this one are moved, not computed again.
    """

    def __init__(self, block: Block, x: Tensor, place: Place, modulation: Modulation) -> None:
        self.block, self.x, self.place, self.modulation = block, x, place, modulation
        self.times, self.columns = Span(place.first, place.seen), Span(0, x.shape[3])
        self.rows = Span(0, 0)
        spans = (self.times, Span(0, x.shape[2]), self.columns)
        self.rotation = Rotation(spans, block.attn.head_dim, x.device)
        self._memory: Tensor | None = None

    def stored(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, T, rows, W, N, D) of the rows ``self.rows``."""
        assert self._memory is not None
        keys, values = self._memory[:, :, :, : self.rows.size]
        return keys, values

    def cover(self, rows: Span, step: int) -> None:
        """Compute the keys of ``rows``, which do not begin before those of the last call.

        A call covers at most ``step`` rows and the windows around them.
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
    """A block of the diffusion stage, with its part of the modulation and a projection of the context."""

    def __init__(self, width: int, kernel: Sizes, head_dim: int, layers: Layers) -> None:
        super().__init__(width, kernel, head_dim, layers)
        self.context_proj = layers.linear(width, width)
        self.scale_shift_table = nn.Parameter(torch.zeros(7, width, dtype=layers.dtype, device=layers.device))

    def modulation(self, shared: Tensor) -> Modulation:
        """``shared`` (7, C), the modulation of the diffusion time, plus this block's own."""
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
        """x (B, T, H, W, C) -> (B, T p, H q, W r, C / reduction) for the strides p, q and r."""
        p, q, r = self.strides
        wide: Tensor = self.proj(x)
        return rearrange(wide, "b t h w (c p q r) -> b (t p) (h q) (w r) c", p=p, q=q, r=r)


class TimeEmbedder(nn.Module):
    """Sinusoid of the diffusion time, and two linear layers."""

    FREQUENCIES = 128

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            layers.linear(2 * self.FREQUENCIES, width), nn.SiLU(), layers.linear(width, width)
        )

    def forward(self, time: float, like: Tensor) -> Tensor:
        """The scaled diffusion time -> embedding (1, width), on the device and in the dtype of ``like``."""
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
        """The embedded time (1, time_dim) -> (7, C)."""
        out: Tensor = self.proj(F.silu(embedded))
        return out.view(7, -1)


def _window(past: Tensor | None, x: Tensor, rows: Span, columns: Span, start: int, stop: int) -> Tensor:
    """Times ``start`` to ``stop``, counted over ``past`` and then x, at some rows and columns; a copy."""
    parts = []
    before = 0 if past is None else past.shape[1]
    if past is not None and start < before:
        parts.append(past[:, start : min(stop, before)])
    if stop > before:
        parts.append(x[:, max(0, start - before) : stop - before])
    return torch.cat([p[:, :, rows.start : rows.stop, columns.start : columns.stop] for p in parts], dim=1)
