"""Rotary tables of a clip: of each stream for itself, and for attention between the two.

Letters: B batch, N tokens, A position axes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..config import TransformerConfig
from .rope import Rope, rope_table


@dataclass(frozen=True, kw_only=True)
class RopeTables:
    """Rotary tables of one clip, the same in every step.

    ``video`` and ``audio`` are for self-attention. Those with ``_cross`` are for attention between the
    streams, and None unless there are both.
    """

    video: Rope | None = None
    audio: Rope | None = None
    video_cross: Rope | None = None
    audio_cross: Rope | None = None

    def part(self, video: slice, audio: slice) -> RopeTables:
        """The tables for some of the tokens: the slice ``video`` of the video's, ``audio`` of the audio's."""
        parts: dict[str, Rope] = {}
        for name in (field.name for field in fields(self)):
            table: Rope | None = getattr(self, name)
            if table is not None:
                parts[name] = table.part(video if name.startswith("video") else audio)
        return RopeTables(**parts)


def clip_tables(
    config: TransformerConfig,
    video_positions: Tensor | None,
    audio_positions: Tensor | None,
    *,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> RopeTables:
    """Rotary tables at positions of video (B, 3, N, 2) and of audio (B, 1, N, 2); None is an absent stream.

    Positions are start and end of each token in seconds, and for video also in pixel rows and columns. Tables
    are stored as ``dtype`` on ``device``; None is the device of the positions.
    """
    cross = video_positions is not None and audio_positions is not None
    tables: dict[str, Rope | None] = {}
    for name, positions in (("video", video_positions), ("audio", audio_positions)):
        if positions is not None:
            tables[name], tables[f"{name}_cross"] = stream_tables(
                config, positions, audio=name == "audio", cross=cross, dtype=dtype, device=device
            )
    return RopeTables(**tables)


def stream_tables(
    config: TransformerConfig,
    positions: Tensor,
    *,
    audio: bool,
    cross: bool,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> tuple[Rope, Rope | None]:
    """Rotary tables for the tokens of one stream: ``audio``, or the video if False.

    ``positions`` (B, A, N, 2) are start and end of N tokens on A axes: seconds, and for video also pixel rows
    and columns. The first table is for self-attention. The second is for attention between the streams, which
    rotates by time alone and has the inner width of audio; it is None unless ``cross``. Both are stored as
    ``dtype`` on ``device``; None is the device of the positions.
    """

    def table(axes: int, max_pos: tuple[float, ...], width: int) -> Rope:
        spans = positions[:, :axes].float()
        # LTX-2 takes the middle of an interval (use_middle_indices_grid in its headers).
        points = spans.mean(dim=-1) if config.middle_positions else spans[..., 0]
        return rope_table(
            points, max_pos, width=width, heads=config.heads, config=config.rope, dtype=dtype, device=device
        )

    max_pos, width = ((config.audio_max_pos,), config.audio_dim) if audio else (config.max_pos, config.dim)
    own = table(positions.shape[1], max_pos, width)
    # One range for both, or the same moment would have different angles in the two streams.
    seconds = (max(config.max_pos[0], config.audio_max_pos),)
    # A stream without a partner has no attention between the streams and needs no such table.
    return own, table(1, seconds, config.audio_dim) if cross else None
