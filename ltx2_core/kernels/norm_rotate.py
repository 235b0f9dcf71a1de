"""RMS norm of queries or keys over all heads together, then their rotation by position, in place.

Plain torch reads and writes queries and keys five times for this, the kernel once. Queries and keys of the
same tokens are computed together, which reads the rotary table once.

Letters: B batch, N tokens, H heads, D head width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .language import jit, launch, steps, tl, triton, warps


def formula(
    x: Tensor,
    weight: Tensor,
    other: Tensor | None,
    other_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    *,
    heads: int,
    interleaved: bool,
) -> Tensor:
    """RMS-normalise x (B, N, H D) and rotate pairs of channels of each of its H = ``heads`` heads, in place.

    ``other``, if not None, is treated as x is. The weights (H D) and ``eps`` are those of the norms. ``cos``
    and ``sin`` (B or 1, N, H, D/2) are of the angle of each pair: channel i of either half of a head, or
    neighbours if ``interleaved``. Returns x.
    """
    pairs, axis = ((heads, -1, 2), -1) if interleaved else ((heads, 2, -1), -2)
    for own, factor in ((x, weight), (other, other_weight)):
        if own is not None:
            normed = F.rms_norm(own, own.shape[-1:], factor, eps)
            first, second = normed.unflatten(-1, pairs).unbind(axis)
            to_first, to_second = own.unflatten(-1, pairs).unbind(axis)
            to_first.copy_(first * cos - second * sin)
            to_second.copy_(second * cos + first * sin)
    return x


def norm_rotate(
    x: Tensor,
    weight: Tensor,
    other: Tensor | None,
    other_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    *,
    heads: int,
    interleaved: bool,
) -> Tensor:
    """The result of :func:`formula` by one kernel."""
    batch, tokens, width = x.shape
    head = width // heads
    # Arguments of a kernel have to be tensors, whether it reads them or not.
    second, factor = (x, weight) if other is None or other_weight is None else (other, other_weight)
    launch(
        _norm_rotate,
        batch * tokens,
        *(x, weight, second, factor, cos, sin),
        *steps(x),
        *steps(second),
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
        TWICE=other is not None,
        num_warps=warps(width),
    )
    return x


@jit
def _norm_rotate(  # type: ignore[no-untyped-def]
    x,
    weight,
    other,
    other_weight,
    cos,
    sin,
    x_sample,
    x_token,
    other_sample,
    other_token,
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
    TWICE: tl.constexpr,
) -> None:
    # One program a token: the norm is over all heads, and a token of all heads is 4096 values.
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    pair = tl.arange(0, BLOCK_PAIRS)[None, :]
    inside = (head < HEADS) & (pair < HEAD // 2)
    table = sample * cos_sample + token * cos_token + head * cos_head + pair
    c = tl.load(cos + table, mask=inside, other=0.0).to(tl.float32)
    table = sample * sin_sample + token * sin_token + head * sin_head + pair
    s = tl.load(sin + table, mask=inside, other=0.0).to(tl.float32)
    at = x + sample * x_sample + token * x_token
    _row(at, weight, c, s, eps, HEADS, HEAD, BLOCK_HEADS, BLOCK_PAIRS, INTERLEAVED)
    if TWICE:
        at = other + sample * other_sample + token * other_token
        _row(at, other_weight, c, s, eps, HEADS, HEAD, BLOCK_HEADS, BLOCK_PAIRS, INTERLEAVED)


@jit
def _row(  # type: ignore[no-untyped-def]
    at,
    weight,
    c,
    s,
    eps,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
) -> None:
    half: tl.constexpr = HEAD // 2
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    pair = tl.arange(0, BLOCK_PAIRS)[None, :]
    inside = (head < HEADS) & (pair < half)
    if INTERLEAVED:
        # Neighbours are read together, as one run of memory, and then told apart.
        channel = tl.arange(0, 2 * BLOCK_PAIRS)[None, :]
        place = head * HEAD + channel
        within = (head < HEADS) & (channel < HEAD)
        both = tl.load(at + place, mask=within, other=0.0).to(tl.float32)
        factor = tl.load(weight + place, mask=within, other=0.0).to(tl.float32)
        square = tl.sum(tl.sum(both * both, axis=1), axis=0)
        first, second = tl.split(tl.reshape(both * factor, (BLOCK_HEADS, BLOCK_PAIRS, 2)))
    else:
        place = head * HEAD + pair
        first = tl.load(at + place, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(at + place + half, mask=inside, other=0.0).to(tl.float32)
        square = tl.sum(tl.sum(first * first + second * second, axis=1), axis=0)
        first *= tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
        second *= tl.load(weight + place + half, mask=inside, other=0.0).to(tl.float32)
    # The sum over all threads is behind every read, so that writing into the same row is safe.
    inverse = tl.rsqrt(square / (HEADS * HEAD) + eps)
    first, second = first * inverse, second * inverse
    if INTERLEAVED:
        joined = tl.join(first * c - second * s, second * c + first * s)
        result = tl.reshape(joined, (BLOCK_HEADS, 2 * BLOCK_PAIRS))
        tl.store(at + place, result, mask=within)
    else:
        tl.store(at + place, first * c - second * s, mask=inside)
        tl.store(at + place + half, second * c + first * s, mask=inside)
