"""Projections of one input as one matrix product: gates of heads, q, k and v of self-attention.

In other attention gates and q are one, k and v another.

Names of layers and values of weights do not change; the weights become consecutive parts of one tensor. If
they no longer are, after a layer was moved or a weight replaced, each layer multiplies by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

_SELF = ("attn1", "audio_attn1")


def pack_projections(blocks: nn.Module) -> int:
    """Move the weights of those projections in ``blocks`` that have the same input together in memory.

    Returns how many matrix products per forward pass that saves. Groups of layers are moved one after
    another, so that at most one group exists twice. Layers of other classes than ``nn.Linear``, such as
    quantised ones, and weights that require gradients are not touched.
    """
    saved = 0
    for layers in _groups(blocks):
        if together(layers) is None and _can_pack(layers):
            _pack(layers)
            saved += len(layers) - 1
    return saved


def together(layers: Sequence[Any]) -> tuple[Tensor, Tensor | None] | None:
    """The weights (O, I) of ``layers`` as one view (sum of all O, I), and their biases likewise.

    The second is None for layers without bias. The result is None if the weights are not consecutive in
    memory, or if a layer is of another class than ``nn.Linear``, which may change or decode its weight before
    it multiplies.
    """
    if any(type(layer) is not nn.Linear for layer in layers):
        return None
    weight = _consecutive([layer.weight for layer in layers])
    if weight is None:
        return None
    biases = [layer.bias for layer in layers]
    if biases[0] is None:
        return weight, None
    bias = _consecutive(biases)
    return None if bias is None else (weight, bias)


def _consecutive(tensors: Sequence[Tensor | None]) -> Tensor | None:
    first = tensors[0]
    if not isinstance(first, nn.Parameter):
        return None
    # Tensors that are neighbours by chance are in storages of their own.
    place, rows, storage = first.storage_offset(), 0, first.untyped_storage()._cdata
    for tensor in tensors:
        alike = tensor is not None and tensor.dtype == first.dtype and tensor.shape[1:] == first.shape[1:]
        if not alike or tensor is None or tensor.untyped_storage()._cdata != storage:
            return None
        if tensor.storage_offset() != place or not tensor.is_contiguous():
            return None
        place += tensor.numel()
        rows += len(tensor)
    # A view, so that writing into a layer's weight, as a LoRA does, changes what the joint product reads.
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


def _groups(blocks: nn.Module) -> Iterator[list[Any]]:
    for name, module in blocks.named_modules():
        if hasattr(module, "to_q") and hasattr(module, "to_v"):
            # Only self-attention has queries from the same input as its keys and values. Elsewhere the query
            # reads the stream itself and the others read the text or the other stream.
            first, others = [module.to_q], [module.to_k, module.to_v]
            if _is_aligned(module.to_gate_logits):
                first.insert(0, module.to_gate_logits)
            yield from ([[*first, *others]] if name.rpartition(".")[2] in _SELF else [first, others])


def _is_aligned(gates: Any) -> bool:
    """Whether queries behind the logits of ``gates`` begin at multiples of 16 bytes, as attention needs."""
    return type(gates) is nn.Linear and gates.out_features * gates.weight.itemsize % 16 == 0


def _can_pack(layers: Sequence[Any]) -> bool:
    # A weight in training has to stay a leaf of its own: the joint view would have no gradient for it.
    plain = all(type(layer) is nn.Linear and not layer.weight.requires_grad for layer in layers)
    if not plain:
        return False
    kinds = {
        (layer.weight.dtype, layer.weight.device, layer.in_features, layer.bias is None) for layer in layers
    }
    return len(kinds) == 1


def _pack(layers: Sequence[nn.Linear]) -> None:
    for name in ("weight", "bias"):
        parts = [getattr(layer, name) for layer in layers]
        # Layers without a bias have nothing to pack.
        if parts[0] is None:
            continue
        whole = parts[0].data.new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
        for part, room in zip(parts, whole.split([len(part) for part in parts]), strict=True):
            room.copy_(part.data)
            # The parameters stay the same objects, so that names and references to them remain valid.
            part.data = room
