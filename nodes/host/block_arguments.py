"""Converts the library's inputs of a transformer block to the arguments of ComfyUI's own LTX-2 block.

Letters: B batch, N video or audio tokens, S text tokens, W stream width, H heads, D head width, P modulation
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import comfy.ldm.lightricks.model as lightricks
import torch
from torch import Tensor

from ...ltx2_core.transformer.guided import Bias, GuideBias, log_weights
from ...ltx2_core.transformer.modulation import Layout, Modulation
from ...ltx2_core.transformer.rope import Rope
from ...ltx2_core.transformer.streams import BothInputs, StreamInputs

Options = Mapping[str, Any]
SWITCHES = "ltx2_switches"
"""Key in the options of a block: which of its attentions run for which samples."""
ATTENDING = "ltx2_attending"
"""Key in the options of a self-attention: the samples that attend; the others pass their values through."""
NEGATIVES = "ltx2_negative_texts"
"""Key in the options of a block: the negative texts of video and audio for normalized attention guidance."""


class BlockArguments(TypedDict, total=False):
    """Keyword arguments of ComfyUI's audio-video block, ``v_*`` of the video and ``a_*`` of the audio.

    ``context`` is the text, ``timestep`` the modulation parameters from the noise level, ``pe`` the rotary
    table, and ``cross_*`` belongs to the attention between video and audio. ``a_*`` are None for video alone.
    """

    v_context: Tensor
    a_context: Tensor | None
    attention_mask: Tensor | None
    v_timestep: Timestep
    a_timestep: Timestep | None
    v_pe: Any
    a_pe: Any
    v_cross_pe: Any
    a_cross_pe: Any
    v_cross_scale_shift_timestep: Timestep | None
    a_cross_scale_shift_timestep: Timestep | None
    v_cross_gate_timestep: Timestep | None
    a_cross_gate_timestep: Timestep | None
    transformer_options: Options
    self_attention_mask: Any
    v_prompt_timestep: Tensor | None
    a_prompt_timestep: Tensor | None


@dataclass(frozen=True, eq=False)
class TokenTimesteps:
    """Modulation parameters (shift, scale, gate) stored once for each noise level and not for each token.

    Many tokens share few noise levels. ``values`` are the parameters of the levels and ``layout`` says which
    tokens have which level, both as in the library's ``Modulation``. ComfyUI has a class of its own for the
    same purpose; only a block's method ``get_ada_values`` reads either class.
    """

    values: Tensor
    layout: Layout

    def of_tokens(self, values: Tensor) -> Tensor:
        """Expand ``values``, stored once for each noise level, to one for each token: (B, tokens, ..., W).

        W is the width of the stream. The form of ``values`` depends on ``layout``: (B, 1, ..., W) if all
        tokens have one level, (B, 1, levels, ..., W) if each range of consecutive tokens has one, (levels,
        ..., W) if the layout has a level for every token. In the first form the axis of tokens stays 1.
        """
        if self.layout.index is not None:
            return values[self.layout.index]
        if len(self.layout.segments) == 1:
            return values
        lengths = [stop - start for start, stop in self.layout.segments]
        # One entry for each segment becomes one for each of its tokens, the only form that ComfyUI's formulas
        # take.
        repeats = torch.tensor(lengths, device=values.device)
        return values[:, 0].repeat_interleave(repeats, dim=1)

    def tensor(self) -> Tensor:
        """All modulation parameters of every token: (B, tokens, parameters * width).

        The axis of tokens has length 1 if all tokens have the same noise level.
        """
        return self.of_tokens(self.values).flatten(-2)


Timestep = Tensor | TokenTimesteps
"""What ComfyUI's blocks call a timestep: modulation parameters (B, N or 1, P W)."""


def block_arguments(inputs: BothInputs, x: Tensor) -> BlockArguments:
    """Convert the library's inputs of a transformer block to the keyword arguments of ComfyUI's LTX-2 block.

    ``inputs`` are those of (video, audio), the audio's None without audio; ``x`` are the video tokens (B,
    tokens, width), of which shape, dtype and device are read. ``transformer_options`` is not among the
    result; the caller adds it.
    """
    video, audio = inputs
    assert video is not None
    found = {
        **_of_stream(video, "v", len(x)),
        **(dict.fromkeys(_NONE) if audio is None else _of_stream(audio, "a", len(x))),
        "attention_mask": video.context_bias,
        "self_attention_mask": _guide_mask(video.attention_bias, x),
    }
    return cast(BlockArguments, found)


_NONE = tuple(
    f"a_{name}"
    for name in (
        "context",
        "timestep",
        "pe",
        "cross_pe",
        "cross_scale_shift_timestep",
        "cross_gate_timestep",
        "prompt_timestep",
    )
)
"""Arguments of the audio stream, which are None for video alone."""


def _of_stream(stream: StreamInputs, letter: str, batch: int) -> dict[str, Any]:
    # Audio has few tokens, and the host passes its parameters as plain tensors.
    plain = letter == "a"
    cross = stream.cross
    found = {
        "context": stream.context,
        "timestep": _timestep(stream.modulation, slice(None), plain=plain),
        "pe": host_rope(stream.rope, batch),
        "cross_pe": None if stream.cross_rope is None else host_rope(stream.cross_rope, batch),
        # Two parameters for either direction, then the gate.
        "cross_scale_shift_timestep": None if cross is None else _timestep(cross, slice(0, 4), plain=plain),
        "cross_gate_timestep": None if cross is None else _timestep(cross, slice(4, None), plain=plain),
        "prompt_timestep": None if stream.prompt is None else _prompt(stream, batch),
    }
    return {f"{letter}_{name}": value for name, value in found.items()}


def _timestep(modulation: Modulation, rows: slice, *, plain: bool) -> Tensor | TokenTimesteps:
    timesteps = TokenTimesteps(modulation.values[..., rows, :], modulation.layout)
    # A plain tensor where one entry serves all tokens: packs that read timesteps expect a tensor.
    one_level = modulation.layout.index is None and len(modulation.layout.segments) == 1
    return timesteps.tensor() if plain or one_level else timesteps


def _prompt(stream: StreamInputs, batch: int) -> Tensor:
    assert stream.prompt is not None
    # A static prompt has one zero for all of them.
    return stream.prompt.values.expand(batch, 1, 2, stream.context.shape[-1]).flatten(-2)


def host_rope(rope: Rope, batch: int) -> tuple[Any, ...]:
    """Convert a rotary table to the form that ``apply_rotary_emb`` of the installed ComfyUI version reads.

    The table is repeated to ``batch`` samples.
    """
    split = rope.rope_type == "split"
    cos, sin = (table.expand(batch, -1, -1, -1) for table in (rope.cos, rope.sin))
    if hasattr(lightricks, "freqs_cis_matrix"):
        # Since ComfyUI 0.29: rotation matrices (B, N, H, D / 2, 2, 2).
        cos, sin = cos.transpose(1, 2), sin.transpose(1, 2)
        matrix = torch.stack((cos, -sin, sin, cos), dim=-1)
        return matrix.unflatten(-1, (2, 2)), split
    if split:
        return cos, sin, True
    # One value for each channel, all heads of a token behind one another.
    whole = (table.transpose(1, 2).flatten(2).repeat_interleave(2, dim=-1) for table in (cos, sin))
    return (*whole, False)


def _guide_mask(bias: Bias, x: Tensor) -> Any:
    """Convert the library's additive bias of self-attention to the mask that ComfyUI's block takes.

    Without guides, and up to ComfyUI 0.26, the mask is a tensor; since 0.27 attention weights of guides are a
    ``GuideAttentionMask``. ``x`` are the video tokens, of which shape, dtype and device are read.
    """
    if not isinstance(bias, GuideBias):
        return bias
    tokens, weights = x.shape[1], bias.weights
    kind = getattr(lightricks, "GuideAttentionMask", None)
    # Older versions take one mask of all tokens by all tokens, which the split form avoids.
    if kind is None:
        return log_weights(weights.dense(tokens), x.dtype).unsqueeze(1).to(x.device)
    # Weights and not their logarithms: the class takes the logarithm itself.
    tracked = torch.cat([guide.to(x) for guide in weights.guides])[None]
    return kind(tokens, tokens - weights.count, weights.count, tracked)
