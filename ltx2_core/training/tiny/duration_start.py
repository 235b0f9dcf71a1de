"""Initial weights with which a duration head attends to the words that name a length.

A context has a thousand tokens, of which one or two say how long the clip lasts. From uniform attention the
gain of attending to these is lost in the noise of the gradients. So the first layers are fitted: linear
maps of the context tell which number a token stands for, and the attention picks the tokens that are one.

Letters: N tokens, K width of the context, W words that name a length; the last one is "half".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...text.duration import DurationHead

_SHARPNESS = 60.0
"""Query of the heads: so large that a word that names a length outweighs a thousand other tokens."""
_RIDGE = 1e-4
"""Ridge penalty, relative to the mean power of the contexts."""


@dataclass(frozen=True)
class NamedLengths:
    """Context tokens of example captions: ``video`` (N, K) and ``audio`` (N, K'), each with its own width.

    ``words`` (N, W) is 1 where a token is that of a word.
    """

    video: Tensor
    audio: Tensor
    words: Tensor


@torch.no_grad()
def start_at_words(head: DurationHead, examples: NamedLengths) -> None:
    """Set the layers of ``head`` up to the pooled text, in place, so that it reads the words of ``examples``.

    The first W channels of the head's input projections then say which word a token is, and the next one
    whether it is a number. Two attention heads look for numbers, one for "half". Raises ValueError if the
    head is too narrow.
    """
    attention = head.attention_pooler.cross_attn
    numbers, width = examples.words.shape[1] - 1, attention.head_dim
    channels = numbers + 2
    if attention.embed_dim < channels or attention.num_heads < 3 or 2 * width < numbers:
        raise ValueError(
            f"pooler_hidden_dim={attention.embed_dim} and num_pooler_heads={attention.num_heads} have no "
            f"room for {channels} channels and three heads, two of which hold {numbers} numbers"
        )
    number = examples.words[:, :numbers].sum(dim=1, keepdim=True)
    wanted = torch.cat((examples.words, number), dim=1)
    for layer, tokens in ((head.video_input_proj, examples.video), (head.audio_input_proj, examples.audio)):
        weight, bias = _balanced_ridge(tokens, wanted)
        for parameter, value in ((layer.weight, weight), (layer.bias, bias)):
            parameter.zero_()
            parameter[: len(value)] = value
    # Where to look: the number channel for the first two heads, "half" for the third.
    _look(
        attention, ((channels - 1, range(width)), (channels - 1, range(width, numbers)), (numbers, [numbers]))
    )


def _look(attention: nn.MultiheadAttention, heads: tuple[tuple[int, object], ...]) -> None:
    """Set the weights of ``attention`` so that its first heads find and return some channels, in place.

    ``heads`` has a pair for each of them: the channel whose high value marks the tokens to attend to, and the
    channels of these tokens to return. All other heads return zero.
    """
    assert attention.in_proj_weight is not None
    assert attention.in_proj_bias is not None
    width = attention.head_dim
    attention.in_proj_weight.mul_(0.3)
    query, key, value = attention.in_proj_weight.chunk(3)
    # A head that looks for nothing would return a mean of all tokens, which depends on how many there are.
    value.zero_()
    for head, (found_by, returned) in enumerate(heads):
        first = head * width
        query[first] = key[first] = 0
        key[first, found_by] = 1
        attention.in_proj_bias[first] = _SHARPNESS
        for row, channel in enumerate(returned):  # type: ignore[arg-type, var-annotated]
            value[first + row, channel] = 1


def _balanced_ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Fit ``y`` (N, outputs) from ``x`` (N, K); returns weights (outputs, K) and biases (outputs,).

    The tokens that are words of a length weigh as much together as all others.
    """
    named = (y.sum(dim=1) > 0).float()
    share = named.mean().clamp(1e-6, 1 - 1e-6)
    weights = torch.where(named > 0, 0.5 / share, 0.5 / (1 - share))[:, None]
    centre, mean = (x * weights).mean(dim=0), (y * weights).mean(dim=0)
    gram = ((x - centre) * weights).mT @ (x - centre)
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    solution = torch.linalg.solve(gram, ((x - centre) * weights).mT @ (y - mean))
    return solution.mT, mean - centre @ solution
