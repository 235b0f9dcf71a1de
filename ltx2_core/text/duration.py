"""The duration head of LTX-2.5, a small network: how many seconds a clip of a prompt should last.

Letters: B batch, S text tokens, W width of the pooler, Q queries.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import DurationHeadConfig
from ..shapes import TEMPORAL_SCALE, frames_of, latent_frames_of
from ..types import LayerOptions, TextContext

MIN_SECONDS, MAX_SECONDS = 1.0, 20.0
"""Seconds of the shortest and of the longest clip that is chosen, as in the official pipelines."""


class DurationHead(nn.Module):
    """Predicts how many seconds a clip lasts from the encoded text that the transformer attends to.

    Learned queries attend to all text tokens; a small MLP computes the seconds from what they find.
    Parameters have the names of released files, without the prefix ``duration_head.``.
    """

    def __init__(
        self,
        config: DurationHeadConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        layer: LayerOptions = {"dtype": dtype, "device": device}
        width = config.hidden
        self.video_input_proj = operations.Linear(config.video_dim, width, **layer)
        self.video_modality_emb = nn.Parameter(torch.empty(width, **layer))
        self.audio_input_proj = operations.Linear(config.audio_dim, width, **layer)
        self.audio_modality_emb = nn.Parameter(torch.empty(width, **layer))
        self.attention_pooler = AttentionPooler(width, config.queries, config.heads, **layer)
        self.mlp_hidden = operations.Linear(width * config.queries, config.mlp, **layer)
        self.mlp_out = operations.Linear(config.mlp, 1, **layer)

    def forward(self, video: Tensor | None, audio: Tensor | None) -> Tensor:
        """Predict for each of B prompts how many seconds a clip should last: (B,), above 0.

        ``video`` (B, S, Kv) and ``audio`` (B, S, Ka) are the prompts as encoded for each stream, S tokens of
        width Kv and Ka. One of the two may be None; it is then left out.
        """
        parts = [
            project(text) + kind
            for text, project, kind in (
                (video, self.video_input_proj, self.video_modality_emb),
                (audio, self.audio_input_proj, self.audio_modality_emb),
            )
            if text is not None
        ]
        pooled = self.attention_pooler(torch.cat(parts, dim=1)).flatten(1)
        log_seconds: Tensor = self.mlp_out(F.gelu(self.mlp_hidden(pooled), approximate="tanh"))
        # The head was trained on logarithms, in which an error is relative.
        return log_seconds.squeeze(-1).exp()

    def seconds(self, context: TextContext) -> float:
        """Predict how many seconds a clip of the one encoded prompt in ``context`` should last.

        Raises ValueError for several prompts, for text of another width than that of this head's model, and
        for weights that give 0, infinity or no number.
        """
        if len(context.video) != 1:
            raise ValueError(f"a duration is predicted for one prompt; got {len(context.video)}")
        widths = self.video_input_proj.in_features, self.audio_input_proj.in_features
        if (context.video.shape[2], context.audio.shape[2]) != widths:
            raise ValueError(
                f"the duration head takes texts of width {widths[0]} and {widths[1]} and this model has "
                f"{context.video.shape[2]} and {context.audio.shape[2]}: use the one of the same release"
            )
        # In float32: ten megabytes of weights, and a length that must not depend on the number format.
        seconds = float(self(context.video.float(), context.audio.float()))
        if not 0 < seconds < math.inf:
            raise ValueError(
                f"the duration head predicts {seconds} seconds: its file is damaged, get it again"
            )
        return seconds


class AttentionPooler(nn.Module):
    """Attention of Q learned queries to all tokens of a text: (B, S, W) -> (B, Q, W).

    B prompts of S tokens of width W.
    """

    def __init__(self, width: int, queries: int, heads: int, **layer: Any) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.empty(queries, width, **layer))
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True, **layer)

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.query_tokens.expand(len(tokens), -1, -1)
        pooled: Tensor = self.cross_attn(queries, tokens, tokens, need_weights=False)[0]
        return pooled


def frames_for(
    seconds: float, fps: float, *, shortest_s: float = MIN_SECONDS, longest_s: float = MAX_SECONDS
) -> int:
    """The number of frames, 8k + 1, of a clip of about ``seconds`` at ``fps`` frames a second.

    The clip lasts at least ``shortest_s`` and at most ``longest_s`` seconds. The number is rounded down to 8k
    + 1, or up where the clip would be too short. Where no 8k + 1 is within both bounds, the result is the
    number of frames of ``longest_s``, as in the official pipelines.
    """
    lowest, highest = round(shortest_s * fps), round(longest_s * fps)
    frames = min(max(round(seconds * fps), lowest), highest)
    frames = frames_of(latent_frames_of(frames))
    return min(frames + TEMPORAL_SCALE, highest) if frames < lowest else frames
