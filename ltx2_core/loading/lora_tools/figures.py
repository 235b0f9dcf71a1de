"""Figures about LoRA files: norms, spectra by stream, and how alike two of them are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..lora import Lora
from ..lora_dialects import target_of
from ..lora_report import STREAMS, Stream, stream_of
from .names import official_names
from .products import Product, check_plain, read_products, spectrum

SHARES = (1, 4, 8, 16, 32, 64)
"""Of so many singular values the share of the change is stated."""


@dataclass(frozen=True, kw_only=True)
class LayerFigures:
    """One layer: ``rank`` stored, ``norm`` of the change, and ranks that hold 90 and 99 % of its squares."""

    module: str
    stream: Stream
    rank: int
    norm: float
    largest: float
    rank_90: int
    rank_99: int


@dataclass(kw_only=True)
class StreamFigures:
    """The layers of a stream together."""

    layers: int = 0
    norm: float = 0.0
    untrained: int = 0
    """Layers whose change is zero."""
    shares: dict[int, float] = field(default_factory=dict)
    """Number of singular values -> share of the squares that the largest so many hold, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class LoraFigures:
    """What ``ltx2 lora inspect`` shows of a file."""

    file: str
    kinds: tuple[str, ...]
    ranks: tuple[int, ...]
    note: str
    streams: Mapping[Stream, StreamFigures]
    layers: tuple[LayerFigures, ...]
    metadata: Mapping[str, object]


def lora_figures(lora: Lora) -> LoraFigures:
    """Read a LoRA and compute its figures; raises ValueError for a DoRA and for values not finite."""
    check_plain(lora)
    names, layers = official_names(lora), []
    squares: dict[Stream, float] = {}
    held: dict[Stream, dict[int, float]] = {}
    streams: dict[Stream, StreamFigures] = {}
    for module, product in read_products(lora):
        layer, values = _layer(names[module], product)
        layers.append(layer)
        own = streams.setdefault(layer.stream, StreamFigures())
        own.layers += 1
        own.untrained += not layer.norm
        squares[layer.stream] = squares.get(layer.stream, 0.0) + sum(values)
        parts = held.setdefault(layer.stream, dict.fromkeys(SHARES, 0.0))
        for count in SHARES:
            parts[count] += sum(values[:count])
    for stream, own in streams.items():
        total = squares[stream]
        own.norm = math.sqrt(total)
        own.shares = {count: part / total if total else 1.0 for count, part in held[stream].items()}
    ordered = {stream: streams[stream] for stream in STREAMS if stream in streams}
    return LoraFigures(
        file=lora.path.name,
        kinds=lora.kinds,
        ranks=lora.ranks,
        note=lora.base_model,
        streams=ordered,
        layers=tuple(layers),
        metadata=dict(lora.metadata),
    )


def _layer(module: str, product: Product) -> tuple[LayerFigures, list[float]]:
    found = spectrum(product)
    squares = found.values.double().square().tolist()
    figures = LayerFigures(
        module=module,
        stream=stream_of(target_of(module)[0], module),
        rank=product.rank,
        norm=math.sqrt(sum(squares)),
        largest=float(found.values[0]),
        rank_90=found.rank_for(0.9),
        rank_99=found.rank_for(0.99),
    )
    return figures, squares


@dataclass(frozen=True)
class Likeness:
    """Two LoRAs in one stream: layers in both, in one alone, norms, and the cosine of the angle between."""

    both: int
    first_only: int
    second_only: int
    norms: tuple[float, float]
    cosine: float
    """1 the same direction, 0 unrelated, -1 opposite; over the layers of both."""
    difference: float
    """The norm of the difference, where a missing layer counts as no change."""


def compare_loras(first: Lora, second: Lora) -> dict[Stream, Likeness]:
    """How alike the changes of two LoRAs are, by stream.

    Raises ValueError for a DoRA, and if a layer has another size in each.
    """
    sides: list[dict[str, Product]] = []
    for lora in (first, second):
        check_plain(lora)
        names = official_names(lora)
        sides.append({names[module]: product for module, product in read_products(lora)})
    ours, theirs = sides
    by_stream: dict[Stream, list[str]] = {}
    for module in sorted(ours.keys() | theirs.keys()):
        by_stream.setdefault(stream_of(target_of(module)[0], module), []).append(module)
    return {stream: _likeness(ours, theirs, by_stream[stream]) for stream in STREAMS if stream in by_stream}


def _likeness(ours: Mapping[str, Product], theirs: Mapping[str, Product], modules: list[str]) -> Likeness:
    inner, shared, whole, common = 0.0, [0.0, 0.0], [0.0, 0.0], 0
    for module in modules:
        one, other = ours.get(module), theirs.get(module)
        squares = [0.0 if side is None else side.norm**2 for side in (one, other)]
        whole = [total + own for total, own in zip(whole, squares, strict=True)]
        if one is None or other is None:
            continue
        if one.shape != other.shape:
            raise ValueError(f"{module} is {one.shape} in one LoRA and {other.shape} in the other")
        common += 1
        shared = [total + own for total, own in zip(shared, squares, strict=True)]
        inner += one.dot(other)
    norms = math.sqrt(whole[0]), math.sqrt(whole[1])
    scale = math.sqrt(shared[0] * shared[1])
    return Likeness(
        common,
        len([m for m in modules if m not in theirs]),
        len([m for m in modules if m not in ours]),
        norms,
        inner / scale if scale else 0.0,
        math.sqrt(max(0.0, whole[0] + whole[1] - 2 * inner)),
    )
