"""One transformer block: two streams that attend to themselves, to the text and to each other.

Letters: B batch, N tokens, S text tokens, W stream width, R modulation rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from .adaln import Modulation, Rows
from .chunks import Step
from .guided import GuideBias
from .layers import Attention, Bias, FeedForward, rms_norm
from .perturbations import KEEP_ALL, BlockKeep, Keep
from .rope import Rope
from .streams import StreamInputs, StreamSpec, audio_spec, video_spec
from .texts import KeysValues


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
        """Video x (B, Nv, Wv) and audio y (B, Na, Wa) -> the same; an absent stream is None twice.

        Where the inputs say ``in_place``, x and y are written into.
        """
        v = None if x is None or video is None else BlockStream(self, video_spec(self.config), video, x)
        a = None if y is None or audio is None else BlockStream(self, audio_spec(self.config), audio, y)
        # From here on the streams alone hold them, and let go of them when they have new ones.
        del x, y
        if v is not None:
            v.attend(keep.video_self_attention)
        if a is not None:
            a.attend(keep.audio_self_attention)
        if v is not None and a is not None:
            # Both sides look at the other as it was before either was updated.
            sound = a.show(self.audio_to_video_attn, row=0) if v.wants(keep.a2v) else None
            sight = v.show(self.video_to_audio_attn, row=2) if a.wants(keep.v2a) else None
            if sound is not None:
                v.attend_other(self.audio_to_video_attn, *sound, row=0, keep=keep.a2v, tokens=a.inputs.tokens)
            if sight is not None:
                a.attend_other(self.video_to_audio_attn, *sight, row=2, keep=keep.v2a, tokens=v.inputs.tokens)
            del sound, sight
        for stream in (v, a):
            if stream is not None:
                stream.feed_forward()
        return None if v is None else v.settled(), None if a is None else a.settled()


class BlockStream:
    """One stream on its way through one block.

    The checkpoint keeps both streams of a block in one flat namespace, so this reads a stream's parts through
    their prefix instead of owning them. Main tables hold shift, scale, gate; the cross-modal ones scale,
    shift. All but keys and values of the whole stream is computed in ``chunks`` of tokens; what a chunk adds
    to ``x`` is written last, so that one without room can be computed again in halves. Where kernels are
    fused, what a branch adds ``waits`` as (update, gate) for the next one to read the stream.
    """

    def __init__(self, block: TransformerBlock, spec: StreamSpec, inputs: StreamInputs, x: Tensor) -> None:
        self.block, self.spec, self.inputs, self.x = block, spec, inputs, x
        self.waits: tuple[Tensor, Tensor] | None = None
        self.rows = inputs.modulation.plus(self._table(f"{spec.prefix}scale_shift_table"))
        self.cross_rows: Rows | None = None
        if inputs.cross is not None:
            table = self._table(f"scale_shift_table_a2v_ca_{spec.name}")
            self.cross_rows = inputs.cross.plus(table)

    def attend(self, keep: Keep) -> None:
        """Attention to the stream itself, then to the text."""
        if self.inputs.enabled:
            self._attend_self(keep)
            self._attend_text()

    def wants(self, keep: Keep) -> bool:
        """Whether the stream takes anything from the other one."""
        return self.inputs.enabled and (keep is None or any(keep))

    def show(self, attention: Attention, *, row: int) -> KeysValues:
        """Keys and values for the other stream; the direction's scale and shift are at ``row``."""
        return self._keys_values(attention, lambda part: self._cross(part, row), self.inputs.cross_rope)

    def attend_other(
        self, attention: Attention, keys: Tensor, values: Tensor, *, row: int, keep: Keep, tokens: int
    ) -> None:
        """Attention to what the other stream shows of its ``tokens``."""
        table = self.cross_rows
        assert table is not None

        def step(part: slice | None) -> None:
            rope = _rope(self.inputs.cross_rope, part)
            update = attention.attend(
                self._cross(part, row), keys, values, rope=rope, sharing=self.inputs.sharing(tokens)
            )
            if keep is not None:
                update = update * torch.tensor(keep, dtype=update.dtype, device=update.device)[:, None, None]
            self._gate(table, update, part, row=4)

        self._each(step)

    def feed_forward(self) -> None:
        def step(part: slice | None) -> None:
            update = self._part("ff")(self._main(part, shift=3, scale=4))
            self._gate(self.rows, update, part, row=5)

        if self.inputs.enabled:
            self._each(step)

    def _attend_self(self, keep: Keep) -> None:
        attention, inputs = self._attention("attn1"), self.inputs

        def whole(part: slice | None) -> None:
            hidden = self._main(None, shift=0, scale=1)
            update = attention(
                hidden,
                rope=inputs.rope,
                bias=inputs.attention_bias,
                keep=keep,
                sharing=inputs.sharing(inputs.tokens),
            )
            del hidden
            self._gate(self.rows, update, None, row=2)

        # The weights of guides are laid out for all queries at once.
        if isinstance(inputs.attention_bias, GuideBias) or not inputs.in_parts:
            whole(None)
            return
        if inputs.chunks.whole(self.x.shape[1], whole):
            return
        keys, values = self._keys_values(
            attention, lambda part: self._main(part, shift=0, scale=1), inputs.rope
        )

        def step(part: slice | None) -> None:
            update = attention.attend(
                self._main(part, shift=0, scale=1),
                keys if keep is None or any(keep) else None,
                values,
                rope=_rope(inputs.rope, part),
                bias=_queries(inputs.attention_bias, part),
                keep=keep,
                own=values if part is None else values[:, :, part],
            )
            self._gate(self.rows, update, part, row=2)

        self._each(step)

    def _attend_text(self) -> None:
        attention, inputs = self._attention("attn2"), self.inputs
        adaptive = self.block.config.cross_attention_adaln
        positive = self._text(attention, inputs.context)
        negative = None if inputs.negative is None else self._text(attention, inputs.negative.context)

        def step(part: slice | None) -> None:
            hidden = self._main(part, shift=6, scale=7) if adaptive else self._norm(part)
            update = attention.attend(hidden, *positive, bias=inputs.context_bias)
            if inputs.negative is not None and negative is not None:
                update = inputs.negative.guide(update, attention.attend(hidden, *negative))
            del hidden
            if adaptive:
                self._gate(self.rows, update, part, row=8)
            else:
                self._add(update, part)

        self._each(step)

    def _text(self, attention: Attention, context: Tensor) -> KeysValues:
        """Keys and values of a text, from ``inputs.texts`` where they do not depend on the noise level."""
        inputs = self.inputs

        def compute() -> KeysValues:
            source = context
            if self.block.config.cross_attention_adaln:
                table = self._table(f"{self.spec.prefix}prompt_scale_shift_table")
                if inputs.prompt is None:
                    rows = Modulation.of_samples(table.new_zeros(1, 1, 1)).plus(table, scales=slice(1, None))
                else:
                    rows = inputs.prompt.plus(table)
                source = rows.modulate(context, shift=0, scale=1)
            return attention.keys_values(source, None)

        if inputs.texts is None or inputs.prompt is not None:
            return compute()
        return inputs.texts.keys_values(attention, context, compute)

    def _keys_values(
        self, attention: Attention, hidden: Callable[[slice | None], Tensor], rope: Rope | None
    ) -> KeysValues:
        """Keys and values of all tokens, whose ``hidden`` inputs exist a part at a time."""
        whole: list[Tensor] = []

        def step(part: slice | None) -> None:
            source = hidden(part)
            pieces = list(attention.keys_values(source, _rope(rope, part)))
            del source
            if part is None:
                whole[:] = pieces
                return
            if not whole:
                whole[:] = [_room(piece, self.x.shape[1]) for piece in pieces]
            for room, piece in zip(whole, pieces, strict=True):
                room[:, :, part] = piece

        self._each(step)
        return whole[0], whole[1]

    def _each(self, step: Step) -> None:
        """Call ``step`` for runs of tokens, or once for all of them."""
        if self.inputs.in_parts:
            self.inputs.chunks.each(self.x.shape[1], step)
        else:
            step(None)

    def settled(self) -> Tensor:
        """``x``, to which nothing waits to be added."""
        if self.waits is not None:
            self.x.addcmul_(*self.waits)
            self.waits = None
        return self.x

    def _tokens(self, part: slice | None) -> Tensor:
        x = self.settled()
        return x if part is None else x[:, part]

    def _norm(self, part: slice | None) -> Tensor:
        return rms_norm(self._tokens(part), self.block.config.norm_eps)

    def _main(self, part: slice | None, *, shift: int, scale: int) -> Tensor:
        return self._modulate(self.rows, part, shift=shift, scale=scale)

    def _cross(self, part: slice | None, row: int) -> Tensor:
        assert self.cross_rows is not None
        return self._modulate(self.cross_rows, part, scale=row, shift=row + 1)

    def _modulate(self, rows: Rows, part: slice | None, *, shift: int, scale: int) -> Tensor:
        start, in_place = _start(part), not torch.is_grad_enabled()
        fused, eps = self.inputs.fused, self.block.config.norm_eps
        if fused is None or not in_place or len(rows.by.segments) != 1:
            return rows.modulate(self._norm(part), shift=shift, scale=scale, start=start, in_place=in_place)
        if self.waits is None or part is not None:
            return fused.norm_modulate(self._tokens(part), rows.parts[scale], rows.parts[shift], eps)
        hidden = fused.add_norm_modulate(self.x, *self.waits, rows.parts[scale], rows.parts[shift], eps)
        self.waits = None
        return hidden

    def _gate(self, rows: Rows, update: Tensor, part: slice | None, *, row: int) -> None:
        if part is not None:
            rows.gate(self._tokens(part), update, row=row, start=part.start, in_place=True)
        elif self._can_wait(rows):
            self.settled()
            self.waits = update, rows.parts[row]
        else:
            self.x = rows.gate(self.settled(), update, row=row, in_place=self.inputs.in_place)

    def _can_wait(self, rows: Rows) -> bool:
        """Whether a kernel can add an update and go on: one row for all tokens, and the stream is ours."""
        fused = self.inputs.fused
        compiled = fused is not None and fused.problem is None
        return compiled and self.inputs.in_place and len(rows.by.segments) == 1

    def _add(self, update: Tensor, part: slice | None) -> None:
        if part is not None:
            self._tokens(part).add_(update)
        else:
            x = self.settled()
            self.x = x.add_(update) if self.inputs.in_place else x + update

    def _attention(self, name: str) -> Attention:
        module: Attention = self._part(name)
        return module

    def _part(self, name: str) -> Any:
        return getattr(self.block, self.spec.prefix + name)

    def _table(self, name: str) -> Tensor:
        table: Tensor = getattr(self.block, name)
        if (table.device, table.dtype) == (self.x.device, self.x.dtype):
            return table
        return table.to(device=self.x.device, dtype=self.x.dtype)


def _start(part: slice | None) -> int:
    return 0 if part is None else part.start


def _rope(rope: Rope | None, part: slice | None) -> Rope | None:
    return rope if rope is None or part is None else rope.part(part)


def _queries(bias: Bias, part: slice | None) -> Bias:
    """The bias of some of the queries; None stands for all."""
    if part is None or not isinstance(bias, Tensor) or bias.shape[2] == 1:
        return bias
    return bias[:, :, part]


def _room(piece: Tensor, tokens: int) -> Tensor:
    """An empty (B, H, tokens, D) for parts such as ``piece``, all heads of a token beside each other."""
    batch, heads, _, width = piece.shape
    return piece.new_empty(batch, tokens, heads, width).transpose(1, 2)
