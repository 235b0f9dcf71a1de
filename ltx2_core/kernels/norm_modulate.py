"""RMS norm, then scale and shift; before it, where there is one, the gated update of the branch before.

Plain torch reads and writes the tokens three to five times for this, the kernel once. Two branches that read
the same tokens, with a scale and shift for each, are served at once.

Letters: B batch, N tokens, W stream width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .language import jit, launch, steps, tl, triton, warps


def formula(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    out: Tensor | None = None,
    other_scale: Tensor | None = None,
    other_shift: Tensor | None = None,
    other_out: Tensor | None = None,
) -> Tensor:
    """x (B, N, W) += update * gate in place, then rms_norm(x) * scale + shift -> (B, N, W).

    ``update`` is (B, N, W); without it and its ``gate`` (both None) x stays as it is. Gate, scale and shift
    are (B, 1, W) or (B, N, W); ``eps`` is the epsilon of the norm. The result is written to ``out``, or to a
    new tensor if it is None. With another scale and shift, their result is written to ``other_out``.
    """
    added = x if update is None or gate is None else torch.addcmul(x, update, gate)
    normed = F.rms_norm(added, x.shape[-1:], eps=eps)
    hidden = torch.addcmul(shift, normed, scale, out=out)
    if other_scale is not None and other_shift is not None:
        torch.addcmul(other_shift, normed, other_scale, out=other_out)
    # The write comes last, so that a failed allocation leaves the stream as it was.
    if added is not x:
        x.copy_(added)
    return hidden


def norm_modulate(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    out: Tensor | None = None,
    other_scale: Tensor | None = None,
    other_shift: Tensor | None = None,
    other_out: Tensor | None = None,
) -> Tensor:
    """The result of :func:`formula`, and its update of x, by one kernel."""
    batch, tokens, width = x.shape
    hidden = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    # Arguments of a kernel have to be tensors, whether it reads them or not.
    moved, factor = (x, x) if update is None or gate is None else (update, gate)
    twice = other_scale is not None and other_shift is not None and other_out is not None
    factor_2, offset_2, hidden_2 = (other_scale, other_shift, other_out) if twice else (scale, shift, hidden)
    assert factor_2 is not None
    assert offset_2 is not None
    assert hidden_2 is not None
    launch(
        _norm_modulate,
        batch * tokens,
        *(x, moved, factor, scale, shift, hidden, factor_2, offset_2, hidden_2),
        *steps(x),
        *steps(moved),
        *steps(factor),
        *steps(scale),
        *steps(shift),
        *steps(hidden),
        *steps(factor_2),
        *steps(offset_2),
        *steps(hidden_2),
        tokens,
        eps,
        on=x.device,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        ADDS=update is not None,
        TWICE=twice,
        num_warps=warps(width),
    )
    return hidden


@jit
def _norm_modulate(  # type: ignore[no-untyped-def]
    x,
    update,
    gate,
    scale,
    shift,
    hidden,
    other_scale,
    other_shift,
    other_hidden,
    x_sample,
    x_token,
    update_sample,
    update_token,
    gate_sample,
    gate_token,
    scale_sample,
    scale_token,
    shift_sample,
    shift_token,
    hidden_sample,
    hidden_token,
    other_scale_sample,
    other_scale_token,
    other_shift_sample,
    other_shift_token,
    other_hidden_sample,
    other_hidden_token,
    tokens,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    TWICE: tl.constexpr,
) -> None:
    # One program a token. The product with a stride exceeds 32 bits for long clips.
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    at = x + sample * x_sample + token * x_token + channel
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        by = tl.load(gate + sample * gate_sample + token * gate_token + channel, mask=inside, other=0.0)
        add = tl.load(
            update + sample * update_sample + token * update_token + channel, mask=inside, other=0.0
        )
        added = (value + add.to(tl.float32) * by.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(at, added, mask=inside)
        # The norm is that of the tokens as they are stored.
        value = added.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, axis=0) / WIDTH + eps)
    factor = tl.load(scale + sample * scale_sample + token * scale_token + channel, mask=inside, other=0.0)
    offset = tl.load(shift + sample * shift_sample + token * shift_token + channel, mask=inside, other=0.0)
    normed = value * inverse
    result = normed * factor.to(tl.float32) + offset.to(tl.float32)
    tl.store(hidden + sample * hidden_sample + token * hidden_token + channel, result, mask=inside)
    if TWICE:
        at = other_scale + sample * other_scale_sample + token * other_scale_token + channel
        factor = tl.load(at, mask=inside, other=0.0)
        at = other_shift + sample * other_shift_sample + token * other_shift_token + channel
        offset = tl.load(at, mask=inside, other=0.0)
        result = normed * factor.to(tl.float32) + offset.to(tl.float32)
        at = other_hidden + sample * other_hidden_sample + token * other_hidden_token + channel
        tl.store(at, result, mask=inside)
