"""What of the text does not change from step to step, computed once for each prompt.

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
    """What a :class:`TextMemory` with ``keys`` holds of ``samples`` texts; 0 where the noise level enters."""
    if config.cross_attention_adaln and config.prompt_adaln:
        return 0
    return 2 * config.num_layers * samples * tokens * (config.dim + config.audio_dim) * dtype.itemsize


@dataclass(eq=False)
class TextMemory:
    """Projected texts and, with ``keys``, the keys and values that every block makes of them.

    One serves one run of one transformer, and tells texts apart by their tensors: give the same ones each
    step. A projected text takes S x stream width. Keys and values take twice that in every block, 1.2 GB for
    LTX-2.0 in bfloat16; they are kept only where the network does not modulate them by the noise level
    (LTX-2.0, and later ones with static prompts).
    """

    keys: bool = False
    _made: dict[tuple[nn.Module, int], tuple[Tensor, Any]] = field(default_factory=dict)

    def projected(self, projection: nn.Module, text: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """What ``compute`` made of ``text`` for ``projection`` the first time."""
        projected: Tensor = self._once(projection, text, compute)
        return projected

    def keys_values(
        self, attention: nn.Module, text: Tensor, compute: Callable[[], KeysValues]
    ) -> KeysValues:
        """What ``compute`` made of ``text`` for ``attention`` the first time."""
        if not self.keys:
            return compute()
        made: KeysValues = self._once(attention, text, compute)
        return made

    def _once(self, owner: nn.Module, text: Tensor, compute: Callable[[], Any]) -> Any:
        # The text is held, so that no other tensor can come to have its identity.
        if (owner, id(text)) not in self._made:
            self._made[owner, id(text)] = (text, compute())
        return self._made[owner, id(text)][1]
