"""Blocks and attentions that other packs can call like those of ComfyUI's own LTX-2 network.

Packs replace the ``forward`` of a block or an attention, and wrap blocks. They expect the interface of
ComfyUI's classes, which the classes here have in addition to the library's.

Letters: B batch, N video or audio tokens, S text tokens, W stream width, H heads, D head width, P modulation
parameters.
"""

from __future__ import annotations

from typing import Any, cast

import comfy.ldm.lightricks.model as lightricks
import comfy.ldm.modules.attention as host
import torch
from torch import Tensor, nn

from ...ltx2_core.transformer.block import TransformerBlock
from ...ltx2_core.transformer.layers import Attention, rms_norm
from ...ltx2_core.transformer.nag import NegativeText
from ...ltx2_core.transformer.perturbations import ALL_ON, Samples, Switches, sample_mask
from .block_arguments import (
    ATTENDING,
    NEGATIVES,
    SWITCHES,
    BlockArguments,
    Options,
    Timestep,
    TokenTimesteps,
)

ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")


class HostAttention(Attention):
    """An attention of a transformer block that can also be called like ComfyUI's class ``CrossAttention``."""

    dim_head: int
    attn_precision = None

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Any = None,
        pe: Any = None,
        k_pe: Any = None,
        transformer_options: Options = {},  # noqa: B006 the host's signature; it is only read
    ) -> Tensor:
        """Attend from ``x`` (B, tokens, query width) to ``context`` (B, tokens, context width).

        Without ``context`` it is self-attention of ``x``. ``mask`` is an additive bias or ComfyUI's
        ``GuideAttentionMask``, None for plain attention. ``pe`` and ``k_pe`` are ComfyUI's rotary tables of
        queries and keys: without ``k_pe`` keys use ``pe``, without ``pe`` nothing is rotated.
        """
        source, values = (x, self.to_v(x)) if context is None else (context, self.to_v(context))
        attending: Samples = transformer_options.get(ATTENDING) if context is None else None
        if attending is not None and not any(attending):
            return self._result(values, x)
        # Norm before rotation, over all heads together, as in the library's own form of this class.
        q, k = self.q_norm(self.to_q(x)), self.k_norm(self.to_k(source))
        if pe is not None:
            q = lightricks.apply_rotary_emb(q, pe)
            k = lightricks.apply_rotary_emb(k, pe if k_pe is None else k_pe)
        attended = self._attended(q, k, values, mask, transformer_options)
        if attending is not None:
            chosen = sample_mask(attending, torch.bool, x.device)
            attended = torch.where(chosen, attended, values)
        return self._result(attended, x)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Any, options: Options) -> Tensor:
        more = {"attn_precision": self.attn_precision, "transformer_options": options}
        guides = getattr(lightricks, "GuideAttentionMask", None)
        if guides is not None and isinstance(mask, guides):
            return cast(Tensor, lightricks._attention_with_guide_mask(q, k, v, self.heads, mask, **more))
        if mask is not None:
            more["mask"] = mask
        # Looked up at each call, since packs exchange it for the length of a block.
        return cast(Tensor, host.optimized_attention(q, k, v, self.heads, **more))

    def _result(self, attended: Tensor, x: Tensor) -> Tensor:
        # Not in place, unlike the library's: a function of a pack may return a tensor that it still uses.
        if self.to_gate_logits is not None:
            gates = 2 * torch.sigmoid(self.to_gate_logits(x))
            attended = (attended.unflatten(-1, (self.heads, -1)) * gates.unsqueeze(-1)).flatten(-2)
        result: Tensor = self.to_out(attended)
        return result


class HostBlock(TransformerBlock):
    """A transformer block that can be called with the library's arguments or with those of ComfyUI's block.

    ComfyUI's block takes the tokens as a pair (video, audio).
    """

    attn_precision = None

    @property
    def cross_attention_adaln(self) -> bool:
        return self.config.cross_attention_adaln

    def forward(self, x: Any, *own: Any, **arguments: Any) -> Any:
        """Return the tokens of video and audio after this block; the input tensors are changed in place.

        It is called with the library's arguments (``x`` and ``own``), or as ComfyUI calls its block: with
        ``x`` = (video, audio), each (B, tokens, width), and the keywords of :class:`BlockArguments`.
        """
        if not isinstance(x, tuple):
            return super().forward(x, *own)
        vx, ax = x
        return self._as_host(vx, ax, cast(BlockArguments, arguments))

    def get_ada_values(
        self,
        scale_shift_table: Tensor,
        batch_size: int,
        timestep: Timestep,
        indices: slice = slice(None, None),
    ) -> tuple[Tensor, ...]:
        """Add the modulation parameters of the noise level to learned ones in a table (parameters, width).

        Returns the parameters ``indices``, each (B, tokens, width), or (B, 1, width) if all tokens have one
        noise level. ``timestep`` holds the parameters of the noise level. ``batch_size`` is not read; it is
        in ComfyUI's signature.
        """
        table = scale_shift_table[indices]
        if isinstance(timestep, TokenTimesteps):
            values = timestep.values[..., indices, :]
            return timestep.of_tokens(values + table.to(values)).unbind(-2)
        parameters: Tensor = timestep.unflatten(-1, (len(scale_shift_table), -1))[..., indices, :]
        return (parameters + table.to(parameters)).unbind(-2)

    def _apply_text_cross_attention(
        self,
        x: Tensor,
        context: Tensor,
        attn: nn.Module,
        scale_shift_table: Tensor,
        prompt_scale_shift_table: Tensor | None,
        timestep: Timestep,
        prompt_timestep: Tensor | None,
        attention_mask: Tensor | None,
        transformer_options: Options,
    ) -> Tensor:
        """Compute the update of the tokens ``x`` of one stream by attention ``attn`` to its text ``context``.

        The tables hold learned modulation parameters of tokens and of text, the two ``timestep`` those of the
        noise level; those of the text are None in networks that do not modulate it. ``attention_mask`` is an
        additive bias on text tokens. Packs replace this method, so its signature is that of ComfyUI's.
        """
        hidden, gate = rms_norm(x, self.config.norm_eps), None
        if self.cross_attention_adaln:
            shift, scale, gate = self.get_ada_values(scale_shift_table, len(x), timestep, slice(6, 9))
            # Tables store scales as differences from 1.
            hidden = hidden * (1 + scale) + shift
        more = {"transformer_options": transformer_options}

        def attended(text: Tensor, mask: Tensor | None) -> Tensor:
            if self.cross_attention_adaln:
                # A table of two rows, shift and scale, in each block.
                table, time = cast(Tensor, prompt_scale_shift_table), cast(Tensor, prompt_timestep)
                shift, scale = self.get_ada_values(table, len(text), time)
                text = text * (1 + scale) + shift
            return cast(Tensor, attn(hidden, context=text, mask=mask, **more))

        update = attended(context, attention_mask)
        negative = _negative_of(transformer_options, audio=attn is not self.attn2)
        if negative is not None:
            update = negative.guide(update, attended(negative.context, None))
        return update if gate is None else update * gate

    def _as_host(self, vx: Tensor, ax: Tensor, args: BlockArguments) -> tuple[Tensor, Tensor]:
        options = args["transformer_options"]
        video = options.get("run_vx", True)
        audio = options.get("run_ax", True) and ax.numel() > 0
        switches: Switches = options.get(SWITCHES, ALL_ON)
        if video:
            own = _self_attention(options, switches.video.self_attention)
            self._attend(vx, "v", "", args, own, mask=args.get("self_attention_mask"))
        if audio:
            own = _self_attention(options, switches.audio.self_attention)
            self._attend(ax, "a", "audio_", args, own)
        if ax.numel():
            self._attend_each_other(vx, ax, args, video=video, audio=audio)
        if video:
            self._feed_forward(vx, "", args["v_timestep"])
        if audio:
            self._feed_forward(ax, "audio_", cast(Timestep, args["a_timestep"]))
        return vx, ax

    def _attend(
        self, x: Tensor, letter: str, prefix: str, args: BlockArguments, own: Options, **mask: Any
    ) -> None:
        """Add self-attention and text attention to ``x``, the tokens of one stream, in place.

        ``letter`` ("v" or "a") begins the names of this stream's arguments in ``args``, and ``prefix`` ("" or
        "audio_") those of its attributes. ``own`` are the ``transformer_options`` of its self-attention;
        ``mask`` is empty or holds its mask.
        """
        named = cast(dict[str, Any], args)
        table, timestep = getattr(self, f"{prefix}scale_shift_table"), named[f"{letter}_timestep"]
        shift, scale, gate = self.get_ada_values(table, len(x), timestep, slice(0, 3))
        attention = getattr(self, f"{prefix}attn1")
        hidden = rms_norm(x, self.config.norm_eps) * (1 + scale) + shift
        x.addcmul_(attention(hidden, pe=named[f"{letter}_pe"], transformer_options=own, **mask), gate)
        x.add_(
            self._apply_text_cross_attention(
                x,
                named[f"{letter}_context"],
                getattr(self, f"{prefix}attn2"),
                table,
                getattr(self, f"{prefix}prompt_scale_shift_table", None),
                timestep,
                named.get(f"{letter}_prompt_timestep"),
                args.get("attention_mask"),
                args["transformer_options"],
            )
        )

    def _attend_each_other(
        self, vx: Tensor, ax: Tensor, args: BlockArguments, *, video: bool, audio: bool
    ) -> None:
        """Add attention from each stream to the other, in place.

        Both attend to the tokens before these updates, except that audio reads the updated video where the
        network is computed like that of ComfyUI 0.31 and later. ``video`` and ``audio`` say which stream is
        updated.
        """
        options, named = args["transformer_options"], cast(dict[str, Any], args)
        switches: Switches = options.get(SWITCHES, ALL_ON)

        def parameters(x: Tensor, letter: str, stream: str) -> tuple[Tensor, ...]:
            table = getattr(self, f"scale_shift_table_a2v_ca_{stream}")[:4]
            return self.get_ada_values(table, len(x), named[f"{letter}_cross_scale_shift_timestep"])

        v, a = parameters(vx, "v", "video"), parameters(ax, "a", "audio")
        # Both before either update, since each direction reads the other stream as it was.
        normed = {"v": rms_norm(vx, self.config.norm_eps), "a": rms_norm(ax, self.config.norm_eps)}
        updates = []
        # Rows of both tables: scale and shift from audio to video, then from video to audio.
        for name, q, k, at, x, stream, runs, samples in (
            ("audio_to_video_attn", "v", "a", 0, vx, "video", video, switches.video.cross_attention),
            ("video_to_audio_attn", "a", "v", 2, ax, "audio", audio, switches.audio.cross_attention),
        ):
            switch = "a2v_cross_attn" if stream == "video" else "v2a_cross_attn"
            if not runs or not options.get(switch, True) or (samples is not None and not any(samples)):
                continue
            by = {"v": v[at : at + 2], "a": a[at : at + 2]}
            hidden = {letter: normed[letter] * (1 + scale) + shift for letter, (scale, shift) in by.items()}
            update = getattr(self, name)(
                hidden[q],
                context=hidden[k],
                pe=named[f"{q}_cross_pe"],
                k_pe=named[f"{k}_cross_pe"],
                transformer_options=options,
            )
            table = getattr(self, f"scale_shift_table_a2v_ca_{stream}")[4:]
            (gate,) = self.get_ada_values(table, len(x), named[f"{q}_cross_gate_timestep"])
            if samples is not None:
                gate = gate * sample_mask(samples, gate.dtype, gate.device)
            updates.append((x, update, gate))
            if stream == "video" and self.config.audio_reads_updated_video:
                vx.addcmul_(*updates.pop()[1:])
                normed["v"] = rms_norm(vx, self.config.norm_eps)
        for x, update, gate in updates:
            x.addcmul_(update, gate)

    def _feed_forward(self, x: Tensor, prefix: str, timestep: Timestep) -> None:
        table = getattr(self, f"{prefix}scale_shift_table")
        # Rows 0 to 2 of the table are of self-attention, 3 to 5 of this, 6 to 8 of text attention.
        shift, scale, gate = self.get_ada_values(table, len(x), timestep, slice(3, 6))
        x.addcmul_(
            getattr(self, f"{prefix}ff")(rms_norm(x, self.config.norm_eps) * (1 + scale) + shift), gate
        )


def as_host_block(block: Any) -> None:
    """Turn a block of the library into a :class:`HostBlock` with :class:`HostAttention`, in place.

    Only the classes change; the parameters stay the same objects.
    """
    block.__class__ = HostBlock
    for name in ATTENTIONS:
        attention = getattr(block, name)
        attention.__class__ = HostAttention
        audio = name != "attn1" and name != "attn2"
        attention.dim_head = block.config.audio_head_dim if audio else block.config.head_dim


def _self_attention(options: Options, attending: Samples) -> Options:
    """A copy of ``options`` for a self-attention that only some samples of the batch compute.

    In samples that are False in ``attending`` each token gets its own projected value. If ``attending`` is
    None, all samples attend and ``options`` are returned unchanged.
    """
    if attending is None:
        return options
    # The second key is the host's own, since ComfyUI 0.32, for packs that replace the attention.
    return {**options, ATTENDING: attending, "stg_skip_self_attn": not any(attending)}


def _negative_of(options: Options, *, audio: bool) -> NegativeText | None:
    texts: tuple[NegativeText | None, NegativeText | None] = options.get(NEGATIVES, (None, None))
    return texts[1] if audio else texts[0]
