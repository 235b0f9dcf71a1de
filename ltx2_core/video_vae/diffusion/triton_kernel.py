"""Neighbourhood attention in one Triton kernel, and the plain formula of what it computes.

A program of the kernel computes a tile of queries that lie together in time, rows and columns. It goes
through the box of keys that holds all their windows once, a few rows of one frame at a time, and sums up with
a running maximum, as flash attention does. Nothing is copied and no score is stored: beyond its result the
kernel needs no memory.

Letters: B batch, T H W time, rows and columns, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .windows import Axes, Axis, window_start

try:
    import triton
    import triton.language as tl
# A package that does not fit the machine fails in many ways.
except Exception as error:  # noqa: BLE001
    triton, MISSING = None, f"Triton cannot be imported: {type(error).__name__}: {error}"
else:
    MISSING = ""

AT_ONCE = {2: 64, 4: 32}
"""Queries of a program, and keys it reads at a time, by the bytes of a value: as many as registers hold."""
WARPS, STAGES = 4, 3
"""Warps of a program, and how many blocks of keys are on their way. With fewer, float32 spills registers."""


def formula(q: Tensor, k: Tensor, v: Tensor, axes: Axes) -> Tensor:
    """softmax(q kᵀ) v over the window of each query, with all scores in memory, in float32.

    The arguments and the result are those of :func:`.attention.neighbourhood_attention`. Only for small
    tensors: there are as many scores as queries times keys.
    """
    visible: Tensor = torch.ones((), dtype=torch.bool, device=q.device)
    for number, axis in enumerate(axes):
        starts = torch.tensor([axis.start(query) for query in range(*axis.queries)], device=q.device)
        offset = torch.arange(k.shape[1 + number], device=q.device) - starts[:, None]
        shape = [1] * 6
        shape[number], shape[3 + number] = offset.shape
        visible = visible & ((offset >= 0) & (offset < axis.window)).view(shape)
    scores = torch.einsum("bthwnd,bijknd->bnthwijk", q.float(), k.float())
    chances = scores.masked_fill(~visible, float("-inf")).flatten(5).softmax(-1).view_as(scores)
    return torch.einsum("bnthwijk,bijknd->bthwnd", chances, v.float()).to(q.dtype)


def by_triton(q: Tensor, k: Tensor, v: Tensor, axes: Axes) -> Tensor:
    """softmax(q kᵀ) v over the window of each query, by the kernel: (B, T, H, W, N, D).

    The arguments are those of :func:`.attention.neighbourhood_attention`. Keys and values may be views, of
    which only the values of one position have to be adjacent. Gradients do not pass.
    """
    q, k, v = q.contiguous(), _adjacent(k), _adjacent(v)
    out = torch.empty_like(q)
    batch, times, rows, columns, heads, width = q.shape
    window = axes[0].window, axes[1].window, axes[2].window
    tiles = tiles_of(window, q.element_size())
    programs = -(-times // tiles.times) * -(-rows // tiles.rows) * -(-columns // tiles.columns)
    # Triton compiles for the current device, which need not be that of the tensors.
    with torch.cuda.device_of(q):
        _kernel[programs, batch * heads](
            *(q, k, v, out),
            *(_numbers(axis, q, k, v, 1 + number) for number, axis in enumerate(axes)),
            *(heads, k.stride(0), v.stride(0)),
            **constants(window, width, q.dtype),
            num_warps=WARPS,
            num_stages=STAGES,
        )
    return out


def constants(window: tuple[int, int, int], width: int, dtype: torch.dtype) -> dict[str, Any]:
    """What the kernel is compiled for: sizes of windows and tiles, and the dtype of its products.

    ``width`` is the head width.
    """
    # Triton's interpreter has no product of bfloat16. In float32 such products are exact, and on a device
    # they are summed in float32 too.
    compiled = isinstance(_kernel, triton.JITFunction)
    return {
        "window": window,
        "tiles": tuple(tiles_of(window, dtype.itemsize)),
        "width": width,
        "padded": max(16, triton.next_power_of_2(width)),
        "product": getattr(tl, str(dtype).removeprefix("torch.")) if compiled else tl.float32,
    }


class Tiles(NamedTuple):
    """How many (times, rows, columns) of queries a program computes, and of which keys at a time.

    ``key_rows`` rows of ``key_columns`` columns of one frame are read at a time. All are powers of two.
    """

    times: int
    rows: int
    columns: int
    key_rows: int
    key_columns: int


def tiles_of(window: tuple[int, int, int], itemsize: int) -> Tiles:
    """The tiles for windows of this size and values of ``itemsize`` bytes.

    All columns of the box of keys around a tile are one block of keys.
    """
    at_once = AT_ONCE[itemsize]
    key_columns = max(16, _power_of_two(window[2] + 3))
    # The largest power of two of columns whose windows fit into the block.
    columns = min(16, 1 << (key_columns - window[2] + 1).bit_length() - 1)
    rows = min(4, at_once // columns)
    return Tiles(at_once // (rows * columns), rows, columns, max(1, at_once // key_columns), key_columns)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def _adjacent(x: Tensor) -> Tensor:
    """x (B, T, H, W, N, D), copied if the values of a position are not adjacent in memory."""
    return x if x.stride()[-2:] == (x.shape[-1], 1) else x.contiguous()


def _numbers(axis: Axis, q: Tensor, k: Tensor, v: Tensor, dim: int) -> tuple[int, ...]:
    """What the kernel needs to know of one axis, which is axis ``dim`` of the tensors.

    They are the number of queries, the position of the first one, the position of the first key, the number
    of positions that windows may begin at, and the strides of queries, keys and values.
    """
    begins = window_start(axis.length, axis.length, axis.window) + 1
    strides = q.stride(dim), k.stride(dim), v.stride(dim)
    return q.shape[dim], axis.queries.start, axis.first_key, begins, *strides


def _jit(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call; without Triton it is left as it is, and never called."""
    return function if triton is None else triton.jit(function)


@_jit
def _start(query: tl.tensor, first_key: tl.tensor, begins: tl.tensor, window: tl.constexpr) -> tl.tensor:
    """Index among the keys of the first key of the window of each ``query``, which are positions."""
    return tl.minimum(tl.maximum(query - window // 2, 0), begins - 1) - first_key


@_jit
def _kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    time: tl.tuple,
    row: tl.tuple,
    column: tl.tuple,
    heads: tl.tensor,
    k_batch: tl.tensor,
    v_batch: tl.tensor,
    window: tl.constexpr,
    tiles: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    product: tl.constexpr,
) -> None:
    """Attention of one tile of queries of one head; see :func:`by_triton`.

    ``time``, ``row`` and ``column`` are the numbers of the three axes that :func:`_numbers` lists. ``window``
    and ``tiles`` are the sizes of windows and :class:`Tiles`, ``padded`` is ``width`` or the next power of
    two. Products are computed in ``product`` and summed in float32.
    """
    n_t, first_t, held_t, begins_t, q_t, k_t, v_t = time
    n_h, first_h, held_h, begins_h, q_h, k_h, v_h = row
    n_w, first_w, held_w, begins_w, q_w, k_w, v_w = column
    number, sample, head = tl.program_id(0), tl.program_id(1) // heads, tl.program_id(1) % heads
    across, down = tl.cdiv(n_w, tiles[2]), tl.cdiv(n_h, tiles[1])
    t0 = number // (across * down) * tiles[0]
    h0 = number // across % down * tiles[1]
    w0 = number % across * tiles[2]

    # The tile's queries, and the first key of the window of each. Those beyond the end of an axis have the
    # window of the last one, and are not stored.
    at = tl.arange(0, tiles[0] * tiles[1] * tiles[2])
    t, h, w = t0 + at // (tiles[1] * tiles[2]), h0 + at // tiles[2] % tiles[1], w0 + at % tiles[2]
    exists = (t < n_t) & (h < n_h) & (w < n_w)
    from_t = _start(tl.minimum(t, n_t - 1) + first_t, held_t, begins_t, window[0])
    from_h = _start(tl.minimum(h, n_h - 1) + first_h, held_h, begins_h, window[1])
    from_w = _start(tl.minimum(w, n_w - 1) + first_w, held_w, begins_w, window[2])
    value = tl.arange(0, padded)
    place = sample.to(tl.int64) * n_t * q_t + t.to(tl.int64) * q_t + h * q_h + w * q_w + head * width
    place = place[:, None] + value[None, :]
    stored = exists[:, None] & (value[None, :] < width)
    queries = tl.load(q + place, mask=stored, other=0.0).to(product)

    # The box of keys that holds all windows of the tile: tiles + window - 1 positions of each axis, or fewer
    # at borders. All its columns are read at once, so what a query sees of them is the same in every turn.
    box_t = _start(t0 + first_t, held_t, begins_t, window[0])
    box_h = _start(h0 + first_h, held_h, begins_h, window[1])
    box_w = _start(w0 + first_w, held_w, begins_w, window[2])
    end_t = _start(tl.minimum(t0 + tiles[0], n_t) - 1 + first_t, held_t, begins_t, window[0]) + window[0]
    end_h = _start(tl.minimum(h0 + tiles[1], n_h) - 1 + first_h, held_h, begins_h, window[1]) + window[1]
    end_w = _start(tl.minimum(w0 + tiles[2], n_w) - 1 + first_w, held_w, begins_w, window[2]) + window[2]
    key = tl.arange(0, tiles[3] * tiles[4])
    key_w = box_w + key % tiles[4]
    seen_w = (key_w[None, :] >= from_w[:, None]) & (key_w[None, :] < from_w[:, None] + window[2])
    k += sample.to(tl.int64) * k_batch + head * width
    v += sample.to(tl.int64) * v_batch + head * width
    groups: tl.constexpr = (tiles[1] + window[1] - 1 + tiles[3] - 1) // tiles[3]

    # A finite number stands for minus infinity. What a query sums up before it sees its first key is
    # multiplied by exp(lowest - score) = 0 then.
    lowest = -1e30
    highest = tl.full((tiles[0] * tiles[1] * tiles[2],), lowest, tl.float32)
    total = tl.zeros((tiles[0] * tiles[1] * tiles[2],), tl.float32)
    result = tl.zeros((tiles[0] * tiles[1] * tiles[2], padded), tl.float32)
    for turn in range((tiles[0] + window[0] - 1) * groups):
        key_t = box_t + turn // groups
        key_h = box_h + turn % groups * tiles[3] + key // tiles[4]
        there = (key_t < end_t) & (key_h < end_h) & (key_w < end_w)
        seen_t = (key_t >= from_t) & (key_t < from_t + window[0])
        seen_h = (key_h[None, :] >= from_h[:, None]) & (key_h[None, :] < from_h[:, None] + window[1])
        k_at = key_t.to(tl.int64) * k_t + key_h * k_h + key_w * k_w
        v_at = key_t.to(tl.int64) * v_t + key_h * v_h + key_w * v_w
        some_k = tl.load(
            k + k_at[None, :] + value[:, None], mask=there[None, :] & (value[:, None] < width), other=0.0
        )
        some_v = tl.load(
            v + v_at[:, None] + value[None, :], mask=there[:, None] & (value[None, :] < width), other=0.0
        )
        scores = tl.dot(queries, some_k.to(product), input_precision="ieee")
        scores = tl.where(seen_w & seen_h & seen_t[:, None], scores, lowest)
        higher = tl.maximum(highest, tl.max(scores, 1))
        scale, chances = tl.exp(highest - higher), tl.exp(scores - higher[:, None])
        total = total * scale + tl.sum(chances, 1)
        result = result * scale[:, None]
        chances = chances.to(some_v.dtype).to(product)
        result = tl.dot(chances, some_v.to(product), result, input_precision="ieee")
        highest = higher
    tl.store(out + place, (result / total[:, None]).to(out.dtype.element_ty), mask=stored)
