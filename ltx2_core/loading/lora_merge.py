"""Merges LoRAs into the weights of a network, once, and exchanges them without drift.

Every merged weight is computed from the file's own, never from one that was merged before, so exchanging
sets of LoRAs any number of times gives the bits of a fresh load. Letters: R rank, I inputs, O outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..storage.dequantize import SCALE_NAMES, decode
from ..storage.quantize import encode
from ..storage.quantized import TORCH_DTYPES, QuantizedLinear, StoredLayer
from ..storage.reading import Infos, read_state, read_tensors
from .detect import Component
from .lora import Lora
from .lora_dialects import LoraLayer
from .lora_report import LoraReport

log = logging.getLogger(__name__)

ROWS = 256
"""Rows of a weight that are in float32 at once."""

Layers = Mapping[str, StoredLayer]
Change = tuple[Lora, LoraLayer, float]
Changes = Mapping[str, Sequence[Change]]
"""Module -> the pairs that change it, each with its strength; never empty, never at strength 0."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The file's tensors of a component, and as what they are loaded.

    ``layers`` are the quantised ones, of which ``resident`` stay as they are stored; ``shapes`` are those of
    the network's tensors once they are decoded.
    """

    infos: Infos
    layers: Layers
    resident: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype | None
    device: torch.device

    def state(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Those tensors as they are without any LoRA."""
        infos = {name: self.infos[name] for name in names}
        return read_state(infos, self.layers, self.resident, self.shapes, self.dtype, self.device)

    def names(self, module: str) -> list[str]:
        """The weight of a module and what belongs to it."""
        layer = self.layers.get(module)
        return [f"{module}.{suffix}" for suffix in (layer.infos if layer else ("weight",))]

    def is_mapped(self, tensor: Tensor, stored: torch.dtype | None) -> bool:
        """Whether the tensor, unchanged, would only be a view of the file."""
        return self.device.type == "cpu" and tensor.dtype == stored


def find_changes(
    loras: Sequence[Lora],
    component: Component,
    shapes: Mapping[str, tuple[int, ...]],
    generation: str | None,
) -> tuple[dict[str, list[Change]], list[LoraReport]]:
    """Which modules are changed by what, and the reports, which are logged.

    Raises ValueError where a LoRA addresses this component and fits it nowhere.
    """
    changes: dict[str, list[Change]] = {}
    reports = []
    for lora in loras:
        report = lora.report(component, shapes, generation)
        report.require_match()
        reports.append(report)
        log.log(logging.INFO if report.is_clean else logging.WARNING, "%s", report)
        for module, layer in lora.pairs(component, shapes).items():
            if strength := lora.strength_of(component, module):
                changes.setdefault(module, []).append((lora, layer, strength))
    return changes, reports


@torch.no_grad()
def merged(
    base: Base, changes: Changes, memory: Callable[[str], Tensor | None] = lambda module: None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every changed module with its new tensors by suffix: ``weight``, and its scales where quantised.

    ``memory`` may give a weight to write the new one into, so that both never exist at once.
    """
    stored = read_tensors({n: base.infos[n] for module in changes for n in base.names(module)})
    files = {lora.path: safe_open(lora.path, framework="pt") for c in changes.values() for lora, _, _ in c}
    for module, own in changes.items():
        tensors = {name.rpartition(".")[2]: stored.pop(name) for name in base.names(module)}
        pairs = [
            _Pair.read(files[lora.path], lora, layer, strength, base.device) for lora, layer, strength in own
        ]
        layer = base.layers.get(module)
        if layer is None:
            weight, out = tensors["weight"], memory(module)
            if out is None:
                decoded_dtype = torch.bfloat16 if weight.dtype.itemsize == 1 else weight.dtype
                out = torch.empty(weight.shape, dtype=base.dtype or decoded_dtype, device=base.device)
            yield module, {"weight": merge_into(out, weight, pairs)}
            continue
        tensors = {suffix: tensor.to(base.device) for suffix, tensor in tensors.items()}
        weight = decode(module, layer.form, tensors, base.shapes[f"{module}.weight"])
        if module in base.resident:
            kept = {s: t for s, t in tensors.items() if s not in ("weight", "weight_scale_2", *SCALE_NAMES)}
            stored_dtype = tensors["weight"].dtype
            if layer.form.kind == "float" and stored_dtype.itemsize > 1:
                yield module, {**kept, "weight": merge_weight(weight, pairs, stored_dtype)}
            else:
                yield module, {**kept, **encode(layer.form, merge_into(weight, weight, pairs))}
        else:
            yield module, {"weight": merge_weight(weight, pairs, base.dtype or torch.bfloat16)}


def put(network: nn.Module, module: str, tensors: Mapping[str, Tensor], base: Base) -> None:
    """Give a module of the loaded network new tensors, in place where they have memory of their own."""
    layer = network.get_submodule(module)
    if isinstance(layer, QuantizedLinear):
        for suffix in layer.companions:
            if suffix not in tensors:
                delattr(layer, suffix)
        for suffix, tensor in tensors.items():
            layer.register_buffer(suffix, tensor)
        layer.companions = tuple(suffix for suffix in tensors if suffix != "weight")
        return
    old, new = layer.get_parameter("weight"), tensors["weight"]
    is_alike = old.dtype == new.dtype and old.shape == new.shape and old.device == new.device
    if is_alike and old.data_ptr() == new.data_ptr():
        return
    if is_alike and not base.is_mapped(new, _stored_dtype(base, module)):
        with torch.no_grad():
            old.copy_(new)
    else:
        layer.register_parameter("weight", nn.Parameter(new, requires_grad=False))


def switch(network: nn.Module, base: Base, before: Changes, after: Changes) -> None:
    """Exchange the changes in a loaded network, layer by layer; at most one layer exists twice."""
    for module in before.keys() - after.keys():
        names = base.names(module)
        tensors = {name.rpartition(".")[2]: t for name, t in base.state(names).items()}
        put(network, module, tensors, base)

    def own_memory(module: str) -> Tensor | None:
        weight = network.get_submodule(module).get_parameter("weight").data
        mapped = base.is_mapped(weight, _stored_dtype(base, module)) and module not in before
        return None if mapped else weight

    for module, tensors in merged(base, after, own_memory):
        put(network, module, tensors, base)


def network_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The decoded shape of every weight of a network, quantised layers among them."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, layer in network.named_modules():
        if isinstance(layer, QuantizedLinear):
            shapes[f"{name}.weight"] = (layer.out_features, layer.in_features)
    return shapes


@dataclass(frozen=True)
class _Pair:
    a: Tensor
    b: Tensor
    scale: float

    @classmethod
    def read(cls, file: Any, lora: Lora, layer: LoraLayer, strength: float, device: torch.device) -> _Pair:
        a, b = (file.get_tensor(name).to(device) for name in (layer.a, layer.b))
        scale = file.get_tensor(layer.alpha).item() / a.shape[0] if layer.alpha else layer.scale
        scale *= strength
        if not abs(scale) <= torch.finfo(torch.float32).max:
            raise ValueError(f"{lora.path}: {layer.a} is to be scaled by {scale:g}; the file is damaged")
        return cls(a, b, scale)


def merge_weight(weight: Tensor, pairs: Sequence[_Pair], dtype: torch.dtype) -> Tensor:
    """weight (O, I) + sum of scale * B @ A, summed in float32 and rounded once to ``dtype``."""
    return merge_into(torch.empty(weight.shape, dtype=dtype, device=weight.device), weight, pairs)


def merge_into(out: Tensor, weight: Tensor, pairs: Sequence[_Pair]) -> Tensor:
    """:func:`merge_weight` into ``out`` (O, I), which may be ``weight``; on the device of ``out``."""
    pairs = sorted((p for p in pairs if p.scale), key=lambda p: abs(p.scale), reverse=True)
    if not pairs:
        return out.copy_(weight)
    stored = all(t.dtype == torch.bfloat16 for p in pairs for t in (out, weight, p.a, p.b))
    if stored and _multiplies_bfloat16(out.device):
        return _merge_bfloat16(out, weight, pairs)
    return _merge_float32(out, weight, pairs)


def _merge_bfloat16(out: Tensor, weight: Tensor, pairs: Sequence[_Pair]) -> Tensor:
    # Products of bfloat16 are exact in the float32 that the matrix multiplication sums in, the weight
    # included, so nothing is lost and nothing has to be converted.
    a, b = _stacked(pairs)
    return out.copy_(weight).addmm_(b, a, alpha=pairs[0].scale)


def _merge_float32(out: Tensor, weight: Tensor, pairs: Sequence[_Pair]) -> Tensor:
    wide = [pair.a.float() for pair in pairs]
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        total = weight[rows].to(out.device, torch.float32, copy=True)
        for pair, wide_a in zip(pairs, wide, strict=True):
            total.addmm_(pair.b[rows].float(), wide_a, alpha=pair.scale)
        out[rows] = total
    return out


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for it; a processor without (AVX2) takes 60 times as long as in
    float32.
    """
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _stacked(pairs: Sequence[_Pair]) -> tuple[Tensor, Tensor]:
    """A (R, I) and B (O, R) whose product is that of all pairs, in units of the first, the largest, scale.

    A factor that bfloat16 cannot hold becomes two, which together keep 16 bits of it.
    """
    if len(pairs) == 1:
        return pairs[0].a, pairs[0].b
    a, b = [pairs[0].a], [pairs[0].b]
    for pair in pairs[1:]:
        scaled = pair.a.float() * (pair.scale / pairs[0].scale)
        high = scaled.bfloat16()
        low = (scaled - high).bfloat16()
        a += [high, low]
        b += [pair.b, pair.b]
    return torch.cat(a), torch.cat(b, dim=1)


def _stored_dtype(base: Base, module: str) -> torch.dtype | None:
    return None if module in base.layers else TORCH_DTYPES[base.infos[f"{module}.weight"].dtype]
