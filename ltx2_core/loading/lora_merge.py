"""Merges LoRAs into the weights of a network, and switches between LoRAs without drift.

A merged weight is always computed from the file's original weight, never from a merged one. So a network
whose LoRAs were switched equals a freshly loaded one bit for bit. Letters: R rank, I inputs, O outputs.
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
from ..storage.finite import check_finite, check_loaded
from ..storage.quantize import encode
from ..storage.quantized import STORED_DTYPES, QuantizedLinear, StoredLayer
from ..storage.reading import Infos, read_state, read_tensors
from .detect import Component
from .lora import Lora
from .lora_dialects import LoraLayer
from .lora_kinds import change, rank_of, rescaled
from .lora_report import LoraReport

log = logging.getLogger(__name__)

ROWS = 256
"""Rows of a weight that are converted to float32 at a time."""

Layers = Mapping[str, StoredLayer]
Change = tuple[Lora, LoraLayer, float]
Changes = Mapping[str, Sequence[Change]]
"""Module -> the LoRA layers that change it, each with its strength. Lists are not empty, strengths not 0."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Describes the original tensors of a component in its model file, and how they are loaded.

    ``infos`` are header entries by the names of tensors in official checkpoints, whatever the file calls
    them. ``layers`` are the quantised layers, of which those in ``resident`` stay quantised in the network.
    ``shapes`` are the decoded shapes of the network's tensors. ``dtype``, ``device`` and ``merge_device`` are
    the arguments of ``Checkpoint.load``.
    """

    infos: Infos
    layers: Layers
    resident: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype | None
    device: torch.device
    merge_device: torch.device | None = None

    @property
    def merging(self) -> torch.device:
        """The device on which merged weights are computed."""
        return self.merge_device or self.device

    def state(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Read the tensors ``names`` from the file as a state dict, without any LoRA."""
        infos = {name: self.infos[name] for name in names}
        return read_state(infos, self.layers, self.resident, self.shapes, self.dtype, self.device)

    def names(self, module: str) -> list[str]:
        """Names of the stored tensors of ``module``: its weight, and scales and others if it is quantised."""
        layer = self.layers.get(module)
        return [f"{module}.{suffix}" for suffix in (layer.infos if layer else ("weight",))]

    def is_mapped(self, tensor: Tensor, stored: torch.dtype | None) -> bool:
        """Whether a loaded tensor is a view of the memory-mapped file, and so must not be written to.

        ``stored`` is the tensor's dtype in the file; None for a quantised layer.
        """
        # A tensor of another dtype was converted, and with that copied.
        return self.device.type == "cpu" and tensor.dtype == stored


def find_changes(
    loras: Sequence[Lora],
    component: Component,
    shapes: Mapping[str, tuple[int, ...]],
    generation: str | None,
) -> tuple[dict[str, list[Change]], list[LoraReport]]:
    """Find what ``loras`` change in a component: (changes by module, one report for each LoRA).

    ``shapes`` are those of the component's tensors by official name; ``generation`` is the model's, such as
    "2.3", or None if unknown. Reports are also logged. Raises ValueError if a LoRA has layers for this
    component but none fits.
    """
    changes: dict[str, list[Change]] = {}
    reports = []
    for lora in loras:
        report = lora.report(component, shapes, generation)
        report.require_match()
        reports.append(report)
        log.log(logging.INFO if report.is_clean else logging.WARNING, "%s", report)
        for module, layer in lora.pairs(component, shapes).items():
            # Strength 0 leaves the weights as they are in the file.
            if strength := lora.strength_of(module):
                changes.setdefault(module, []).append((lora, layer, strength))
    return changes, reports


@torch.no_grad()
def merged(
    base: Base, changes: Changes, memory: Callable[[str], Tensor | None] = lambda module: None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (module, its merged tensors) for every changed module.

    The tensors are ``weight`` and, if the module is quantised, its new scales. ``changes`` are the LoRA
    layers by module, ``base`` describes the original weights. ``memory`` may return an existing weight for a
    module name; the merged weight is then written into that tensor to save memory. Each module is computed on
    ``base.merging``, and its tensors are on ``base.device``.
    """
    for module, tensors in _merged(base, changes, memory):
        yield module, {suffix: tensor.to(base.device) for suffix, tensor in tensors.items()}


@torch.no_grad()
def _merged(
    base: Base, changes: Changes, memory: Callable[[str], Tensor | None]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    stored = read_tensors({n: base.infos[n] for module in changes for n in base.names(module)})
    for name, tensor in stored.items():
        check_loaded(tensor, base.infos[name])
    # Each file is opened once, however many layers it has.
    files = {lora.path: safe_open(lora.path, framework="pt") for c in changes.values() for lora, _, _ in c}
    for module, own in changes.items():
        tensors = {name.rpartition(".")[2]: stored.pop(name) for name in base.names(module)}
        pairs = [
            _read(files[lora.path], lora, layer, strength, base.merging) for lora, layer, strength in own
        ]
        layer = base.layers.get(module)
        if layer is None:
            weight, out = tensors["weight"], memory(module)
            if out is None or out.device.type != base.merging.type:
                # Sums of fp8 and a LoRA need more than eight bits.
                decoded_dtype = torch.bfloat16 if weight.dtype.itemsize == 1 else weight.dtype
                out = torch.empty(weight.shape, dtype=base.dtype or decoded_dtype, device=base.merging)
            yield module, {"weight": merge_into(out, weight, pairs)}
            continue
        tensors = {suffix: tensor.to(base.merging) for suffix, tensor in tensors.items()}
        weight = decode(module, layer.form, tensors, base.shapes[f"{module}.weight"])
        if module in base.resident:
            # The merged weight gets scales of its own, so that those of the file are dropped.
            others = {s: t for s, t in tensors.items() if s not in ("weight", "weight_scale_2", *SCALE_NAMES)}
            stored_dtype = tensors["weight"].dtype
            # Wide floats need no scale; it is merged into the weight.
            if layer.form.kind == "float" and stored_dtype.itemsize > 1:
                yield module, {**others, "weight": merge_weight(weight, pairs, stored_dtype)}
            else:
                yield module, {**others, **encode(layer.form, merge_into(weight, weight, pairs))}
        else:
            yield module, {"weight": merge_weight(weight, pairs, base.dtype or torch.bfloat16)}


def put(network: nn.Module, module: str, tensors: Mapping[str, Tensor], base: Base) -> None:
    """Replace the tensors of ``module`` in a loaded network.

    ``tensors`` are by name, such as "weight". The weight is copied into the existing parameter where
    possible, but not if the new weight is a view of the memory-mapped file of ``base``.
    """
    layer = network.get_submodule(module)
    if isinstance(layer, QuantizedLinear):
        # A merged layer is encoded again and may have other companions than in the file.
        for suffix in layer.companions:
            if suffix not in tensors:
                delattr(layer, suffix)
        for suffix, tensor in tensors.items():
            # Buffers, since quantised weights are never trained.
            layer.register_buffer(suffix, tensor)
        layer.companions = tuple(suffix for suffix in tensors if suffix != "weight")
        return
    old, new = layer.get_parameter("weight"), tensors["weight"]
    is_alike = old.dtype == new.dtype and old.shape == new.shape and old.device == new.device
    # The merged weight was written into the memory of this parameter.
    if is_alike and old.data_ptr() == new.data_ptr():
        return
    if is_alike and not base.is_mapped(new, _stored_dtype(base, module)):
        with torch.no_grad():
            old.copy_(new)
    else:
        layer.register_parameter("weight", nn.Parameter(new, requires_grad=False))


def switch(network: nn.Module, base: Base, before: Changes, after: Changes) -> None:
    """Undo the LoRA changes ``before`` in a loaded network and apply ``after``, layer by layer, in place.

    ``base`` describes the original weights in the file. At most one layer is in memory twice.
    """
    # Modules that both change are computed from the file by ``merged`` below.
    for module in before.keys() - after.keys():
        names = base.names(module)
        tensors = {name.rpartition(".")[2]: t for name, t in base.state(names).items()}
        put(network, module, tensors, base)

    def own_memory(module: str) -> Tensor | None:
        weight = network.get_submodule(module).get_parameter("weight").data
        # Memory that maps the file must not be written into.
        mapped = base.is_mapped(weight, _stored_dtype(base, module)) and module not in before
        return None if mapped else weight

    for module, tensors in merged(base, after, own_memory):
        put(network, module, tensors, base)


def network_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a network by name; those of quantised layers are the decoded shapes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, layer in network.named_modules():
        if isinstance(layer, QuantizedLinear):
            shapes[f"{name}.weight"] = (layer.out_features, layer.in_features)
    return shapes


@dataclass(frozen=True)
class _Pair:
    """The matrices A (R, I) and B (O, R) of a LoRA layer, and their factor ``scale``.

    The factor is the scale of the layer (alpha / rank) times the strength of the LoRA.
    """

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class _Delta:
    """The weight change (O, I) of a DoRA, LoKr or LoHa, multiplied out and with its scale.

    ``magnitude`` and ``merged_norm`` are those of a DoRA, see :class:`Magnitude`; for the other kinds
    ``magnitude`` is None and ``merged_norm`` is not read.
    """

    delta: Tensor
    strength: float
    magnitude: Tensor | None
    merged_norm: bool

    def added_to(self, weight: Tensor) -> Tensor:
        """Return ``weight`` (O, I), which is float32, with this change applied.

        ``weight`` itself may change too.
        """
        delta = self.delta.reshape(weight.shape)
        if self.magnitude is None:
            return weight.add_(delta, alpha=self.strength)
        return rescaled(weight, delta, self.magnitude, self.strength, merged=self.merged_norm)


_AnyChange = _Pair | _Delta


def _read(file: Any, lora: Lora, layer: LoraLayer, strength: float, device: torch.device) -> _AnyChange:
    """Read the tensors of one LoRA layer and return the change that it makes, on ``device``.

    ``file`` is the opened safetensors file of ``lora``. Raises ValueError, naming tensor and file, for values
    that are NaN or infinite.
    """

    def read(name: str) -> Tensor:
        tensor: Tensor = file.get_tensor(name).to(device)
        check_finite(tensor, name, lora.path)
        return tensor

    tensors = {name: read(name) for name in layer.names}
    scale = layer.scale
    if layer.alpha is not None:
        shapes = {role: tuple(tensors[name].shape) for role, name in layer.factors.items()}
        rank = rank_of(shapes) if layer.factors else tensors[layer.a].shape[0]
        # kohya's convention: alpha / rank is the factor, and without alpha it is 1.
        scale = file.get_tensor(layer.alpha).item() / rank if rank else 1.0
    # Written so that NaN fails too.
    if not abs(scale * strength) <= torch.finfo(torch.float32).max:
        raise ValueError(
            f"{lora.path}: {layer.names[0]} is to be scaled by {scale * strength:g}; the file is damaged"
        )
    if not layer.factors and layer.magnitude is None:
        return _Pair(tensors[layer.a], tensors[layer.b], scale * strength)
    if layer.factors:
        delta = change({role: tensors[name] for role, name in layer.factors.items()})
    else:
        delta = tensors[layer.b].float() @ tensors[layer.a].float()
    magnitude = None if layer.magnitude is None else read(layer.magnitude.name).float()
    merged_norm = layer.magnitude is not None and layer.magnitude.merged_norm
    return _Delta(delta.mul_(scale), strength, magnitude, merged_norm)


def merge_weight(weight: Tensor, pairs: Sequence[_AnyChange], dtype: torch.dtype) -> Tensor:
    """Apply all changes to ``weight`` (O, I) in float32, and round the result once to ``dtype``.

    A LoRA adds scale * B @ A. A DoRA rescales all that earlier changes have made, so that the order counts.
    """
    return merge_into(torch.empty(weight.shape, dtype=dtype, device=weight.device), weight, pairs)


def merge_into(out: Tensor, weight: Tensor, changes: Sequence[_AnyChange]) -> Tensor:
    """Like :func:`merge_weight`, but writes the result into ``out`` (O, I), which may be ``weight`` itself.

    Computes on the device of ``out``.
    """
    pairs = [change for change in changes if isinstance(change, _Pair) and change.scale]
    # A DoRA rescales what is there, so that the order of changes counts.
    if any(isinstance(change, _Delta) for change in changes):
        return out.copy_(_changed_in_order(weight.to(out.device, torch.float32, copy=True), changes))
    # The largest scale comes first, because the bfloat16 path expresses the others relative to it.
    pairs = sorted(pairs, key=lambda p: abs(p.scale), reverse=True)
    if not pairs:
        return out.copy_(weight)
    stored = all(t.dtype == torch.bfloat16 for p in pairs for t in (out, weight, p.a, p.b))
    if stored and _multiplies_bfloat16(out.device):
        return _merge_bfloat16(out, weight, pairs)
    return _merge_float32(out, weight, pairs)


def _changed_in_order(total: Tensor, changes: Sequence[_AnyChange]) -> Tensor:
    """Apply the changes to ``total`` (O, I) in float32 one after another, in their order.

    With a DoRA among them the order counts, because it rescales what was changed before it.
    """
    for one in changes:
        if isinstance(one, _Delta):
            total = one.added_to(total)
        else:
            total.addmm_(one.b.float(), one.a.float(), alpha=one.scale)
    return total


def _merge_bfloat16(out: Tensor, weight: Tensor, pairs: Sequence[_Pair]) -> Tensor:
    # The matrix multiplication sums in float32, in which products of bfloat16 are exact. So this equals the
    # float32 path up to the order of the sum, and needs no conversions.
    a, b = _stacked(pairs)
    out.copy_(weight)
    # A CPU without such products keeps a float32 copy of what it sums; a GPU does not.
    height = ROWS if out.device.type == "cpu" else max(len(out), 1)
    for start in range(0, len(out), height):
        rows = slice(start, start + height)
        out[rows].addmm_(b[rows], a, alpha=pairs[0].scale)
    return out


def _merge_float32(out: Tensor, weight: Tensor, pairs: Sequence[_Pair]) -> Tensor:
    # In slices of rows, so that the float32 copy of a large weight never exists as a whole.
    wide = [pair.a.float() for pair in pairs]
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        total = weight[rows].to(out.device, torch.float32, copy=True)
        for pair, wide_a in zip(pairs, wide, strict=True):
            total.addmm_(pair.b[rows].float(), wide_a, alpha=pair.scale)
        out[rows] = total
    return out


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 in hardware; without it a CPU takes 60 times as long."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _stacked(pairs: Sequence[_Pair]) -> tuple[Tensor, Tensor]:
    """Join the matrices of all pairs to one A (R, I) and one B (O, R), all of them bfloat16.

    The sum of their changes is B @ A times the factor of the first pair, which must be the largest. The
    factors of the others, relative to it, are multiplied into their A. Such an A would be rounded in
    bfloat16, so it is split into a high and a low part, which together have 16 significant bits.
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
    return None if module in base.layers else STORED_DTYPES[base.infos[f"{module}.weight"].dtype]
