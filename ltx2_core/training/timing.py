"""Attention between sound and picture that begins near its own time.

From random weights it begins uniform, and knocks are few and short: what a head that looks everywhere could
gain by looking nearer is lost in the noise of all the rest. With constant queries and keys, rotated apart, a
head starts at an offset in time, whatever its tokens hold, and training goes on from there.
"""

from __future__ import annotations

import math

import torch

from ..transformer import Transformer
from ..transformer.layers import Attention
from ..transformer.rope import frequency_grid

_STRENGTH = 2.0
"""Of the constant parts; contents have a deviation of 1."""

# Audio latents lie 0.04 s apart, eight on a video latent, from 0.13 s before to 0.15 s after its middle. The
# frequencies of a head grow with its number: those of 2 tell video latents apart, those of 5 audio latents.
_HEARD = (
    {3: -0.05, 4: -0.13, 5: -0.09, 6: -0.01, 7: 0.07},
    {3: 0.03, 4: 0.11, 5: -0.05, 6: 0.03, 7: 0.15},
)
_SEEN = ({2: -0.3, 3: -0.08, 4: 0.05}, {2: 0.3, 3: 0.08, 4: -0.07})
"""Seconds from the query to what each head looks at: by turns, block after block."""


@torch.no_grad()
def attend_near_in_time(transformer: Transformer) -> None:
    """Let some heads of the attention from video to audio and back begin at offsets in time.

    Only biases of queries and keys are set. Heads beyond those of the configuration are left out.
    """
    for index, block in enumerate(transformer.transformer_blocks):
        for name, offsets in (("audio_to_video_attn", _HEARD), ("video_to_audio_attn", _SEEN)):
            attention = block.get_submodule(name)
            assert isinstance(attention, Attention)
            for head, seconds in offsets[index % 2].items():
                if head < attention.heads:
                    _look(attention, transformer, head, seconds)


def _look(attention: Attention, transformer: Transformer, head: int, seconds: float) -> None:
    """Constant parts of a head that turn into each other at ``seconds`` after the query."""
    config = transformer.config
    query, key = attention.to_q.bias, attention.to_k.bias
    width = len(query)
    grid = frequency_grid(config.rope, width, 1)
    span = max(config.max_pos[0], config.audio_max_pos)
    pairs = width // attention.heads // 2
    for pair in range(pairs):
        number = head * pairs + pair - (width // 2 - len(grid))
        if number < 0:
            continue
        angle = -float(grid[number]) * 2 * seconds / span
        step = (pair, pair + pairs) if config.rope.rope_type == "split" else (2 * pair, 2 * pair + 1)
        first, second = (head * 2 * pairs + place for place in step)
        query[first], query[second] = _STRENGTH, 0
        key[first], key[second] = _STRENGTH * math.cos(angle), _STRENGTH * math.sin(angle)
