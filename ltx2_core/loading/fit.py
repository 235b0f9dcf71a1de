"""Checks that a file's tensors fit a network, by names and shapes, before any tensor is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..storage.header import TensorInfo
from ..storage.quantized import StoredLayer
from ..storage.reading import decoded_shape
from .detect import Component

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def check_fit(
    path: Path,
    component: Component,
    infos: Mapping[str, TensorInfo],
    layers: Mapping[str, StoredLayer],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise ValueError if a component's tensors do not fit its network.

    The error lists missing and unexpected tensors, and those of another shape or dtype. ``path`` is the file,
    for the message. ``infos`` are the component's header entries by official name, ``layers`` the quantised
    layers among them, ``expected`` the shapes of the network's tensors by name.
    """
    # Scales belong to a weight and are no tensors of the plain network.
    companions = {f"{name}.{s}" for name, layer in layers.items() for s in layer.infos if s != "weight"}
    names_in_file = infos.keys() - companions
    wrong, unreadable = [], []
    for name, shape in sorted(expected.items()):
        if name not in infos:
            continue
        layer = layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if not (layer.fits(shape) if layer else infos[name].shape == shape):
            wrong.append(f"{name} (file {decoded_shape(infos[name])}, configuration {shape})")
        if layer is None and infos[name].dtype not in FLOATS:
            unreadable.append(f"{name} ({infos[name].dtype})")
    problems = {
        "missing": sorted(expected.keys() - names_in_file),
        "unexpected": sorted(names_in_file - expected.keys()),
        "of another shape": wrong,
        "not floating point": unreadable,
    }
    found = [f"{len(names)} {what}: {_few(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"{path} does not hold a usable {component}: {'; '.join(found)}")


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
