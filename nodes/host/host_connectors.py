"""Text connectors that other packs can call like those of ComfyUI's own LTX-2 network.

Letters: B prompts, T tokens, S tokens of the context, N tokens, W connector width, H heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ltx2_core.text.connectors import CONTEXT_LENGTH, Connector, TextConnectors
from ...ltx2_core.transformer.layers import Attention
from ...ltx2_core.transformer.rope import Rope
from .host_attention import attend_by, chosen_function


class HostConnector(Connector):
    """A text connector that can also be called without a mask, like ComfyUI's."""

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        *,
        length: int = CONTEXT_LENGTH,
        rope: Rope | None = None,
    ) -> Any:
        """Convert text features (B, tokens, width) to a context (B, ``length``, width).

        The context is the tokens of the text to which video or audio attends. ``mask`` (B, tokens) is 1 for
        valid tokens. Without it all are valid, and the result is the pair (context, None), as ComfyUI's
        connectors return it. ``rope`` is the rotary table of the context, None to compute it.
        """
        if mask is not None:
            return super().forward(features, mask, length=length, rope=rope)
        # ComfyUI's connectors get valid tokens alone, so that every token counts.
        valid = torch.ones(features.shape[:2], dtype=torch.int64, device=features.device)
        return super().forward(features, valid, length=length), None


class ConnectorAttention(Attention):
    """Self-attention of a connector that uses the attention function chosen in ComfyUI, if there is one."""

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, *, rope: Rope | None = None) -> Tensor:
        """Attend with queries of ``x`` (B, tokens, width) to ``keys`` and ``values``, to the shape of ``x``.

        ``keys`` and ``values`` are (B, heads, tokens, head width). ``rope`` rotates the queries, if it is not
        None.
        """
        # Connectors run before sampling, where there are no options of a call.
        function = chosen_function({})
        if function is None:
            return super().attend(x, keys, values, rope=rope)
        attended = attend_by(function, {})(self.queries(x, rope), keys, values, None)
        return self.output(attended, x)


def as_host_connectors(connectors: TextConnectors) -> None:
    """Give text connectors of ``ltx2_core`` the classes of this file, which ComfyUI and packs can call.

    The networks are changed in place: only the classes change, the parameters stay the same objects.
    """
    for module in list(connectors.modules()):
        if isinstance(module, Connector):
            module.__class__ = HostConnector
        elif isinstance(module, Attention):
            module.__class__ = ConnectorAttention
