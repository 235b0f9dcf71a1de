"""Cross-modal attention of a new network attends near the time of the query."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.config import transformer_config
from ltx2_core.training.timing import attend_near_in_time
from ltx2_core.training.tiny.scales import full_scale
from ltx2_core.transformer import Transformer

FRAMES, AUDIO_LATENTS = 7, 49
"""Latents of a clip of two seconds."""


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    return Transformer(transformer_config(full_scale().config)).requires_grad_(False)


def attended_times(transformer: Transformer, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Times of the queries (N,), and the mean times that each head attends to (H, N), over random tokens."""
    video, audio = video_positions(FRAMES, 1, 1, 25.0), audio_positions(AUDIO_LATENTS)
    tables = transformer.rope_tables(video, audio)
    times = {"video": video[0, 0].mean(dim=-1), "audio": audio[0, 0].mean(dim=-1)}
    query, source = ("video", "audio") if name == "audio_to_video_attn" else ("audio", "video")
    ropes = {"video": tables.video_cross, "audio": tables.audio_cross}
    attention = transformer.transformer_blocks[0].get_submodule(name)
    attention.to_out, attention.to_gate_logits = nn.Identity(), None
    widths = {"video": transformer.config.dim, "audio": transformer.config.audio_dim}
    tokens = {key: torch.randn(64, len(times[key]), widths[key]) for key in times}
    keys = attention.keys(tokens[source], ropes[source])
    values = times[source][None, None, :, None].expand(64, attention.heads, -1, 1)
    out = attention.attend(tokens[query], keys, values, rope=ropes[query])
    return times[query], out.mean(dim=0).mT


@pytest.mark.parametrize(
    ("name", "heads"), [("audio_to_video_attn", (3, 4, 5)), ("video_to_audio_attn", (2, 3))]
)
def test_heads_attend_near_the_time_of_the_query(transformer: Transformer, name: str, heads: tuple[int, ...]):
    def follows(head: int) -> float:
        """Slope of the attended time over the time of the query: 0 for uniform attention."""
        times, attended = attended_times(transformer, name)
        inner = (times > 0.4) & (times < 1.6)
        x, y = times[inner] - times[inner].mean(), attended[head, inner] - attended[head, inner].mean()
        return float((x * y).sum() / x.square().sum())

    before = [follows(head) for head in heads]
    attend_near_in_time(transformer)
    after = [follows(head) for head in heads]
    assert max(map(abs, before)) < 0.1, (before, after)
    assert min(after) > 0.3, (before, after)
