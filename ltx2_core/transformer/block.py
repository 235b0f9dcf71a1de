"""One transformer block: two streams that attend to themselves, to the text and to each other.

Letters: B batch, N tokens, S text tokens, W stream width, R modulation rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from .adaln import Modulation
from .guided import GuideBias
from .layers import Attention, FeedForward, rms_norm
from .nag import NegativeText
from .perturbations import KEEP_ALL, BlockKeep, Keep
from .rope import Rope


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

    ``modulation`` has 6 or 9 rows, ``embedding`` (for the head) 1, ``cross`` 4, ``cross_gate`` 1 and
    ``prompt`` 2. ``cross``, ``cross_gate`` and ``cross_rope`` are there when both streams are.
    """

    modulation: Modulation
    embedding: Modulation
    context: Tensor
    context_bias: Tensor | None
    attention_bias: Tensor | GuideBias | None
    rope: Rope
    prompt: Modulation | None = None
    cross: Modulation | None = None
    cross_gate: Modulation | None = None
    cross_rope: Rope | None = None
    negative: NegativeText | None = None
    enabled: bool = True


class TransformerBlock(nn.Module):
    """Self-attention and text attention a stream, attention between the streams, feed-forward a stream."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.config = config
        layer: dict[str, Any] = {"dtype": dtype, "device": device, "operations": operations}
        attention: dict[str, Any] = {
            "heads": config.heads,
            "gated": config.gated_attention,
            "qk_norm_eps": config.qk_norm_eps,
            **layer,
        }
        for spec in (video_spec(config), audio_spec(config)):
            width, prefix = spec.width, spec.prefix

            def table(rows: int, width: int = width) -> nn.Parameter:
                return nn.Parameter(torch.empty(rows, width, dtype=dtype, device=device))

            self.add_module(f"{prefix}attn1", Attention(width, width, head_dim=spec.head_dim, **attention))
            self.add_module(f"{prefix}attn2", Attention(width, width, head_dim=spec.head_dim, **attention))
            self.add_module(f"{prefix}ff", FeedForward(width, bias=spec.ff_bias, **layer))
            self.register_parameter(f"{prefix}scale_shift_table", table(config.modulation_rows))
            self.register_parameter(f"scale_shift_table_a2v_ca_{spec.name}", table(5))
            if config.cross_attention_adaln:
                self.register_parameter(f"{prefix}prompt_scale_shift_table", table(2))
        cross = {"head_dim": config.audio_head_dim, **attention}
        self.audio_to_video_attn = Attention(config.dim, config.audio_dim, **cross)
        self.video_to_audio_attn = Attention(config.audio_dim, config.dim, **cross)

    def forward(
        self,
        x: Tensor | None,
        y: Tensor | None,
        video: StreamInputs | None,
        audio: StreamInputs | None,
        keep: BlockKeep = KEEP_ALL,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Video x (B, Nv, Wv) and audio y (B, Na, Wa) -> the same; an absent stream is None twice."""
        v = None if x is None or video is None else BlockStream(self, video_spec(self.config), video, x)
        a = None if y is None or audio is None else BlockStream(self, audio_spec(self.config), audio, y)
        if v is not None:
            v.attend(keep.video_self_attention)
        if a is not None:
            a.attend(keep.audio_self_attention)
        if v is not None and a is not None:
            # Both sides look at the other as it was before either was updated.
            x_norm, y_norm = rms_norm(v.x, self.config.norm_eps), rms_norm(a.x, self.config.norm_eps)
            v.attend_other(self.audio_to_video_attn, x_norm, a, y_norm, row=0, keep=keep.a2v)
            a.attend_other(self.video_to_audio_attn, y_norm, v, x_norm, row=2, keep=keep.v2a)
        for stream in (v, a):
            if stream is not None:
                stream.feed_forward()
        return None if v is None else v.x, None if a is None else a.x


class BlockStream:
    """One stream on its way through one block.

    The checkpoint keeps both streams of a block in one flat namespace, so this reads a stream's parts through
    their prefix instead of owning them. Main tables hold shift, scale, gate;
    the cross-modal ones scale, shift.
    """

    def __init__(self, block: TransformerBlock, spec: StreamSpec, inputs: StreamInputs, x: Tensor) -> None:
        self.block, self.spec, self.inputs, self.x = block, spec, inputs, x
        self.modulation = inputs.modulation.plus(self._table(f"{spec.prefix}scale_shift_table"))

    def attend(self, keep: Keep) -> None:
        """Attention to the stream itself, then to the text."""
        if not self.inputs.enabled:
            return
        m, inputs = self.modulation, self.inputs
        hidden = m.modulate(self._norm(), shift=0, scale=1)
        update = self._attention("attn1")(hidden, rope=inputs.rope, bias=inputs.attention_bias, keep=keep)
        self.x = m.gate(self.x, update, row=2)

        if not self.block.config.cross_attention_adaln:
            self.x = self.x + self._read_text(self._norm(), None)
            return
        hidden = m.modulate(self._norm(), shift=6, scale=7)
        self.x = m.gate(self.x, self._read_text(hidden, self._prompt_modulation()), row=8)

    def _read_text(self, hidden: Tensor, prompt: Modulation | None) -> Tensor:
        """What the text adds to tokens (B, N, W), led away from the negative text where there is one."""
        inputs = self.inputs

        def read(context: Tensor, bias: Tensor | None) -> Tensor:
            context = context if prompt is None else prompt.modulate(context, shift=0, scale=1)
            update: Tensor = self._attention("attn2")(hidden, context, bias=bias)
            return update

        update = read(inputs.context, inputs.context_bias)
        if inputs.negative is None:
            return update
        return inputs.negative.guide(update, read(inputs.negative.context, None))

    def attend_other(
        self,
        attention: Attention,
        norm: Tensor,
        other: BlockStream,
        other_norm: Tensor,
        *,
        row: int,
        keep: Keep,
    ) -> None:
        """Attention to the other stream; the direction's scale and shift are at ``row`` of both tables."""
        if not self.inputs.enabled or (keep is not None and not any(keep)):
            return
        hidden = self._cross_modulation().modulate(norm, scale=row, shift=row + 1)
        context = other._cross_modulation().modulate(other_norm, scale=row, shift=row + 1)
        update = attention(hidden, context, rope=self.inputs.cross_rope, context_rope=other.inputs.cross_rope)
        if keep is not None:
            update = update * torch.tensor(keep, dtype=update.dtype, device=update.device)[:, None, None]
        assert self.inputs.cross_gate is not None
        gate = self.inputs.cross_gate.plus(self._cross_table()[4:])
        self.x = gate.gate(self.x, update, row=0)

    def feed_forward(self) -> None:
        if not self.inputs.enabled:
            return
        hidden = self.modulation.modulate(self._norm(), shift=3, scale=4)
        update: Tensor = self._part("ff")(hidden)
        self.x = self.modulation.gate(self.x, update, row=5)

    def _norm(self) -> Tensor:
        return rms_norm(self.x, self.block.config.norm_eps)

    def _prompt_modulation(self) -> Modulation:
        table = self._table(f"{self.spec.prefix}prompt_scale_shift_table")
        return (
            Modulation(table.unsqueeze(1)) if self.inputs.prompt is None else self.inputs.prompt.plus(table)
        )

    def _cross_modulation(self) -> Modulation:
        assert self.inputs.cross is not None
        return self.inputs.cross.plus(self._cross_table()[:4])

    def _cross_table(self) -> Tensor:
        return self._table(f"scale_shift_table_a2v_ca_{self.spec.name}")

    def _attention(self, name: str) -> Attention:
        module: Attention = self._part(name)
        return module

    def _part(self, name: str) -> Any:
        return getattr(self.block, self.spec.prefix + name)

    def _table(self, name: str) -> Tensor:
        table: Tensor = getattr(self.block, name)
        return table.to(device=self.x.device, dtype=self.x.dtype)
