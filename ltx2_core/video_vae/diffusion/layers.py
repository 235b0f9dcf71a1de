"""Layers of the diffusion decoder; parameter names are those of the checkpoint.

B batch, T H W time, rows and columns, C channels; tensors are (B, T, H, W, C).
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .rope import rotate

NORM_EPS = 1e-6

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
        q = self._heads(_some_channels(self.qkv, x, 0, self.width))
        return rotate(self.q_norm(q, scale=self.head_dim**-0.5), table)

    def keys_and_values(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, T, H, W, C) -> keys and values, each (B, T, H, W, N, D) for N heads of width D.

        Keys are rotated by ``table``, the cosines and sines of their positions.
        """
        k, v = _some_channels(self.qkv, x, self.width, 3 * self.width).split(self.width, dim=-1)
        return rotate(self.k_norm(self._heads(k)), table), self._heads(v)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim))
        return heads


def _some_channels(linear: nn.Linear, x: Tensor, start: int, stop: int) -> Tensor:
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
