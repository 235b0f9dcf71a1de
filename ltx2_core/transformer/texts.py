"""A cache of tensors that depend on the text alone: projected texts, and their keys and values.

Letters: B batch, S text tokens, K text width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TransformerConfig

KeysValues = tuple[Tensor, Tensor]
"""(B, H, S, D) twice."""


def text_keys_bytes(config: TransformerConfig, dtype: torch.dtype, *, tokens: int, samples: int = 1) -> int:
    """Bytes that caching the attention keys and values of a text takes, over all blocks.

    For ``samples`` texts of ``tokens`` tokens each, in ``dtype``. 0 for a network that modulates its text by
    the noise level, for which nothing is cached.
    """
    # Such keys and values are different in every step.
    if config.cross_attention_adaln and config.prompt_adaln:
        return 0
    return 2 * config.num_layers * samples * tokens * (config.dim + config.audio_dim) * dtype.itemsize


@dataclass(eq=False)
class TextMemory:
    """A cache of projected texts and, with ``keys``, of their attention keys and values in every block.

    It serves one run of one transformer. Texts are told apart as tensor objects, not by value: pass the same
    objects in each step. A projected text is S x stream width, S text tokens. Keys and values take twice that
    in every block, 1.2 GB for LTX-2.0 in bfloat16. They are the same in every step, and so cached, only where
    the noise level does not modulate them: in LTX-2.0, and in later networks without a layer for that.
    """

    keys: bool = False
    _cached: dict[tuple[nn.Module, int], tuple[Tensor, Any]] = field(default_factory=dict)

    def projected(self, projection: nn.Module, text: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """``compute()`` for the first call with this ``projection`` and ``text``, later its cached result."""
        projected: Tensor = self._once(projection, text, compute)
        return projected

    def keys_values(
        self, attention: nn.Module, text: Tensor, compute: Callable[[], KeysValues]
    ) -> KeysValues:
        """``compute()`` for the first call with this ``attention`` and ``text``, later the cached result.

        Unless the object has ``keys``, nothing is cached and each call computes.
        """
        # Off by default, since the keys and values of all blocks take a gigabyte.
        if not self.keys:
            return compute()
        both: KeysValues = self._once(attention, text, compute)
        return both

    def _once(self, owner: nn.Module, text: Tensor, compute: Callable[[], Any]) -> Any:
        # The text is held, so that no other tensor can come to have its identity.
        if (owner, id(text)) not in self._cached:
            self._cached[owner, id(text)] = (text, compute())
        return self._cached[owner, id(text)][1]


class NoTextMemory(TextMemory):
    """A :class:`TextMemory` that caches nothing, so that everything is computed again at each call."""

    def _once(self, owner: nn.Module, text: Tensor, compute: Callable[[], Any]) -> Any:
        return compute()


NO_TEXT_MEMORY = NoTextMemory()
