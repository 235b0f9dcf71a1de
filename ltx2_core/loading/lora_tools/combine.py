"""Makes one LoRA of several, or one of another rank."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...storage.writing import write_tensors
from ..lora import REFERENCE_KEYS, STACKED, Lora
from ..lora_dialects import target_of
from ..lora_report import Stream, stream_of
from .names import key, official_names
from .products import Product, check_plain, joined, read_products, spectrum


@dataclass(frozen=True, kw_only=True)
class RankChoice:
    """The rank of each written layer: ``rank``, or fewer if ``energy`` (0 to 1) of the squares is in fewer.

    Neither preserves the rank that the layer has. Raises ValueError for values out of range.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and not 1 <= self.rank <= 4096:
            raise ValueError(f"rank={self.rank} must be from 1 to 4096")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ValueError(f"energy={self.energy:g} must be above 0 and at most 1")

    @property
    def changes(self) -> bool:
        return self.rank is not None or self.energy is not None


@dataclass(frozen=True)
class Written:
    """What was written: number of layers, their ranks, and by stream the share of the change preserved."""

    layers: int
    ranks: tuple[int, int]
    """The lowest and the highest rank."""
    preserved: Mapping[Stream, float]
    """Of the squares of the whole change, 0 to 1; 1 for an exact result."""

    def __str__(self) -> str:
        low, high = self.ranks
        rank = f"rank {low}" if low == high else f"ranks {low} to {high}"
        shares = ", ".join(f"{stream} {share:.2%}" for stream, share in self.preserved.items())
        return f"{self.layers} layers of {rank}; preserved of the change: {shares}"


class Writer:
    """Collects the layers of a LoRA in the official layout, reduces their rank, and writes them."""

    def __init__(self, choice: RankChoice, dtype: torch.dtype) -> None:
        self.choice, self.dtype = choice, dtype
        self._tensors: dict[str, Tensor] = {}
        self._ranks: list[int] = []
        self._squares: dict[Stream, tuple[float, float]] = {}

    def add(self, module: str, product: Product, *, whole: float | None = None) -> None:
        """Add a layer by its official name.

        ``whole`` is the squared norm of what an extracted ``product`` approximates, whose rank was chosen.
        """
        squares = product.norm**2 if whole is None else whole
        if whole is None:
            product = self._reduced(product)
        self._ranks.append(product.rank)
        self._tensors[f"{key(module)}.lora_A.weight"] = product.a.to(self.dtype)
        self._tensors[f"{key(module)}.lora_B.weight"] = product.b.to(self.dtype)
        stream = stream_of(target_of(module)[0], module)
        all_before, held_before = self._squares.get(stream, (0.0, 0.0))
        self._squares[stream] = all_before + squares, held_before + product.norm**2

    @property
    def count(self) -> int:
        """How many layers were added."""
        return len(self._ranks)

    def write(self, path: Path, metadata: Mapping[str, str]) -> Written:
        """Write the file, whole or not at all; raises ValueError if there is no layer."""
        if not self._tensors:
            raise ValueError("there is no change to write")
        low, high = min(self._ranks), max(self._ranks)
        # Readers of official files expect no alpha, so that it equals the rank.
        facts = {**metadata, "rank": str(high), "alpha": str(high), "layers": str(len(self._ranks))}
        write_tensors(path, dict(sorted(self._tensors.items())), facts)
        shares = {s: min(1.0, held / total) if total else 1.0 for s, (total, held) in self._squares.items()}
        return Written(len(self._ranks), (low, high), shares)

    def _reduced(self, product: Product) -> Product:
        choice = self.choice
        if choice.energy is None and (choice.rank is None or choice.rank == product.rank):
            return product
        if choice.energy is None and choice.rank is not None and choice.rank > product.rank:
            return _padded(product, choice.rank)
        found = spectrum(product)
        rank = len(found.values) if choice.energy is None else found.rank_for(choice.energy)
        return found.cut(rank if choice.rank is None else min(rank, choice.rank))


def merge_loras(path: Path, loras: Sequence[Lora], choice: RankChoice, *, dtype: torch.dtype) -> Written:
    """Write one LoRA that changes a model as all of ``loras`` with their strengths do together.

    Without a choice of rank the result is exact up to rounding to ``dtype``: its rank is the sum of theirs.
    Raises ValueError, before anything is read, for a DoRA, for LoRAs of different generations or with layers
    of different sizes, and for IC-LoRAs with different scales of their references.
    """
    metadata = merged_metadata(loras)
    together: dict[str, list[Product]] = {}
    for lora in loras:
        check_plain(lora)
    for lora in loras:
        names = official_names(lora)
        for module, product in read_products(lora):
            if strength := lora.strength_of(names[module]):
                together.setdefault(names[module], []).append(product.scaled(strength))
    writer = Writer(choice, dtype)
    for module, products in sorted(together.items()):
        if len({product.shape for product in products}) > 1:
            shapes = " and ".join(str(product.shape) for product in products)
            raise ValueError(f"{module} is {shapes} in these LoRAs: they are of different models")
        writer.add(module, joined(products))
    return writer.write(path, metadata)


def merged_metadata(loras: Sequence[Lora]) -> dict[str, str]:
    """Header of a LoRA made of ``loras``: what all of them state alike, and what it was made of."""
    scaled = [lora for lora in loras if lora.is_ic_lora]
    factors = {(lora.reference_downscale_factor, lora.reference_temporal_scale_factor) for lora in scaled}
    if len(factors) > 1:
        raise ValueError(f"{STACKED}: their references have different scales, {sorted(factors)}")
    bases = {version for lora in loras if (version := _family(lora))}
    if len(bases) > 1:
        raise ValueError(f"these LoRAs are of different generations of LTX-2: {', '.join(sorted(bases))}")
    first, *others = ({k: _text(v) for k, v in lora.metadata.items()} for lora in loras)
    common = {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
    common |= {k: _text(lora.metadata[k]) for lora in scaled for k in REFERENCE_KEYS if k in lora.metadata}
    common["made_of"] = " + ".join(_named(lora) for lora in loras)
    # They describe one training run; PEFT's settings would scale the matrices a second time.
    return {k: v for k, v in common.items() if k not in ("lora_adapter_metadata", "trained_with")}


def _family(lora: Lora) -> str | None:
    """The generation by the layers or the header of a file, as its report says it; 2.5 counts as 2.3."""
    said = lora.base_model
    return said.split(":")[0].removeprefix("made for ") if said else None


def _named(lora: Lora) -> str:
    audio = f", audio {lora.audio_strength:g}" if lora.audio_strength != lora.video_strength else ""
    return f"{lora.path.name} x {lora.video_strength:g}{audio}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _padded(product: Product, rank: int) -> Product:
    """The same change with further pairs that are ready to be trained: A random, B zero."""
    generator = torch.Generator().manual_seed(0)
    more, inputs = rank - product.rank, product.a.shape[1]
    bound = inputs**-0.5
    a = (torch.rand(more, inputs, generator=generator) * 2 - 1) * bound
    zeros = product.b.new_zeros(len(product.b), more)
    return Product(torch.cat((product.a, a)), torch.cat((product.b, zeros), dim=1))
