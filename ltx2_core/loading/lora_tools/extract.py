"""Extracts the difference of two models as a LoRA, by singular value decomposition."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...storage.quantized import find_quantized
from ...storage.reading import read_markers
from ..checkpoint import Checkpoint, find_component
from ..detect import Component
from ..lora_dialects import few
from ..lora_merge import Base
from .combine import RankChoice, Writer, Written
from .products import dense_spectrum

PARTS = (Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION)
"""The components that a LoRA can change."""

_NOTHING = 1e-7
"""A difference below this part of the weight is rounding."""


@dataclass(frozen=True)
class Extracted:
    """What was written, and tensors that differ and are no matrices, which no LoRA can change."""

    written: Written
    unlike: tuple[str, ...]


def extract_lora(
    path: Path,
    tuned: Sequence[Checkpoint],
    base: Sequence[Checkpoint],
    choice: RankChoice,
    *,
    dtype: torch.dtype,
    targets: str = "",
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Extracted:
    """Write the LoRA that makes the weights of ``tuned`` of those of ``base``, as nearly as its rank allows.

    ``targets`` is a regular expression for the names of layers, "" is all. Quantised weights are decoded.
    ``on_layer`` is told of progress. Raises ValueError, before a weight is read, if the models have layers of
    different sizes or no component in common that a LoRA can change, and afterwards if no layer differs.
    """
    pairs = [
        (part, find_component(tuned, part), find_component(base, part))
        for part in PARTS
        if any(part in c.components for c in tuned) and any(part in c.components for c in base)
    ]
    if not pairs:
        raise ValueError("the two models have no transformer, connectors or projection in common")
    for part, one, other in pairs:
        _check_alike(part, one, other)
    layers = [(part, name) for part, one, _ in pairs for name in _matrices(one, part, targets)]
    if not layers:
        raise ValueError(f"targets {targets!r} names none of the layers")
    writer, unlike = Writer(choice, dtype), list[str]()
    bases = {part: (_decoded(one, part), _decoded(other, part)) for part, one, other in pairs}
    for number, (part, name) in enumerate(layers):
        on_layer(number, len(layers))
        ours, theirs = (_read(side, name) for side in bases[part])
        difference = ours - theirs
        squares = float(difference.double().square().sum())
        if squares <= _NOTHING**2 * float(theirs.double().square().sum()):
            continue
        found = dense_spectrum(difference, None if choice.energy is not None else choice.rank)
        rank = len(found.values) if choice.energy is None else found.rank_for(choice.energy)
        rank = rank if choice.rank is None else min(rank, choice.rank)
        writer.add(name.removesuffix(".weight"), found.cut(rank), whole=squares)
    for part, one, _ in pairs:
        for name in sorted(one.infos(part).keys() - {n for p, n in layers if p is part}):
            if not _is_scale(name) and not targets and _differs(bases[part], name):
                unlike.append(name)
    if not writer.count:
        raise ValueError("no layer of the two models differs" + (f" (but {few(unlike)})" if unlike else ""))
    return Extracted(writer.write(path, _metadata(tuned[0], base[0])), tuple(unlike))


def _check_alike(part: Component, one: Checkpoint, other: Checkpoint) -> None:
    ours, theirs = one.shapes(part), other.shapes(part)
    wrong = [n for n, shape in ours.items() if n in theirs and n.endswith(".weight") and theirs[n] != shape]
    if wrong:
        raise ValueError(
            f"{one.path.name} and {other.path.name} are different models: {few(wrong)} of the {part} have "
            "other sizes"
        )


def _matrices(checkpoint: Checkpoint, part: Component, targets: str) -> list[str]:
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ValueError(f"targets {targets!r} is not a regular expression: {error}") from None
    shapes = checkpoint.shapes(part)
    return sorted(
        n for n, s in shapes.items() if n.endswith(".weight") and len(s) == 2 and pattern.search(n[:-7])
    )


def _decoded(checkpoint: Checkpoint, part: Component) -> Base:
    infos = checkpoint.infos(part)
    return Base(
        infos=infos,
        layers=find_quantized(infos, read_markers(infos, checkpoint.metadata)),
        resident=frozenset(),
        shapes=checkpoint.shapes(part),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def _read(base: Base, name: str) -> Tensor:
    """One tensor in float32, decoded if it is quantised."""
    module = name.removesuffix(".weight")
    names = base.names(module) if module in base.layers else [name]
    return base.state(names)[name]


def _is_scale(name: str) -> bool:
    return name.rpartition(".")[2] not in ("weight", "bias") and "table" not in name


def _differs(sides: tuple[Base, Base], name: str) -> bool:
    if any(name not in side.infos for side in sides):
        return False
    ours, theirs = (_read(side, name) for side in sides)
    return ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def _metadata(tuned: Checkpoint, base: Checkpoint) -> dict[str, str]:
    return {
        "base_model": base.path.name,
        "model_version": str(base.metadata.get("model_version", base.generation or "")),
        "made_of": f"{tuned.path.name} - {base.path.name}",
    }
