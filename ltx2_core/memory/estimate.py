"""Predicted peak memory of a run, stage by stage, from the shapes of networks and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config import TransformerConfig, VideoVAEConfig
from ..shapes import ClipPlan
from .decoder_memory import DecoderMemory
from .decoding import decoder_memory
from .text_stage import TextSize, text_bytes


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one stage of a run; ``stage`` is its name ("text", "stage 1", "decode").

    ``weights`` are on the device during the whole stage, ``activations`` are the most alive at once.
    """

    stage: str
    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def estimate_memory(  # noqa: PLR0913 the sizes of four networks, none of which has a default
    *,
    text_weights: int,
    transformer_weights: int,
    decoder_weights: int,
    transformer: TransformerConfig,
    vae: VideoVAEConfig,
    clips: Sequence[ClipPlan],
    dtype: torch.dtype,
    connector_weights: int = 0,
    text: TextSize | None = None,
    finished: ClipPlan | None = None,
    decode_dtype: torch.dtype | None = None,
) -> tuple[MemoryEstimate, ...]:
    """The memory of each stage of a run with a batch of one: text, sampling of each clip, decoding.

    The ``*_weights`` are bytes; those of the connectors are part of ``text_weights``. ``clips`` has one entry
    for each sampling stage; ``finished`` is the clip that is decoded, None the last of them. Without ``text``
    the activations of text encoding count 0. ``decode_dtype`` is the number format in which the video is
    decoded, None for ``dtype``. Only one network is assumed to be loaded at a time, so the peak of the run is
    the largest entry. An estimate, not a bound: attention is assumed to be fused, and allocators round up.
    """
    itemsize = dtype.itemsize
    encoder, connectors = (0, 0) if text is None else text_bytes(text, itemsize)
    reading = MemoryEstimate(stage="text", weights=text_weights - connector_weights, activations=encoder)
    connecting = MemoryEstimate(stage="text", weights=connector_weights, activations=connectors)
    # The encoder is freed before the connectors run, so that the larger of both counts.
    stages = [max(reading, connecting, key=lambda stage: stage.total)]
    for index, clip in enumerate(clips, start=1):
        stages.append(
            MemoryEstimate(
                stage=f"stage {index}",
                weights=transformer_weights,
                activations=step_bytes(transformer, clip, itemsize),
            )
        )
    stages.append(
        MemoryEstimate(
            stage="decode",
            weights=decoder_weights,
            # Only the result of the last stage is decoded.
            activations=decoding(vae, finished or clips[-1], (decode_dtype or dtype).itemsize).peak,
        )
    )
    return tuple(stages)


def step_bytes(
    config: TransformerConfig,
    clip: ClipPlan,
    itemsize: int,
    *,
    chunk_tokens: int | None = None,
    parts: int = 1,
) -> int:
    """Bytes of activations of one forward pass of the transformer on a batch of one.

    Within 10 % of what the memory tracer ``Trace`` counts at real sizes. ``itemsize`` is the bytes of one
    activation. With ``chunk_tokens`` the branches of a block process that many video tokens at a time; None
    is all. The sum has the tokens of both streams, two rotary tables for each, and the larger of two numbers:
    the feed-forward (input, four hidden widths and output of its chunk) or chunked self-attention (keys and
    values of all video tokens, four widths of the chunk). If ``parts`` processes divide the tokens, the bytes
    are those of each: whole tables, and of its part of the video tokens nine widths, without chunks.
    """
    # The factors below are counted with ``Trace`` on the meta device; tests compare both.
    video = clip.video_tokens * config.dim * itemsize
    audio = clip.audio_tokens * config.audio_dim * itemsize
    tables = video + clip.video_tokens * config.audio_dim * itemsize
    if parts > 1:
        return tables + 3 * audio + 9 * video // parts
    held = video + tables + 3 * audio
    if chunk_tokens is None or chunk_tokens >= clip.video_tokens:
        return held + 6 * video
    chunk = chunk_tokens * config.dim * itemsize
    return held + max(6 * chunk, 2 * video + 4 * chunk)


def decoding(
    vae: VideoVAEConfig, clip: ClipPlan, itemsize: int, piece_bytes: int | None = None
) -> DecoderMemory:
    """Working memory for decoding ``clip`` in whole frames.

    Within 10 % of what the memory tracer ``Trace`` counts. ``itemsize`` is the bytes of one value,
    ``piece_bytes`` the decoder's ``max_piece_bytes``, by which it divides the clip in time.
    """
    return decoder_memory(
        vae,
        latent_frames=clip.latent_frames,
        cells=(clip.latent_height, clip.latent_width),
        itemsize=itemsize,
        piece_bytes=piece_bytes,
    )
