"""The window that a convolution reads: frames kept of the piece before, the piece and padding in one tensor.

On the way the values may be RMS-normalised over their channels and go through SiLU. Plain torch reads and
writes every frame about ten times for this, the kernel once.

Letters: B batch, K kept frames, T frames of the piece, N frames of the window, H W rows and columns, C
channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .language import jit, launch, tl, triton

_VALUES = 8192
"""Values of one program: 32 for each thread of 8 warps."""
WARPS = 8


def positions(channels: int) -> int:
    """How many positions one program computes."""
    return max(1, _VALUES // int(triton.next_power_of_2(channels)))


def formula(
    x: Tensor,
    kept: Tensor | None,
    before: int,
    after: int,
    eps: float,
    *,
    keep: int,
    edge: int,
    activate: bool,
) -> tuple[Tensor, Tensor]:
    """x (B, T, H, W, C) -> the window (B, N, H + 2 edge, W + 2 edge, C), and its last ``keep`` frames, raw.

    The window is ``kept`` (B, K, H, W, C), or nothing if it is None, then x; its first frame is repeated
    ``before`` times ahead of it and its last one ``after`` times behind. ``edge`` is 1 for rows and columns
    that are added by reflection, else 0. With ``activate`` the window is normalised over channels with
    ``eps``, then SiLU is applied; frames to keep, (B, keep, H, W, C), are as they came.
    """
    parts = [x] if kept is None else [kept, x]
    raw = torch.cat([parts[0][:, :1]] * before + parts + [x[:, -1:]] * after, dim=1)
    # A copy, because a view would hold the whole window in memory.
    held = raw[:, raw.shape[1] - keep :].clone()
    if activate:
        precision = torch.promote_types(x.dtype, torch.float32)
        power = raw.square().mean(-1, keepdim=True, dtype=precision)
        raw = F.silu(raw * (power + eps).rsqrt().to(x.dtype), inplace=True)
    if edge:
        padded = F.pad(raw.movedim(-1, 1), (edge, edge, edge, edge, 0, 0), mode="reflect")
        raw = padded.movedim(1, -1)
    return raw.contiguous(), held


def norm_activate(
    x: Tensor,
    kept: Tensor | None,
    before: int,
    after: int,
    eps: float,
    *,
    keep: int,
    edge: int,
    activate: bool,
) -> tuple[Tensor, Tensor]:
    """The result of :func:`formula` by one kernel, contiguous with the channels last."""
    batch, length, height, width, channels = x.shape
    kept_frames = 0 if kept is None else kept.shape[1]
    frames = before + kept_frames + length + after
    rows, columns = height + 2 * edge, width + 2 * edge
    window = torch.empty((batch, frames, rows, columns, channels), dtype=x.dtype, device=x.device)
    held = torch.empty((batch, keep, height, width, channels), dtype=x.dtype, device=x.device)
    blocks = triton.cdiv(rows * columns, positions(channels))
    # Arguments of a kernel have to be tensors, whether it reads them or not.
    past = x if kept is None else kept
    launch(
        _norm_activate,
        batch * frames * blocks,
        *(x, past, window, held),
        *x.stride(),
        *past.stride(),
        *(before, kept_frames, length, frames, keep),
        *(height, width, rows, columns, blocks),
        eps,
        on=x.device,
        WIDTH=channels,
        BLOCK=triton.next_power_of_2(channels),
        POSITIONS=positions(channels),
        EDGE=edge,
        ACTIVATE=activate,
        num_warps=WARPS,
    )
    return window, held


@jit
def _norm_activate(  # type: ignore[no-untyped-def]
    x,
    kept,
    window,
    held,
    x_sample,
    x_frame,
    x_line,
    x_column,
    x_channel,
    kept_sample,
    kept_frame,
    kept_line,
    kept_column,
    kept_channel,
    before,
    kept_frames,
    length,
    frames,
    keep,
    height,
    width,
    rows,
    columns,
    blocks,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    POSITIONS: tl.constexpr,
    EDGE: tl.constexpr,
    ACTIVATE: tl.constexpr,
) -> None:
    # One program for some positions of one frame of the window. Products with strides may exceed 32 bits.
    number = tl.program_id(0)
    frame = number // blocks % frames
    sample = (number // blocks // frames).to(tl.int64)
    position = number % blocks * POSITIONS + tl.arange(0, POSITIONS)
    there = position < rows * columns
    # The position in the piece that is seen from here: a mirror stands on the outermost rows and columns.
    row = tl.abs(position // columns - EDGE)
    row = tl.where(row >= height, 2 * height - 2 - row, row)
    column = tl.abs(position % columns - EDGE)
    column = tl.where(column >= width, 2 * width - 2 - column, column)
    row, column = row.to(tl.int64), column.to(tl.int64)
    source = tl.minimum(tl.maximum(frame - before, 0), kept_frames + length - 1)
    channel = tl.arange(0, BLOCK)
    inside = there[:, None] & (channel < WIDTH)[None, :]
    wide = channel.to(tl.int64)[None, :]
    if source < kept_frames:
        start = kept + sample * kept_sample + source.to(tl.int64) * kept_frame
        place = (row * kept_line + column * kept_column)[:, None] + wide * kept_channel
        value = tl.load(start + place, mask=inside, other=0.0)
    else:
        start = x + sample * x_sample + (source - kept_frames).to(tl.int64) * x_frame
        place = (row * x_line + column * x_column)[:, None] + wide * x_channel
        value = tl.load(start + place, mask=inside, other=0.0)
    if frame >= frames - keep:
        # Each position once, although the mirror shows some twice.
        line, mark = position // columns - EDGE, position % columns - EDGE
        own = (line >= 0) & (line < height) & (mark >= 0) & (mark < width)
        end = held + (sample * keep + frame - (frames - keep)) * height * width * WIDTH
        place = (row * width + column)[:, None] * WIDTH + wide
        tl.store(end + place, value, mask=inside & own[:, None])
    if ACTIVATE:
        exact = value.to(tl.float32)
        exact = exact * tl.rsqrt(tl.sum(exact * exact, axis=1) / WIDTH + eps)[:, None]
        value = (exact / (1 + tl.exp(-exact))).to(x.dtype.element_ty)
    out = window + (sample * frames + frame) * rows * columns * WIDTH
    tl.store(out + position.to(tl.int64)[:, None] * WIDTH + wide, value, mask=inside)
