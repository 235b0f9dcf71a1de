"""Predicted peak memory of a run, stage by stage, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from ..config import TransformerConfig, VideoVAEConfig
from ..shapes import ClipPlan
from ..video_vae.streaming import MAX_PIECE_BYTES

_DECODE_PIECES = 4
"""Working tensors of the decoder, in pieces: a padded input, its convolution, the activation and the skip."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one stage: weights that must be resident and activations at their largest."""

    stage: str
    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def estimate_memory(
    *,
    text_weights: int,
    transformer_weights: int,
    decoder_weights: int,
    transformer: TransformerConfig,
    vae: VideoVAEConfig,
    clips: Sequence[ClipPlan],
    dtype: torch.dtype,
    chunk_tokens: int | None = None,
    piece_bytes: int = MAX_PIECE_BYTES,
) -> tuple[MemoryEstimate, ...]:
    """One entry a stage, for one sample at a time; the networks live one after another.

    An estimate, not a bound: attention is assumed to be fused, and allocators round up.
    """
    itemsize = dtype.itemsize
    stages = [MemoryEstimate(stage="text", weights=text_weights, activations=0)]
    for index, clip in enumerate(clips, start=1):
        stages.append(
            MemoryEstimate(
                stage=f"stage {index}",
                weights=transformer_weights,
                activations=step_bytes(transformer, clip, itemsize, chunk_tokens=chunk_tokens),
            )
        )
    stages.append(
        MemoryEstimate(
            stage="decode",
            weights=decoder_weights,
            activations=decode_bytes(vae, clips[-1], itemsize, piece_bytes),
        )
    )
    return tuple(stages)


def step_bytes(
    config: TransformerConfig, clip: ClipPlan, itemsize: int, *, chunk_tokens: int | None = None
) -> int:
    """Activations of one step with its rotary tables, within 10 % of what ``Trace`` counts at real sizes.

    All through the step there are a stream's tokens and its two rotary tables. The feed-forward adds its
    input, four hidden widths and its output for the tokens it computes at once, a chunked self-attention
    keys and values of all tokens and four widths of the chunk.
    """
    video = clip.video_tokens * config.dim * itemsize
    audio = clip.audio_tokens * config.audio_dim * itemsize
    tables = video + clip.video_tokens * config.audio_dim * itemsize
    held = video + tables + 3 * audio
    if chunk_tokens is None or chunk_tokens >= clip.video_tokens:
        return held + 6 * video
    chunk = chunk_tokens * config.dim * itemsize
    return held + max(6 * chunk, 2 * video + 4 * chunk)


def decode_bytes(
    vae: VideoVAEConfig, clip: ClipPlan, itemsize: int, piece_bytes: int = MAX_PIECE_BYTES
) -> int:
    """Streaming state of the decoder (4 frames a residual block, 2 an upsampler) and its working pieces."""
    width = vae.decoder_base_channels * prod(block.multiplier for block in vae.decoder_blocks)
    cells = clip.latent_height * clip.latent_width
    state = 0
    for block in vae.decoder_blocks:
        if block.kind == "res_x":
            state += 4 * block.num_layers * width * cells
        else:
            state += 2 * width * cells
            width //= block.multiplier
            cells *= block.strides[1] * block.strides[2]
    frame = max(cells * width, clip.width * clip.height * vae.channels) * itemsize
    piece = min(max(piece_bytes, frame), clip.frames * frame)
    return state * itemsize + _DECODE_PIECES * piece
