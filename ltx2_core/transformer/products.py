"""Outputs of several linear layers for one input, which is rounded once where they multiply in fp8 or fp4.

Letters: M tokens, I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import TypeGuard


class RoundsInput(Protocol):
    """A linear layer that rounds its input to the number format of its product."""

    def rounding(self, x: Tensor) -> object | None:
        """What the rounded x depends on: layers with equal results round it alike. None: x stays as it is."""

    def rounded(self, x: Tensor) -> Any:
        """x (..., I) rounded, with its scales, for :meth:`product`."""

    def product(self, rounded: Any, x: Tensor) -> Tensor:
        """The output (..., O) for x (..., I), of which ``rounded`` is the result of :meth:`rounded`."""


def products(x: Tensor, *layers: nn.Module) -> Iterator[Tensor]:
    """The output (..., O) of each of ``layers`` for the same x (..., I), computed when it is taken."""
    first, *others = layers
    if _rounds(first) and others:
        kind = first.rounding(x)
        if kind is not None and all(_rounds(layer) and layer.rounding(x) == kind for layer in others):
            rounded = first.rounded(x)
            for layer in layers:
                yield layer.product(rounded, x)  # type: ignore[operator]
            return
    for layer in layers:
        yield layer(x)


def _rounds(layer: Any) -> TypeGuard[RoundsInput]:
    # A hook acts on a call of the layer, which a product by itself is not.
    return hasattr(layer, "rounded") and not (layer._forward_pre_hooks or layer._forward_hooks)
