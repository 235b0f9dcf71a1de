"""Turns the layers of Gemma, which the transformers library builds, into layers of ComfyUI.

ComfyUI can load a model in part, and stream the rest, only through its own layers. The constructor in
transformers takes no layer classes, so linear, embedding and norm layers get ComfyUI's classes afterwards.
Parameters stay the same objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...ltx2_core.text import Gemma

GEMMA4_NORMS = ("Gemma4RMSNorm", "Gemma4UnifiedRMSNorm")


def use_host_layers(gemma: Gemma) -> Gemma:
    """Turn the layers of ``gemma`` into ComfyUI's, in place, and return ``gemma``.

    From then on the model computes on the device in its attribute ``execution_device``, or if that is None on
    the device of its parameters.
    """
    for module in list(gemma.modules()):
        # Only the exact class: a subclass has arithmetic of its own, which the host's layer would lose.
        if type(module) is nn.Linear:
            _become(module, comfy.ops.manual_cast.Linear)
        elif isinstance(module, nn.Embedding):
            _become(module, ScaledEmbedding)
        elif type(module).__name__ == "Gemma3RMSNorm":
            _become(module, OffsetRMSNorm)
        elif type(module).__name__ in GEMMA4_NORMS and module.with_scale:
            _become(module, PlainRMSNorm)
        scalar = getattr(module, "layer_scalar", None)
        if isinstance(scalar, Tensor):
            # The host moves no buffers of modules with children; a tensor without dimensions works anywhere.
            module.layer_scalar = scalar.reshape(())
    gemma.model.__class__ = type("HostGemmaTextModel", (_OnDevice, type(gemma.model)), {})
    gemma.model.execution_device = None
    return gemma


class ScaledEmbedding(comfy.ops.manual_cast.Embedding):
    """A token embedding that is multiplied by a constant in float32.

    Because its output is float32, all later layers compute in float32 too, whatever dtype the weights are
    stored in. The host's own text encoders do the same.
    """

    # The host's casting reads this attribute of every layer.
    bias = None
    embed_scale: Tensor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 the host's name
        embedded: Tensor = super().forward(input, out_dtype=torch.float32)
        return embedded * self.embed_scale.to(input.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Multiply hidden states (..., width) by the transposed embedding matrix.

        Returns the scores (..., vocabulary) of the next token.
        """
        weight, _, stream = comfy.ops.cast_bias_weight(self, hidden, offloadable=True)
        scores = functional.linear(hidden, weight)
        comfy.ops.uncast_bias_weight(self, weight, None, stream)
        return scores


class OffsetRMSNorm(nn.Module, comfy.ops.CastWeightBiasOp):
    """RMS norm, computed in float32, whose stored weight is the factor of each channel minus 1."""

    comfy_cast_weights = True
    bias = None
    offset = 1.0
    weight: Tensor
    eps: float
    weight_function: list[Callable[[Tensor], Tensor]]

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = comfy.ops.cast_to_input(self.weight, x.float(), copy=False)
        # The host patches LoRAs of a model that is loaded in part when a weight is used.
        for change in self.weight_function:
            weight = change(weight)
        normed = x.float() * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + self.eps)
        return (normed * (self.offset + weight)).to(x.dtype)


class PlainRMSNorm(OffsetRMSNorm):
    """RMS norm, computed in float32, whose stored weight is the factor of each channel."""

    offset = 0.0


class _OnDevice:
    """Mixin for a model whose property ``device`` is the device to compute on.

    Without it, that would be the device of the first parameter, which may be offloaded.
    """

    execution_device: torch.device | None

    @property
    def device(self) -> Any:
        own = next(p for p in self.parameters()).device  # type: ignore[attr-defined]
        # The host states the device only for the length of an encoding.
        return own if self.execution_device is None else self.execution_device


def weights_of(layer: Any, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer of the host for the input ``like``, with the LoRAs that act when it is used.

    The host adds the LoRAs of a model that it loads in part to a weight when a layer casts it.
    """
    changes = [f"{name}{kind}_function" for name in ("weight", "bias") for kind in ("", "_lowvram")]
    if not any(getattr(layer, change, None) for change in changes):
        return layer.weight, layer.bias
    dtype = layer.weight.dtype
    weight, bias, stream = comfy.ops.cast_bias_weight(
        layer, dtype=dtype, device=like.device, bias_dtype=dtype, offloadable=True
    )
    # The host uses the memory of what it has cast again.
    held = weight.clone(), None if bias is None else bias.clone()
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return held


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    # Changing the class leaves the parameters where they are, without a second copy of the weights.
    module.__class__ = kind
