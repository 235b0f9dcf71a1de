"""RMS norm of queries or keys over all heads together, then their rotation by position.

Plain torch reads and writes queries and keys five times for this, the kernel once.

Letters: B batch, N tokens, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .language import jit, launch, steps, tl, triton, warps


def formula(
    x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor, *, heads: int, interleaved: bool
) -> Tensor:
    """RMS-normalise x (B, N, H D), H = ``heads``, and rotate pairs of channels of a head -> (B, H, N, D).

    ``weight`` (H D) and ``eps`` are those of the norm. ``cos`` and ``sin`` (B or 1, N, H, D/2) are of the
    angle of each pair: channel i of either half of a head, or neighbours if ``interleaved``.
    """
    normed = F.rms_norm(x, x.shape[-1:], weight, eps)
    pairs, axis = ((heads, -1, 2), -1) if interleaved else ((heads, 2, -1), -2)
    first, second = normed.unflatten(-1, pairs).unbind(axis)
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), axis)
    return rotated.flatten(-2).transpose(1, 2)


def norm_rotate(
    x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor, *, heads: int, interleaved: bool
) -> Tensor:
    """The result of :func:`formula` by one kernel; all heads of a token are next to each other in memory."""
    batch, tokens, width = x.shape
    head = width // heads
    out = torch.empty(batch, tokens, heads, head, dtype=x.dtype, device=x.device)
    launch(
        _norm_rotate,
        batch * tokens,
        *(x, weight, cos, sin, out),
        *steps(x),
        *(*steps(cos), cos.stride(2)),
        *(*steps(sin), sin.stride(2)),
        tokens,
        eps,
        on=x.device,
        HEADS=heads,
        HEAD=head,
        BLOCK_HEADS=triton.next_power_of_2(heads),
        BLOCK_PAIRS=triton.next_power_of_2(head // 2),
        INTERLEAVED=interleaved,
        num_warps=warps(width),
    )
    return out.transpose(1, 2)


@jit
def _norm_rotate(  # type: ignore[no-untyped-def]
    x,
    weight,
    cos,
    sin,
    out,
    x_sample,
    x_token,
    cos_sample,
    cos_token,
    cos_head,
    sin_sample,
    sin_token,
    sin_head,
    tokens,
    eps,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
) -> None:
    # One program a token: the norm is over all heads, and a token of all heads is 4096 values.
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    half: tl.constexpr = HEAD // 2
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    pair = tl.arange(0, BLOCK_PAIRS)[None, :]
    inside = (head < HEADS) & (pair < half)
    if INTERLEAVED:
        # Neighbours are read together, as one run of memory, and then told apart.
        channel = tl.arange(0, 2 * BLOCK_PAIRS)[None, :]
        place = head * HEAD + channel
        within = (head < HEADS) & (channel < HEAD)
        both = tl.load(x + sample * x_sample + token * x_token + place, mask=within, other=0.0).to(tl.float32)
        factor = tl.load(weight + place, mask=within, other=0.0).to(tl.float32)
        square = tl.sum(tl.sum(both * both, axis=1), axis=0)
        first, second = tl.split(tl.reshape(both * factor, (BLOCK_HEADS, BLOCK_PAIRS, 2)))
    else:
        place = head * HEAD + pair
        at = x + sample * x_sample + token * x_token + place
        first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
        square = tl.sum(tl.sum(first * first + second * second, axis=1), axis=0)
        first *= tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
        second *= tl.load(weight + place + half, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(square / (HEADS * HEAD) + eps)
    first, second = first * inverse, second * inverse
    table = sample * cos_sample + token * cos_token + head * cos_head + pair
    c = tl.load(cos + table, mask=inside, other=0.0).to(tl.float32)
    table = sample * sin_sample + token * sin_token + head * sin_head + pair
    s = tl.load(sin + table, mask=inside, other=0.0).to(tl.float32)
    to = out + row * (HEADS * HEAD)
    if INTERLEAVED:
        joined = tl.join(first * c - second * s, second * c + first * s)
        result = tl.reshape(joined, (BLOCK_HEADS, 2 * BLOCK_PAIRS))
        tl.store(to + place, result, mask=within)
    else:
        tl.store(to + place, first * c - second * s, mask=inside)
        tl.store(to + place + half, second * c + first * s, mask=inside)
