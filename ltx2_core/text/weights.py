"""Puts the tensors of a text encoder's files into the network of the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..storage.files import ParsedJson
from ..storage.header import TensorInfo
from ..storage.quantized import StoredLayer, find_quantized, replace_linears
from ..storage.reading import read_markers, read_state

Shapes = Mapping[str, tuple[int, ...]]


def read_weights(
    model: Any,
    infos: Mapping[str, TensorInfo],
    metadata: ParsedJson,
    dtype: torch.dtype,
    device: torch.device,
    *,
    decode: Callable[[str], bool] = lambda name: False,
) -> dict[str, Tensor]:
    """Read the tensors ``infos`` for ``model``, which is on the ``meta`` device, as ``dtype`` on ``device``.

    Quantised layers of the model are replaced by layers that decode their weights in the forward pass, except
    those whose name ``decode`` accepts: their weights are decoded here. ``metadata`` is that of the file.
    Raises ValueError unless names and shapes are those of the model.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    layers = find_quantized(infos, read_markers(infos, metadata))
    # Scales have no counterpart in the model of transformers and would count as unexpected.
    companions = {f"{name}.{s}" for name, layer in layers.items() for s in layer.infos if s != "weight"}
    _check(
        {
            name: _decoded(name, info, layers, shapes)
            for name, info in infos.items()
            if name not in companions
        },
        shapes,
    )
    resident = replace_linears(model, [layer for name, layer in layers.items() if not decode(name)])
    return read_state(infos, layers, resident, shapes, dtype, device)


def _decoded(
    name: str, info: TensorInfo, layers: Mapping[str, StoredLayer], shapes: Shapes
) -> tuple[int, ...]:
    """Shape of the tensor ``name`` after decoding, without the padding of quantised formats.

    ``info`` is its header entry, ``layers`` are the quantised layers, ``shapes`` those that the network has.
    """
    layer = layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
    if layer is None:
        return info.shape
    expected = shapes.get(name, ())
    return expected if layer.fits(expected) else layer.shape


def _check(actual: Shapes, expected: Shapes) -> None:
    """Raise ValueError unless the tensors of the file, ``actual``, have the names and shapes ``expected``."""
    missing = sorted(expected.keys() - actual.keys())
    unexpected = sorted(actual.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(
            "the weights do not fit the configuration: "
            f"{len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )
    for name, shape in expected.items():
        if actual[name] != shape:
            raise ValueError(f"{name} has shape {actual[name]}; its config.json says {shape}")
