"""One transformer block: two streams that attend to themselves, to the text and to each other.

Letters: B batch, N tokens, S text tokens, W stream width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from ..types import NetworkOptions
from .branches import CrossAttention, SelfAttention, TextAttention, TokenWise
from .layers import Attention, FeedForward
from .modulation import UNGATED, UNNORMED, Modulation, ShiftScale, ShiftScaleGate, Ungated
from .perturbations import ALL_ON, StreamSwitches, Switches
from .streams import StreamInputs, stream_specs
from .texts import KeysValues


class TransformerBlock(nn.Module):
    """One block of both streams: self-attention, text attention, attention between streams, feed-forward.

    Each of these is computed for video and for audio, with layers of their own. A network without audio has
    the layers of the video alone.
    """

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
        layer: NetworkOptions = {"dtype": dtype, "device": device, "operations": operations}
        attention = partial(
            Attention,
            heads=config.heads,
            gated=config.gated_attention,
            qk_norm_eps=config.qk_norm_eps,
            **layer,
        )
        for spec in stream_specs(config):
            width, prefix = spec.width, spec.prefix

            def table(parameters: int, width: int = width) -> nn.Parameter:
                return nn.Parameter(torch.empty(parameters, width, dtype=dtype, device=device))

            self.add_module(f"{prefix}attn1", attention(width, width, head_dim=spec.head_dim))
            self.add_module(f"{prefix}attn2", attention(width, width, head_dim=spec.head_dim))
            self.add_module(f"{prefix}ff", FeedForward(width, bias=spec.ff_bias, **layer))
            self.register_parameter(f"{prefix}scale_shift_table", table(config.modulation_rows))
            if config.has_audio:
                # Five in every generation: scale and shift for either direction, then one gate.
                self.register_parameter(f"scale_shift_table_a2v_ca_{spec.name}", table(5))
            if config.cross_attention_adaln:
                # Each block has such a table even where the network has no adaptive layer for the prompt.
                self.register_parameter(f"{prefix}prompt_scale_shift_table", table(2))
        if not config.has_audio:
            return
        # Both directions attend at the inner width of audio, for which their rotary tables are made.
        self.audio_to_video_attn = attention(config.dim, config.audio_dim, head_dim=config.audio_head_dim)
        self.video_to_audio_attn = attention(config.audio_dim, config.dim, head_dim=config.audio_head_dim)

    def forward(
        self,
        x: Tensor | None,
        y: Tensor | None,
        video: StreamInputs | None,
        audio: StreamInputs | None,
        switches: Switches = ALL_ON,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Update the hidden tokens of video x (B, Nv, Wv) and audio y (B, Na, Wa); returns both.

        Nv and Na are numbers of tokens, Wv and Wa widths of the streams. ``video`` and ``audio`` are what
        each stream takes in addition to its tokens, such as text and modulation. For an absent stream tokens
        and inputs are None. ``switches`` say which attentions run for which samples of the batch. x and y may
        be overwritten, if the ``execution`` of the inputs works in place.
        """
        v = None if x is None or video is None else BlockStream(self, x, video, switches.video)
        a = None if y is None or audio is None else BlockStream(self, y, audio, switches.audio)
        # From here on the streams alone hold these tensors, and free them once they have new ones.
        del x, y
        enabled = [stream for stream in (v, a) if stream is not None and stream.inputs.enabled]
        # The streams do not depend on each other here, only in the attention between them.
        for stream in enabled:
            stream.self_attention()
            stream.text_attention()
        if v is not None and a is not None:
            cross_modal_attention(v, a, late=self.config.audio_reads_updated_video)
        # Feed-forward comes last although its parameters are the second triple of the table: the text's
        # triple was appended in LTX-2.3.
        for stream in enabled:
            stream.feed_forward()
        return None if v is None else v.tokens.leave(), None if a is None else a.tokens.leave()


@dataclass(frozen=True)
class BranchModulation:
    """Shift, scale and gate of the branches of one stream in one block, in the order of checkpoints.

    The text attention of LTX-Video and LTX-2.0 is not modulated.
    """

    self_attention: ShiftScaleGate
    feed_forward: ShiftScaleGate
    text_attention: ShiftScaleGate | Ungated = UNGATED


@dataclass(frozen=True)
class CrossModulation:
    """Modulation of one stream's tokens for attention between the streams.

    ``queries`` is applied where this stream attends to the other one, ``keys`` where the other attends to it.
    """

    queries: ShiftScaleGate
    keys: ShiftScale


class BlockStream:
    """One stream, video or audio, in one block: its tokens, and the branches that update them.

    ``x`` (B, N, W) are its hidden tokens, ``inputs`` what the stream takes into every block, ``switches`` for
    which samples its attentions run. Layers and learned modulation are those of ``block`` for this stream.
    """

    def __init__(
        self, block: TransformerBlock, x: Tensor, inputs: StreamInputs, switches: StreamSwitches
    ) -> None:
        self.inputs, self._block, self._switches = inputs, block, switches
        self._dtype, self._device = x.dtype, x.device
        self.tokens = inputs.execution.tokens(x, block.config.norm_eps)
        totals = iter(inputs.execution.plus_tables(list(self._modulations())))
        self.modulation = BranchModulation(*inputs.modulation.branches(next(totals)))
        if not block.config.norm_before_text:
            self.modulation = replace(self.modulation, text_attention=UNNORMED)
        self.cross = None if inputs.cross is None else self._cross_modulation(inputs.cross, next(totals))
        self._prompt = next(totals, None)

    def _modulations(self) -> Iterator[tuple[Modulation, Tensor]]:
        """What adds up to the modulation of the branches, between the streams and of the text."""
        prefix, prompt = self.inputs.spec.prefix, self.inputs.prompt
        yield self.inputs.modulation, self._table(f"{prefix}scale_shift_table")
        if self.inputs.cross is not None:
            yield self.inputs.cross, self._table(f"scale_shift_table_a2v_ca_{self.inputs.spec.name}")
        # The table of a text that no noise level modulates is read only when its keys are computed.
        if self.inputs.enabled and prompt is not None and prompt.values.shape[-1] > 1:
            yield prompt, self._table(f"{prefix}prompt_scale_shift_table")

    def self_attention(self) -> None:
        branch = SelfAttention(
            attention=self._layer("attn1"),
            projections=self.tokens.projections,
            attend=self.inputs.execution.attend_self,
            rope=self.inputs.rope,
            bias=self.inputs.attention_bias,
            samples=self._switches.self_attention,
        )
        self.tokens.add_self_attention(branch, self.modulation.self_attention)

    def text_attention(self) -> None:
        attention, negative = self._layer("attn2"), self.inputs.negative
        timed = self.inputs.timed
        contexts = (self.inputs.context,) if timed is None else timed.contexts
        branch = TextAttention(
            attention=attention,
            projections=self.tokens.projections,
            attend=self.inputs.execution.attend_text,
            texts=tuple(self._text(attention, context) for context in contexts),
            bias=self.inputs.context_bias,
            times=timed,
            guidance=negative,
            negative=None if negative is None else self._text(attention, negative.context),
        )
        self.tokens.add(branch, self.modulation.text_attention)

    @property
    def attends_to_other(self) -> bool:
        """Whether attention to the other stream changes this one.

        It does not if this stream is not enabled, or if every sample of the batch skips the attention.
        """
        samples = self._switches.cross_attention
        # A stream that is not enabled is read by the other one and does not change itself.
        return self.inputs.enabled and (samples is None or any(samples))

    def cross_attention(self, other: BlockStream, *, both_read: bool) -> CrossAttention | None:
        """The branch by which this stream attends to ``other``, without applying it; None if it does not.

        Keys and values are computed at once, from the tokens that ``other`` has now. ``both_read`` says that
        ``other`` computes its own queries from these same tokens.
        """
        if not self.attends_to_other:
            return None
        attention = getattr(self._block, f"{other.inputs.spec.name}_to_{self.inputs.spec.name}_attn")
        assert other.cross is not None
        assert self.inputs.cross_rope is not None
        # Each side is rotated by its own cross table, which has the same frequencies of time in seconds, so
        # that tokens of the same moment have the same angle.
        keys, values = other.tokens.keys_values(
            attention, other.cross.keys, other.inputs.cross_rope, other.cross.queries if both_read else None
        )
        return CrossAttention(
            attention=attention,
            projections=self.tokens.projections,
            attend=self.inputs.execution.attend_other,
            keys=keys,
            values=values,
            rope=self.inputs.cross_rope,
            samples=self._switches.cross_attention,
        )

    def add_cross_attention(self, branch: CrossAttention) -> None:
        assert self.cross is not None
        self.tokens.add(branch, self.cross.queries)

    def feed_forward(self) -> None:
        self.tokens.add(TokenWise(self._layer("ff"), self.tokens.projections), self.modulation.feed_forward)

    def _text(self, attention: Attention, context: Tensor) -> KeysValues:
        """Attention keys and values of a text (B, S, W), S text tokens.

        The text is modulated first if this network modulates texts.
        """

        def compute() -> KeysValues:
            source, prompt = context, self.inputs.prompt
            if prompt is not None:
                total = self._prompt
                if total is None:
                    total = prompt.plus(self._table(f"{self.inputs.spec.prefix}prompt_scale_shift_table"))
                # Unlike the stream, the text is not normalised before.
                source = prompt.shift_scale(total).modulate(context)
            return self.tokens.projections.keys_values(attention, source, None)

        return self.inputs.texts.keys_values(attention, context, compute)

    def _cross_modulation(self, modulation: Modulation, total: Tensor) -> CrossModulation:
        # These tables of a checkpoint begin with the scale, all others with the shift.
        a2v_scale, a2v_shift, v2a_scale, v2a_shift, gate = modulation.parameters(total)
        # The row order is by direction, so that what is a query for video is a key for audio.
        own, other = (a2v_shift, a2v_scale), (v2a_shift, v2a_scale)
        if self.inputs.spec.name == "audio":
            own, other = other, own
        layout = modulation.layout
        return CrossModulation(ShiftScaleGate(layout, *own, gate), ShiftScale(layout, *other))

    def _layer(self, name: str) -> Any:
        return self.inputs.spec.layer(self._block, name)

    def _table(self, name: str) -> Tensor:
        """The learned modulation parameters ``name`` of the block, in dtype and device of the tokens."""
        table: Tensor = getattr(self._block, name)
        # A host may hold the tables on another device or in another dtype than the tokens.
        if (table.device, table.dtype) == (self._device, self._dtype):
            return table
        return table.to(device=self._device, dtype=self._dtype)


def cross_modal_attention(video: BlockStream, audio: BlockStream, *, late: bool = False) -> None:
    """Update both streams by attention to each other, each to the other as it was before the update.

    With ``late`` audio reads the video after its update, as in ComfyUI from 0.31 on.
    """
    # Keys and values are computed here, for both directions, before either stream is written into, as in the
    # official code and in ComfyUI before 0.31.
    a2v = video.cross_attention(audio, both_read=audio.attends_to_other)
    v2a = None if late else audio.cross_attention(video, both_read=a2v is not None)
    if a2v is not None:
        video.add_cross_attention(a2v)
    if late:
        v2a = audio.cross_attention(video, both_read=False)
    if v2a is not None:
        audio.add_cross_attention(v2a)
