"""Calls ComfyUI's attention function in place of the library's, if a pack or an option of ComfyUI chose one.

Letters: B batch, H heads, N query tokens, S keys, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.ldm.modules.attention as host
from comfy.ldm.lightricks.model import CrossAttention
from torch import Tensor

from ...ltx2_core.transformer.branches import Attend
from ...ltx2_core.transformer.guided import Bias, GuideBias, attend, guided_attention

OVERRIDE = "optimized_attention_override"
"""Key in the options of a call: a function of a pack that the host's attention functions call instead."""

EXACT = (
    "attention_pytorch",
    "attention_sub_quad",
    "attention_split",
    "attention_xformers",
    "attention_basic",
)
"""Functions of the host that compute plain attention, among which it chooses by hardware and memory."""

MASKED = "optimized_attention_masked"
"""Up to ComfyUI 0.21 the function for attention with a mask, which packs exchange by itself."""
HAS_MASKED = MASKED in CrossAttention.forward.__code__.co_names


def chosen_function(options: Mapping[str, Any]) -> Callable[..., Tensor] | None:
    """ComfyUI's attention function if it must be called; None if the library's attention computes the same.

    It must be called if a node set an override in ``options`` (the ``transformer_options``), if a pack
    replaced the function, or if the user chose an approximate one, such as by ``--use-sage-attention``.
    """
    # Looked up at each call: packs exchange the attribute of the module for the length of a block.
    function: Callable[..., Tensor] = host.optimized_attention
    plain = any(function is getattr(host, name, None) for name in EXACT)
    return function if OVERRIDE in options or not plain else None


def attend_by(function: Callable[..., Tensor], options: Mapping[str, Any]) -> Attend:
    """Adapt an attention function of ComfyUI to the signature that the library's layers call.

    ``options`` are the ``transformer_options``, which are passed on to ``function``.
    """

    def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, **more: bool) -> Tensor:
        heads = q.shape[1]
        # The arguments are those of the host's own blocks, as packs count and read them.
        arguments = more if bias is None else {"mask": bias, **more}
        called = getattr(host, MASKED) if HAS_MASKED and bias is not None else function
        flat = (tensor.transpose(1, 2).flatten(2) for tensor in (q, k, v))
        # The host's functions take all heads of a token behind one another, (B, N, H D), and return that
        # form.
        out = called(*flat, heads, attn_precision=None, transformer_options=options, **arguments)
        by_head: Tensor = out.unflatten(-1, (heads, -1)).transpose(1, 2)
        return by_head

    def weighted(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        # The host forbids its approximate kernels here, whose support of masks is unreliable.
        return plain(q, k, v, bias, low_precision_attention=False)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
        if isinstance(bias, GuideBias):
            return guided_attention(q, k, v, bias, by=weighted)
        return plain(q, k, v, bias)

    return run


def attend_for(options: Mapping[str, Any]) -> Attend:
    """Return the attention function for a call with these ``transformer_options``.

    It is the library's, or ComfyUI's where :func:`chosen_function` says so.
    """
    function = chosen_function(options)
    return attend if function is None else attend_by(function, options)
