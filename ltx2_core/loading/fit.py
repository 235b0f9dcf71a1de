"""Whether a file's tensors are those of a network: told from names and shapes, before any is read."""

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
    """Raise ValueError that names what is missing, too much or of another shape.

    ``infos`` are the component's tensors by their own names, ``layers`` the quantised ones among them,
    ``expected`` the shapes of the network's.
    """
    companions = {f"{name}.{s}" for name, layer in layers.items() for s in layer.infos if s != "weight"}
    given = infos.keys() - companions
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
        "missing": sorted(expected.keys() - given),
        "unexpected": sorted(given - expected.keys()),
        "of another shape": wrong,
        "not floating point": unreadable,
    }
    told = [f"{len(names)} {what}: {_few(names)}" for what, names in problems.items() if names]
    if told:
        raise ValueError(f"{path} does not hold a usable {component}: {'; '.join(told)}")


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
