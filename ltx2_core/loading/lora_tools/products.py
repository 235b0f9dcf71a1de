"""The change of a layer as a product of two float32 matrices, and its best approximation of a lower rank.

Letters: R rank, I inputs, O outputs; A (R, I), B (O, R), change B A (O, I).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...storage.finite import check_finite
from ..lora import Lora
from ..lora_dialects import LoraLayer
from ..lora_kinds import change, rank_of

_SMALL = 1024
"""Matrices with more rows and columns are decomposed by random projection, where few values are needed."""
_SPARE, _POWERS = 16, 4


@dataclass(frozen=True)
class Product:
    """The change ``b @ a`` of one layer: A (R, I), B (O, R), both float32."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    @property
    def norm(self) -> float:
        """The root of the sum of all squared entries of the change."""
        return math.sqrt(max(0.0, self.dot(self)))

    def dense(self) -> Tensor:
        return self.b @ self.a

    def dot(self, other: Product) -> float:
        """The sum of the products of the entries of both changes, without multiplying them out."""
        inner = (self.b.mT.double() @ other.b.double()) * (self.a.double() @ other.a.mT.double())
        return float(inner.sum())

    def scaled(self, factor: float) -> Product:
        return Product(self.a, self.b * factor)


@dataclass(frozen=True)
class Spectrum:
    """Singular values S (R,), largest first, with left (O, R) and right (R, I) vectors of a change."""

    left: Tensor
    values: Tensor
    right: Tensor

    def rank_for(self, share: float) -> int:
        """How many of the largest values hold ``share`` (0 to 1) of the sum of all squares; at least 1."""
        squares = self.values.double().square()
        total = float(squares.sum())
        if not total:
            return 1
        # Rounding must not ask for a value more than there is.
        held = torch.cumsum(squares, 0) / total
        return min(len(squares), int((held < share - 1e-12).sum()) + 1)

    def cut(self, rank: int) -> Product:
        """The nearest change of rank ``rank`` or less (Eckart and Young, 1936)."""
        root = self.values[:rank].sqrt()
        return Product(root[:, None] * self.right[:rank], self.left[:, :rank] * root)


def spectrum(product: Product) -> Spectrum:
    """Decompose a change, which is not multiplied out where its rank is below its size."""
    if product.rank >= min(product.shape):
        return dense_spectrum(product.dense())
    left, lower = torch.linalg.qr(product.b)
    right, upper = torch.linalg.qr(product.a.mT)
    u, values, v = torch.linalg.svd(lower @ upper.mT)
    return Spectrum(left @ u, values, v @ right.mT)


def dense_spectrum(matrix: Tensor, rank: int | None = None) -> Spectrum:
    """Decompose a matrix (O, I).

    With ``rank`` only about so many values are needed: those of a large matrix are then found by random
    projection with power iterations (Halko, Martinsson and Tropp, 2011, algorithm 4.4), seeded.
    """
    if rank is None or min(matrix.shape) <= max(_SMALL, 2 * (rank + _SPARE)):
        return Spectrum(*torch.linalg.svd(matrix, full_matrices=False))
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(matrix.shape[1], rank + _SPARE, generator=generator).to(matrix)
    for _ in range(_POWERS):
        # Orthogonalised in between, as small values would drown in rounding.
        basis = torch.linalg.qr(matrix.mT @ torch.linalg.qr(matrix @ basis)[0])[0]
    left = torch.linalg.qr(matrix @ basis)[0]
    u, values, v = torch.linalg.svd(left.mT @ matrix, full_matrices=False)
    return Spectrum(left @ u, values, v)


def joined(products: Sequence[Product]) -> Product:
    """The sum of changes of one shape, exact: its rank is the sum of theirs."""
    return Product(torch.cat([p.a for p in products]), torch.cat([p.b for p in products], dim=1))


def read_products(lora: Lora) -> Iterator[tuple[str, Product]]:
    """Yield (module, change at strength 1) for each layer, in the order of their names.

    Raises ValueError for a DoRA, whose change depends on the weights of its base, and for values that are not
    finite.
    """
    with safe_open(lora.path, framework="pt") as file:
        for module, layer in sorted(lora.layers.items()):
            yield module, _read(file, lora, module, layer)


def check_plain(lora: Lora) -> None:
    """Raise ValueError for a LoRA whose change depends on the base: a DoRA."""
    doras = [kind for kind in lora.kinds if "DoRA" in kind]
    if doras:
        raise ValueError(
            f"{lora.path} is a {doras[0]}, whose change depends on the weights of its model: merge it into a "
            "checkpoint (ltx2 lora merge --checkpoint)"
        )


def _read(file: Any, lora: Lora, module: str, layer: LoraLayer) -> Product:
    tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in layer.names}
    for name, tensor in tensors.items():
        check_finite(tensor, name, lora.path)
    if layer.magnitude is not None:
        check_plain(lora)
    roles = {role: tensors[name] for role, name in layer.factors.items()}
    if roles:
        delta = change(roles)
        product = _of_dense(delta.reshape(len(delta), -1))
        rank = rank_of({role: tuple(tensor.shape) for role, tensor in roles.items()})
    else:
        product = Product(tensors[layer.a].float(), tensors[layer.b].float())
        rank = product.rank
        if product.a.ndim != 2 or product.b.ndim != 2 or product.b.shape[1] != rank:
            raise ValueError(f"{lora.path}: A and B of {module} do not fit each other; the file is damaged")
    scale = layer.scale
    if layer.alpha is not None:
        scale = file.get_tensor(layer.alpha).item() / rank if rank else 1.0
    if not math.isfinite(scale):
        raise ValueError(f"{lora.path}: {module} is scaled by {scale}; the file is damaged")
    return product.scaled(scale)


def _of_dense(matrix: Tensor) -> Product:
    """A matrix (O, I) as a product with an identity on its shorter side."""
    rows, columns = matrix.shape
    if rows < columns:
        return Product(matrix, torch.eye(rows))
    return Product(torch.eye(columns), matrix)
