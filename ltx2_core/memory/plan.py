"""What to keep, to stream and to compute in parts so that a run stays within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config import TransformerConfig, VideoVAEConfig
from ..shapes import ClipPlan
from ..video_vae.streaming import MAX_PIECE_BYTES
from .estimate import decode_bytes, step_bytes

GB = 10**9
PRESETS = {f"{size} GB": size * GB for size in (8, 12, 16, 24, 32, 80)}
"""Budgets of common devices."""

CHUNK_TOKENS = 2048
"""Enough tokens to keep matrix products efficient, few enough that their activations hardly count."""

_RESERVE = 0.06
"""Share of the budget that allocators round up and kernels use for themselves."""

_SMALLEST_PIECE = 8 * 2**20
_COPIES = 2
"""Blocks on the device at once besides the resident ones: one that computes, one that arrives."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """Bytes of one stage on the device, and in system memory what waits to be copied there."""

    stage: str
    weights: int
    activations: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.activations


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How to run within ``budget`` bytes.

    ``resident_blocks`` of ``blocks`` stay on the device and the others are streamed. ``chunk_tokens`` is for
    ``Transformer.chunk_tokens``, ``piece_bytes`` for the decoder's ``max_piece_bytes``.
    """

    budget: int
    blocks: int
    resident_blocks: int
    chunk_tokens: int | None
    piece_bytes: int
    stages: tuple[PlannedStage, ...]

    @property
    def peak(self) -> int:
        return max(stage.total for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether every stage stays within the budget; if not, the plan is the smallest that there is."""
        return self.peak <= _usable(self.budget)

    def lines(self) -> list[str]:
        """The plan as a table."""
        rows = [f"{'':10}{'weights':>10}{'working':>10}{'total':>10}{'host':>10}"]
        for s in self.stages:
            sizes = (s.weights, s.activations, s.total, s.host)
            rows.append(f"{s.stage:10}" + "".join(f"{size / GB:>7.2f} GB" for size in sizes))
        chunk = "all tokens at once" if self.chunk_tokens is None else f"{self.chunk_tokens} tokens at a time"
        rows.append(f"{self.resident_blocks} of {self.blocks} blocks stay on the device, {chunk}")
        if not self.fits:
            rows.append(
                f"does not fit: {self.peak / GB:.1f} GB of {self.budget / GB:.1f} GB; make a smaller clip"
            )
        return rows


def plan_memory(
    budget: int,
    *,
    text_weights: int,
    transformer_weights: int,
    block_weights: int,
    decoder_weights: int,
    transformer: TransformerConfig,
    vae: VideoVAEConfig,
    clips: Sequence[ClipPlan],
    dtype: torch.dtype,
) -> MemoryPlan:
    """The fastest plan that fits into ``budget`` bytes, or the smallest one; what it costs grows downwards:
    everything resident, tokens in chunks, blocks streamed, smaller pieces for the decoder.

    ``transformer_weights`` count all blocks, ``block_weights`` one. Raises ValueError for a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 byte; got {budget}. Give what the device has free")
    usable, blocks, itemsize = _usable(budget), transformer.num_layers, dtype.itemsize

    def working(chunk_tokens: int | None) -> list[int]:
        return [step_bytes(transformer, clip, itemsize, chunk_tokens=chunk_tokens) for clip in clips]

    chunk_tokens = None if transformer_weights + max(working(None)) <= usable else CHUNK_TOKENS
    steps = working(chunk_tokens)
    resident, on_device = blocks, transformer_weights
    if transformer_weights + max(steps) > usable:
        others = transformer_weights - blocks * block_weights
        room = usable - max(steps) - others - _COPIES * block_weights
        resident = min(max(room // block_weights, 0), blocks - _COPIES)
        on_device = others + (resident + _COPIES) * block_weights
    waiting = (blocks - resident) * block_weights

    piece = MAX_PIECE_BYTES
    while (
        piece > _SMALLEST_PIECE and decoder_weights + decode_bytes(vae, clips[-1], itemsize, piece) > usable
    ):
        piece //= 2
    stages = [PlannedStage(stage="text", weights=text_weights, activations=0)]
    stages += [
        PlannedStage(stage=f"stage {number}", weights=on_device, activations=step, host=waiting)
        for number, step in enumerate(steps, start=1)
    ]
    decode = decode_bytes(vae, clips[-1], itemsize, piece)
    stages.append(PlannedStage(stage="decode", weights=decoder_weights, activations=decode))
    return MemoryPlan(
        budget=budget,
        blocks=blocks,
        resident_blocks=resident,
        chunk_tokens=chunk_tokens,
        piece_bytes=piece,
        stages=tuple(stages),
    )


def _usable(budget: int) -> int:
    return int(budget * (1 - _RESERVE))
