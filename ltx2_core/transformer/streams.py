"""The two streams of tokens: how video differs from audio, and what each stream takes into every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..config import TransformerConfig
from .guided import Bias
from .modulation import Modulation
from .nag import NegativeText
from .rope import Rope
from .texts import TextMemory
from .timed_texts import TimedTexts
from .tokens import PLAIN, Execution


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Names and sizes in which the video and the audio stream differ.

    ``name`` is "video" or "audio". A checkpoint has the layers of both streams side by side; the names of
    this stream's layers begin with ``prefix``. ``cross_gate`` ("a2v" or "v2a") names the attention by which
    the other stream updates this one. ``width`` is that of hidden tokens, ``head_dim`` that of an attention
    head, ``in_channels`` and ``out_channels`` those of latent tokens.
    """

    name: str
    prefix: str
    cross_gate: str
    width: int
    head_dim: int
    in_channels: int
    out_channels: int
    # The video of LTX-2.5 has none; audio always has one.
    ff_bias: bool

    def layer(self, owner: nn.Module, name: str) -> Any:
        """The layer or parameter of ``owner`` whose name is the stream's ``prefix`` followed by ``name``."""
        return getattr(owner, self.prefix + name)


def video_spec(config: TransformerConfig) -> StreamSpec:
    return StreamSpec(
        name="video",
        prefix="",
        cross_gate="a2v",
        width=config.dim,
        head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        ff_bias=config.ff_bias,
    )


def audio_spec(config: TransformerConfig) -> StreamSpec:
    return StreamSpec(
        name="audio",
        prefix="audio_",
        cross_gate="v2a",
        width=config.audio_dim,
        head_dim=config.audio_head_dim,
        in_channels=config.audio_in_channels,
        out_channels=config.audio_out_channels,
        ff_bias=config.audio_ff_bias,
    )


def stream_specs(config: TransformerConfig) -> tuple[StreamSpec, ...]:
    """The streams that a network has: video and audio, or video alone."""
    return (video_spec(config), audio_spec(config)) if config.has_audio else (video_spec(config),)


@dataclass(frozen=True, kw_only=True)
class StreamInputs:
    """What one stream takes into every block in addition to its tokens, the same for all blocks.

    ``modulation`` holds shift, scale and gate of the branches, ``head`` shift and scale of the output head,
    ``prompt`` those of the text (None where text is not modulated), ``cross`` those of attention between the
    streams. ``context`` (B, S, W) is the text, ``context_bias`` and ``attention_bias`` are added to the
    logits of attention to text and within the stream (None: nothing). ``rope`` and ``cross_rope`` rotate
    self-attention and attention between the streams; ``cross`` and ``cross_rope`` are None unless there are
    both streams. ``negative`` is a negative text for normalized attention guidance, ``timed`` are several
    texts by time in place of ``context``; both are None without. ``texts`` caches keys and values of the
    text. A stream that is not ``enabled`` is attended to by the other one but not updated. ``execution`` says
    how branches are computed.
    """

    spec: StreamSpec
    modulation: Modulation
    head: Modulation
    prompt: Modulation | None
    cross: Modulation | None
    context: Tensor
    context_bias: Tensor | None
    attention_bias: Bias
    rope: Rope
    cross_rope: Rope | None
    negative: NegativeText | None
    timed: TimedTexts | None
    texts: TextMemory
    enabled: bool
    execution: Execution = PLAIN


BothInputs = tuple[StreamInputs | None, StreamInputs | None]
Hidden = tuple[Tensor | None, Tensor | None]
"""Video and audio (B, N, W) between two blocks."""
