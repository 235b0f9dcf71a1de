"""Attended values of each head multiplied by the head's gate, twice the sigmoid of a number.

Letters: B batch, N tokens, H heads, D head width.
"""

from __future__ import annotations

from torch import Tensor

from .language import jit, launch, tl, triton, warps


def formula(attended: Tensor, logits: Tensor) -> Tensor:
    """Multiply ``attended`` (B, N, H, D) by 2 sigmoid(``logits``), which are (B, N, H), in place.

    Logits of 0 leave the heads as they are. Returns ``attended``.
    """
    return attended.mul_(logits.sigmoid().mul_(2).unsqueeze(-1))


def gate_heads(attended: Tensor, logits: Tensor) -> Tensor:
    """The result of :func:`formula` by one kernel."""
    batch, tokens, heads, head = attended.shape
    assert attended.stride(-1) == 1
    launch(
        _gate_heads,
        batch * tokens,
        *(attended, logits),
        *attended.stride()[:3],
        *logits.stride()[:2],
        tokens,
        on=attended.device,
        HEADS=heads,
        HEAD=head,
        BLOCK_HEADS=triton.next_power_of_2(heads),
        BLOCK=triton.next_power_of_2(head),
        num_warps=warps(heads * head),
    )
    return attended


@jit
def _gate_heads(  # type: ignore[no-untyped-def]
    attended,
    logits,
    sample_step,
    token_step,
    head_step,
    logits_sample,
    logits_token,
    tokens,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    channel = tl.arange(0, BLOCK)[None, :]
    there = head < HEADS
    logit = tl.load(logits + sample * logits_sample + token * logits_token + head, mask=there, other=0.0)
    gate = 2.0 / (1.0 + tl.exp(-logit.to(tl.float32)))
    at = attended + sample * sample_step + token * token_step + head * head_step + channel
    inside = there & (channel < HEAD)
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, value * gate, mask=inside)
