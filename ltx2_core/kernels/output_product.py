"""The last matrix product of a branch, which adds its gated update to the tokens of the stream itself.

Plain torch writes the update and reads it again to add it, and reads and writes attended values to multiply
them by the gates of heads. This product does the first in its epilogue, the second in its prologue.

Letters: B batch, N tokens, I and W widths of the input and of the stream, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .gelu_product import Layer
from .language import interpreted, jit, launch, steps, tl, triton

_GROUP = 8
"""Rows of tiles that are computed together, so that tiles of the weight are read from the cache."""


@dataclass(frozen=True)
class Tiles:
    """Rows and columns of the result and values of the input that a program computes at once."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def formula(x: Tensor, gate: Tensor, source: Tensor, logits: Tensor | None, layer: Layer) -> Tensor:
    """x (B, N, W) += ``gate`` (B, 1, W) * ``layer`` of ``source`` (B, N, I), in place; returns x.

    With ``logits`` (B, N, H), each of the H heads that ``source`` consists of is first multiplied by
    2 sigmoid(logits).
    """
    if logits is not None:
        gates = logits.sigmoid().mul_(2).unsqueeze(-1)
        source = source.unflatten(-1, (logits.shape[-1], -1)).mul(gates).flatten(-2)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    added = torch.addcmul(x, F.linear(source, layer.weight.to(x.dtype), bias), gate)
    # The write comes last, so that a failed allocation leaves the stream as it was.
    return x.copy_(added)


def output_product(x: Tensor, gate: Tensor, source: Tensor, logits: Tensor | None, layer: Layer) -> Tensor:
    """The result of :func:`formula` by one kernel, which allocates nothing.

    I and D are multiples of 16. Sums are float32; the input is rounded after the gates of heads, as a matrix
    product needs it, and the new x once.
    """
    batch, tokens, width = x.shape
    inner = source.shape[-1]
    head = inner if logits is None else inner // logits.shape[-1]
    tiles = tiles_for(tokens, width, head, x.dtype)
    launch(
        _output_product,
        batch * triton.cdiv(tokens, tiles.rows) * triton.cdiv(width, tiles.columns),
        # Arguments of a kernel have to be tensors, whether it reads them or not.
        *(x, gate, source, x if logits is None else logits),
        *(layer.weight, layer.weight if layer.bias is None else layer.bias),
        *steps(x),
        steps(gate)[0],
        *steps(source),
        *steps(x if logits is None else logits),
        layer.weight.stride(0),
        *(tokens, width),
        on=x.device,
        INNER=inner,
        HEAD=0 if logits is None else head,
        BIAS=layer.bias is not None,
        # The interpreter multiplies the bits of bfloat16 as whole numbers; the products are the same.
        WIDENS=interpreted(),
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
        DEPTH=tiles.depth,
        GROUP=_GROUP,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return x


def tiles_for(tokens: int, width: int, head: int, dtype: torch.dtype) -> Tiles:
    """Tiles for a result of ``tokens`` by ``width``; there are three sizes, so that little is compiled.

    ``head`` is the width of a head, or of the whole input without gates of heads: a depth divides it.
    """
    depth = head & -head
    if dtype.itemsize > 2:
        return Tiles(64, 64, min(32, depth), warps=4, stages=2)
    # Tiles of few tokens have to be small to be many enough for a card.
    if triton.cdiv(tokens, 128) * triton.cdiv(width, 128) < 128:
        return Tiles(64, 64, min(64, depth), warps=4, stages=4)
    # Wider ones do not fit the registers.
    return Tiles(128, 128, min(64, depth), warps=8, stages=3)


@jit
def _output_product(  # type: ignore[no-untyped-def]
    x,
    gate,
    source,
    logits,
    weight,
    bias,
    x_sample,
    x_token,
    gate_sample,
    source_sample,
    source_token,
    logits_sample,
    logits_token,
    weight_row,
    tokens,
    width,
    INNER: tl.constexpr,
    HEAD: tl.constexpr,
    BIAS: tl.constexpr,
    WIDENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    # One program a tile of a sample, in groups of rows of tiles.
    rows, columns = tl.cdiv(tokens, ROWS), tl.cdiv(width, COLUMNS)
    number = tl.program_id(0) % (rows * columns)
    # The product with a stride exceeds 32 bits for long clips.
    sample = (tl.program_id(0) // (rows * columns)).to(tl.int64)
    first = number // (GROUP * columns) * GROUP
    high = min(rows - first, GROUP)
    start = (first + number % (GROUP * columns) % high) * ROWS
    column = number % (GROUP * columns) // high

    row = tl.arange(0, ROWS)
    there = row < tokens - start
    channel = column * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < width
    deep = tl.arange(0, DEPTH)
    # Strides below 2^31 / 128 are certain: they are widths, or a few of them.
    values = source + sample * source_sample + start.to(tl.int64) * source_token
    values += row[:, None] * source_token + deep[None, :]
    layer = weight + channel[None, :] * weight_row + deep[:, None]
    if HEAD:
        number_of_head = logits + sample * logits_sample + start.to(tl.int64) * logits_token
        number_of_head += row * logits_token
        logit = tl.load(number_of_head, mask=there, other=0.0)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for done in range(0, INNER, DEPTH):
        value = tl.load(values, mask=there[:, None], other=0.0)
        part = tl.load(layer, mask=inside[None, :], other=0.0)
        if HEAD:
            factor = 2.0 / (1.0 + tl.exp(-logit.to(tl.float32)))
            value = (value.to(tl.float32) * factor[:, None]).to(part.dtype)
            # That of the next part, so that no product waits for it.
            after = done + DEPTH
            logit = tl.load(number_of_head + after // HEAD, mask=there & (after < INNER), other=0.0)
        if WIDENS:
            value, part = value.to(tl.float32), part.to(tl.float32)
        total = tl.dot(value, part, total, input_precision="ieee")
        values += DEPTH
        layer += DEPTH
    if BIAS:
        total += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    by = tl.load(gate + sample * gate_sample + channel, mask=inside, other=0.0).to(tl.float32)
    at = x + sample * x_sample + start.to(tl.int64) * x_token + row[:, None] * x_token + channel[None, :]
    both = there[:, None] & inside[None, :]
    before = tl.load(at, mask=both, other=0.0).to(tl.float32)
    tl.store(at, (before + total * by[None, :]).to(x.dtype.element_ty), mask=both)
