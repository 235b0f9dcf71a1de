"""The two streams of tokens: what tells video from audio, and what each brings to every block."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..config import TransformerConfig
from .adaln import Modulation
from .chunks import Chunks
from .fused import Fused
from .guided import GuideBias
from .nag import NegativeText
from .rope import Rope
from .shards import Shards, Sharing
from .texts import TextMemory


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What tells the video stream from the audio stream; ``prefix`` leads its names in the checkpoint."""

    name: str
    prefix: str
    cross_gate: str
    width: int
    head_dim: int
    in_channels: int
    out_channels: int
    ff_bias: bool


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


@dataclass(frozen=True, kw_only=True)
class StreamInputs:
    """What a stream brings to every block, unchanged from block to block.

    ``modulation`` has 6 or 9 rows, ``embedding`` (for the head) 1, ``cross`` 4 and the gate, ``prompt`` 2;
    each knows which of them scale.
    ``cross`` and ``cross_rope`` are there when both streams are. ``chunks`` bound what is computed at once
    where ``in_place`` is: the tokens are nobody else's, and no gradient goes through them. With ``shards``
    this process has a part of the stream's ``tokens``, and computes it at once.
    """

    modulation: Modulation
    embedding: Modulation
    context: Tensor
    context_bias: Tensor | None
    attention_bias: Tensor | GuideBias | None
    rope: Rope
    prompt: Modulation | None = None
    cross: Modulation | None = None
    cross_rope: Rope | None = None
    negative: NegativeText | None = None
    texts: TextMemory | None = None
    in_place: bool = False
    chunks: Chunks = field(default_factory=Chunks)
    shards: Shards | None = None
    tokens: int = 0
    fused: Fused | None = None
    enabled: bool = True

    @property
    def in_parts(self) -> bool:
        """Whether tokens may be computed in several runs."""
        return self.in_place and self.shards is None

    def sharing(self, tokens: int) -> Sharing | None:
        """What attention to ``tokens`` of all processes needs to know, where there are several."""
        return None if self.shards is None else Sharing(self.shards, (self.tokens, tokens))
