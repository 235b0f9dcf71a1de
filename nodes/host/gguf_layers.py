"""Layers of ComfyUI whose weights stay in the blocks of a GGUF file, and are decoded when they are used.

LoRAs are added to the decoded weight, since most formats of GGUF cannot be encoded again.
Letters: O output features, I input features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ltx2_core.storage.dequantize import decode
from ...ltx2_core.storage.quantized import StoredLayer
from .values import Options

_DECODING = 17
"""Most bytes for each value of a weight that is being decoded: 8.1 of Q8_0 to 16.5 of Q5_K, traced."""


@dataclass(frozen=True)
class Blocks:
    """The weight of a linear layer in a GGUF file: how it is stored, and its bytes (O, bytes of a row)."""

    layer: StoredLayer
    stored: Tensor

    @property
    def placeholder(self) -> Tensor:
        """A weight (O, I) without memory, from which ComfyUI reads shape and dtype."""
        return torch.zeros(1, dtype=torch.bfloat16).expand(self.layer.shape)

    def decoded(self, stored: Tensor) -> Tensor:
        """The weight (O, I) in float32, from its bytes on any device."""
        layer = self.layer
        return decode(layer.name, layer.form, {"weight": stored}, layer.shape)


@dataclass(frozen=True)
class GgufWeights:
    """The linear layers of GGUF files by name, which a network built by :meth:`operations` takes."""

    layers: Mapping[str, Blocks]
    _taken: set[str] = field(default_factory=set)

    def operations(self, dtype: torch.dtype, device: torch.device) -> Any:
        """ComfyUI's classes of layers for a network that stores its other weights in ``dtype``.

        A linear layer of one of the names gets its blocks, whatever the state dict has in their place.
        """
        quantised = SimpleNamespace(quant_config={"mixed_ops": True})
        host: Any = comfy.ops.pick_operations(dtype, dtype, load_device=device, model_config=quantised)
        layers, taken = self.layers, self._taken

        class Linear(GgufLinear, host.Linear):
            def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
                blocks = layers.get(prefix.removesuffix("."))
                if blocks is None:
                    super()._load_from_state_dict(state_dict, prefix, *rest)
                    return
                taken.add(blocks.layer.name)
                self.blocks = blocks
                # The host's class has one list for all layers.
                self.weight_function = []
                del state_dict[f"{prefix}weight"]
                nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)
                # In memory of its own, as ComfyUI's layers have it, which can be pinned.
                self.weight = nn.Parameter(blocks.stored.clone(), requires_grad=False)

        return type("GgufOperations", (host,), {"Linear": Linear})

    def check_taken(self, name: str) -> None:
        """Raise ValueError if the network has no linear layer for a weight; ``name`` is that of the file."""
        left = sorted(self.layers.keys() - self._taken)
        if left:
            raise ValueError(
                f"{name}: {left[0]} and {len(left) - 1} more weights are stored in blocks, but are no linear "
                "layers of the network. Get another version of the file"
            )


def count_decoding(model: Any) -> None:
    """Let the MODEL ``model`` request room for decoding its largest weight, in addition to that of a step."""
    numel = [m.blocks.layer.infos["weight"].numel for m in model.modules() if is_gguf_layer(m)]
    room, of_a_step = _DECODING * max(numel, default=0), model.memory_required
    model.memory_required = lambda *shapes, **others: of_a_step(*shapes, **others) + room


def is_gguf_layer(module: nn.Module) -> bool:
    return isinstance(module, GgufLinear) and module.blocks is not None


class GgufLinear:
    """Mixin for a linear layer of ComfyUI whose ``weight`` has the bytes of ``blocks``."""

    blocks: Blocks | None = None
    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_function: list[Callable[[Tensor], Tensor]]
    factory_kwargs: Mapping[str, Any]

    @property
    def is_stored(self) -> bool:
        """Whether the weight is in blocks; a hook of ComfyUI may have replaced it by a decoded one."""
        return self.blocks is not None and self.weight.dtype == torch.uint8

    def forward(self, input: Tensor, *rest: Any, **options: Any) -> Tensor:  # noqa: A002 the host's name
        if self.blocks is None or not self.is_stored:
            result: Tensor = super().forward(input, *rest, **options)  # type: ignore[misc]
            return result
        comfy.ops.run_every_op()
        # The host would give the bytes to what changes the weight.
        changes, self.weight_function = self.weight_function, []
        try:
            stored, bias, stream = comfy.ops.cast_bias_weight(
                self, input, dtype=torch.uint8, bias_dtype=input.dtype, offloadable=True
            )
        finally:
            self.weight_function = changes
        weight = self.blocks.decoded(stored)
        for change in changes:
            weight = change(weight)
        out = F.linear(input, weight.to(input.dtype), bias)
        comfy.ops.uncast_bias_weight(self, stored, bias, stream)
        return out

    def convert_weight(self, weight: Tensor, inplace: bool = False, **options: Any) -> Tensor:
        """Decode a weight that the host has read from this layer, perhaps in another dtype."""
        if self.blocks is not None and tuple(weight.shape) == tuple(self.blocks.stored.shape):
            # Whole numbers below 256 are exact in each dtype of the host.
            return self.blocks.decoded(weight.to(torch.uint8))
        result: Tensor = super().convert_weight(weight, inplace=inplace, **options)  # type: ignore[misc]
        return result

    def set_weight(
        self,
        weight: Tensor,
        inplace_update: bool = False,
        seed: int | None = None,
        return_weight: bool = False,
        **options: Any,
    ) -> Tensor | None:
        """Replace a weight by a decoded one (O, I), which the host restores, or return it as it is stored."""
        # Layers that the host has in a number format of its own encode the weight again.
        if getattr(self, "layout_type", None) is not None:
            result: Tensor | None = super().set_weight(  # type: ignore[misc]
                weight, inplace_update=inplace_update, seed=seed, return_weight=return_weight, **options
            )
            return result
        weight = weight.to(self.factory_kwargs["dtype"] if self.is_stored else self.weight.dtype)
        if return_weight:
            return weight
        self.weight = nn.Parameter(weight, requires_grad=False)
        return None


class GgufPatcher(comfy.model_patcher.ModelPatcher):
    """A MODEL whose LoRAs are added where :class:`GgufLinear` decodes, so that its weights stay in blocks."""

    def patch_weight_to_device(
        self, key: str, *rest: Any, return_weight: bool = False, **options: Any
    ) -> Any:
        if not return_weight and key in self._stored():
            return None
        return super().patch_weight_to_device(key, *rest, return_weight=return_weight, **options)

    def load(self, *rest: Any, **options: Any) -> Any:
        result = super().load(*rest, **options)
        self._change_when_used()
        return result

    def partially_unload(self, *rest: Any, **options: Any) -> Any:
        result = super().partially_unload(*rest, **options)
        self._change_when_used()
        return result

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        super().unpatch_model(device_to, unpatch_weights=unpatch_weights)
        if unpatch_weights:
            for layer in self._stored().values():
                layer.weight_function = []

    def patch_hook_weight_to_device(
        self, hooks: Any, combined_patches: Any, key: str, original_weights: Any, *rest: Any, **options: Any
    ) -> None:
        if key in self._stored():
            del original_weights[key]
            return
        super().patch_hook_weight_to_device(hooks, combined_patches, key, original_weights, *rest, **options)

    def patch_hooks(self, hooks: Any) -> None:
        super().patch_hooks(hooks)
        self._change_when_used()

    def unpatch_hooks(self, *rest: Any, **options: Any) -> None:
        super().unpatch_hooks(*rest, **options)
        self._change_when_used()

    def state_dict_for_saving(self, *rest: Any, **options: Any) -> Options:
        raise ValueError(
            "a model of a GGUF file cannot be saved, because ComfyUI has no name for its blocks. Load the "
            "model from a safetensors file to save it with its LoRAs"
        )

    def _stored(self) -> dict[str, Any]:
        """The layers whose weights are in blocks, by the names of these weights in the MODEL."""
        return {
            f"{name}.weight": module for name, module in self.model.named_modules() if is_gguf_layer(module)
        }

    def _change_when_used(self) -> None:
        """Give each layer the LoRAs of this MODEL and those of the hooks that are at work."""
        hooked = self.current_hooks and self.get_combined_hook_patches(hooks=self.current_hooks)
        for key, layer in self._stored().items():
            loras = [_Loras(key, patches) for patches in (self.patches, hooked or {}) if key in patches]
            layer.weight_function = [*loras, *self.weight_wrapper_patches.get(key, [])]


@dataclass(frozen=True)
class _Loras:
    """Adds the LoRAs of one weight to the decoded weight."""

    key: str
    patches: Mapping[str, Any]

    def __call__(self, weight: Tensor) -> Tensor:
        result: Tensor = comfy.lora.calculate_weight(
            self.patches[self.key], weight, self.key, intermediate_dtype=weight.dtype
        )
        return result
