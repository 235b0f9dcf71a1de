"""Initial biases with which cross-modal attention starts near the time of its query.

With random weights cross-modal attention starts uniform over time. Knocks are short and rare, so the gain
from attending nearer is lost in the noise of the gradients. Constant queries and keys, rotated against each
other, give a head an offset in time that does not depend on its tokens, from which training then proceeds.
"""

from __future__ import annotations

import math

import torch

from ..transformer import Transformer
from ..transformer.layers import Attention
from ..transformer.rope import frequency_grid

_STRENGTH = 2.0
"""Magnitude of the constant queries and keys; those from tokens have a standard deviation of 1."""

# Audio latents are 0.04 s apart, and eight of them overlap a video latent, from 0.13 s before to 0.15 s after
# its centre. Frequencies of RoPE grow with the number of the head: those of head 2 resolve video latents,
# those of head 5 audio latents.
_AUDIO_TO_VIDEO = (
    {3: -0.05, 4: -0.13, 5: -0.09, 6: -0.01, 7: 0.07},
    {3: 0.03, 4: 0.11, 5: -0.05, 6: 0.03, 7: 0.15},
)
_VIDEO_TO_AUDIO = ({2: -0.3, 3: -0.08, 4: 0.05}, {2: 0.3, 3: 0.08, 4: -0.07})
"""Seconds from the query to the keys that a head attends to, by head; blocks alternate between the two
tables."""


@torch.no_grad()
def attend_near_in_time(transformer: Transformer) -> None:
    """Set the query and key biases of some heads of cross-modal attention, in place.

    Each of these heads then attends most to tokens at a fixed offset in time from the query. Heads that the
    configuration does not have are skipped.
    """
    for index, block in enumerate(transformer.transformer_blocks):
        for name, offsets in (
            ("audio_to_video_attn", _AUDIO_TO_VIDEO),
            ("video_to_audio_attn", _VIDEO_TO_AUDIO),
        ):
            attention = block.get_submodule(name)
            assert isinstance(attention, Attention)
            for head, seconds in offsets[index % 2].items():
                if head < attention.heads:
                    _set_offset(attention, transformer, head, seconds)


def _set_offset(attention: Attention, transformer: Transformer, head: int, seconds: float) -> None:
    """Set the biases of head ``head`` so that a query matches best the key that is ``seconds`` later.

    ``attention`` is one between the streams of ``transformer``; ``seconds`` may be negative, for earlier
    keys.
    """
    config = transformer.config
    query, key = attention.to_q.bias, attention.to_k.bias
    width = len(query)
    grid = frequency_grid(config.rope, width, 1)
    span = max(config.max_pos[0], config.audio_max_pos)
    pairs = width // attention.heads // 2
    for pair in range(pairs):
        number = head * pairs + pair - (width // 2 - len(grid))
        # The first pairs have no frequency and are not rotated, so they cannot hold an offset.
        if number < 0:
            continue
        # Positions are scaled to [-1, 1] over the span before they are rotated.
        angle = -float(grid[number]) * 2 * seconds / span
        step = (pair, pair + pairs) if config.rope.rope_type == "split" else (2 * pair, 2 * pair + 1)
        first, second = (head * 2 * pairs + place for place in step)
        query[first], query[second] = _STRENGTH, 0
        key[first], key[second] = _STRENGTH * math.cos(angle), _STRENGTH * math.sin(angle)
