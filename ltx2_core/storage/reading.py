"""Reads the tensors of header entries into a state dict, in their stored format or decoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .dequantize import decode, logical_shape, read_marker
from .finite import check_loaded
from .gguf import is_gguf, read_gguf_tensors
from .gguf_blocks import BLOCKS
from .header import TensorInfo
from .quantized import TORCH_DTYPES, StoredLayer

Infos = Mapping[str, TensorInfo]
"""Official name without prefix -> header entry, which holds file and position of the tensor."""

ALIGNMENT = 64
"""Bytes to which torch aligns tensors that it allocates itself."""

_METADATA = "_quantization_metadata"


def read_tensors(infos: Infos) -> dict[str, Tensor]:
    """Read tensors in their stored format, memory-mapped; raises ValueError for a damaged file.

    ``infos`` maps the names that they get in the result to their header entries.
    """
    by_file: dict[Path, list[tuple[str, str]]] = {}
    for own, info in infos.items():
        # Grouped by file, so that each file is opened once.
        by_file.setdefault(info.path, []).append((own, info.name))
    tensors: dict[str, Tensor] = {}
    for path, pairs in by_file.items():
        if is_gguf(path):
            tensors.update(read_gguf_tensors(path, {own: infos[own] for own, _ in pairs}))
            continue
        try:
            # Opened on the CPU, where tensors map the file: what is converted or moved later is read only
            # once.
            with safe_open(path, framework="pt", device="cpu") as file:
                tensors.update((own, file.get_tensor(name)) for own, name in pairs)
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read as safetensors ({error}); get it again") from None
    return tensors


def read_markers(infos: Infos, metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Read the markers of quantised layers: JSON objects that name the format, by the layer's official name.

    ``infos`` maps official tensor names to header entries. Markers are in ``metadata`` of the header or in
    small tensors ``comfy_quant``. Raises ValueError for a malformed marker.
    """
    stated = metadata.get(_METADATA, {})
    layers = stated.get("layers", {}) if isinstance(stated, Mapping) else None
    if not isinstance(layers, Mapping) or not all(isinstance(e, Mapping) for e in layers.values()):
        raise ValueError(f"metadata {_METADATA!r} is not of the form {{'layers': {{name: {{...}}}}}}")
    markers: dict[str, Mapping[str, Any]] = {}
    for own, info in infos.items():
        # Only weights are quantised, so that other names need no look-up.
        if own.endswith(".weight"):
            layer = own.removesuffix(".weight")
            # Layer names in the metadata are written with or without the file's prefix.
            entry = layers.get(layer, layers.get(info.name.removesuffix(".weight")))
            if entry is not None:
                markers[layer] = entry
    found = {own: info for own, info in infos.items() if own.endswith(".comfy_quant")}
    for own, tensor in read_tensors(found).items():
        layer = own.removesuffix(".comfy_quant")
        markers[layer] = read_marker(layer, bytes(tensor.flatten().view(torch.uint8).tolist()))
    return markers


def read_state(
    infos: Infos,
    layers: Mapping[str, StoredLayer],
    resident: frozenset[str],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | None,
    device: torch.device,
) -> dict[str, Tensor]:
    """Read the tensors ``infos`` as a state dict on ``device``, quantised layers as stored or decoded.

    ``layers`` are the quantised layers. Those whose names are in ``resident`` stay in their stored format;
    the others are decoded to ``shapes``, the shapes of the network's tensors. All other tensors are converted
    to ``dtype``. With ``dtype`` None their dtype is preserved, except that fp8 tensors and decoded layers
    become bfloat16.

    Raises ValueError, naming tensor and file, for values that are NaN or infinite.
    """
    stored: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Tensor] = {}
    for own, tensor in read_tensors(infos).items():
        layer, _, last = own.rpartition(".")
        if layer in layers and last in layers[layer].infos:
            if layer in resident:
                state[own] = tensor.to(device)
                check_loaded(state[own], infos[own])
            else:
                check_loaded(tensor, infos[own])
                stored.setdefault(layer, {})[last] = tensor
        else:
            # fp8 is a storage format only, so an fp8 tensor without scale is cast too.
            target = torch.bfloat16 if dtype is None and tensor.dtype.itemsize == 1 else dtype
            state[own] = _aligned(tensor.to(device=device, dtype=target))
            # On the CPU the stored tensor has fewer bytes to read; a device is faster with what it holds.
            check_loaded(tensor if device.type == "cpu" else state[own], infos[own])
    for name, tensors in stored.items():
        # Layer by layer after all files are read, because the scales of a layer may be in another shard.
        decoded = decode(name, layers[name].form, tensors, shapes[f"{name}.weight"])
        state[f"{name}.weight"] = decoded.to(device=device, dtype=dtype or torch.bfloat16)
    return state


def _aligned(tensor: Tensor) -> Tensor:
    """Return ``tensor``, or a copy of float32 values that a file holds at a place that is not aligned.

    On processors the place decides how a product of float32 matrices is rounded, so that equal weights in
    another file would give another clip. Products of narrower numbers do not depend on it.
    """
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone()


def decoded_shape(info: TensorInfo) -> tuple[int, ...]:
    """Shape of a tensor after decoding, from its header entry, including padding to whole blocks."""
    if info.dtype in BLOCKS:
        return info.shape
    return logical_shape(TORCH_DTYPES.get(info.dtype, torch.float32), info.shape)
