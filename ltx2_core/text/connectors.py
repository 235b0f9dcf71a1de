"""Text connectors: a small 1-D transformer for each modality, on tokens padded with learnt registers.

Letters: B prompts, T input tokens, S tokens of the context (the text that the transformer
attends to), W connector width, R registers.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ConnectorConfig, TextConfig
from ..transformer.layers import Attention, FeedForward, rms_norm
from ..transformer.rope import Rope, rope_table
from ..types import LayerOptions, NetworkOptions, TextContext, TextFeatures

CONTEXT_LENGTH = 1024
"""Length of the context, tokens and registers together, with which the released models were trained."""


class TextConnectors(nn.Module):
    """The text connectors of both streams, video and audio, with the parameter names of checkpoints."""

    def __init__(
        self,
        config: TextConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        options: NetworkOptions = {"dtype": dtype, "device": device, "operations": operations}
        self.video_embeddings_connector = Connector(config.video, **options)
        self.audio_embeddings_connector = Connector(config.audio, **options)

    def forward(self, features: TextFeatures, *, length: int = CONTEXT_LENGTH) -> TextContext:
        """Convert text features (B, T, W) to the context (B, S, W) that the transformer attends to.

        There is one of each for video and one for audio, of B prompts with T tokens of width W. Padding, on
        the left or on the right, is replaced by R learnt registers, so that the context needs no mask. S is
        ``length``; if a prompt has more valid tokens, S is their number rounded up to a multiple of R. The
        dtype is that of the features.

        Raises:
            ValueError: ``length`` is not a multiple of R, or the features are not as wide as the connector.
        """
        return TextContext(
            self.video_embeddings_connector(features.video, features.mask, length=length),
            self.audio_embeddings_connector(features.audio, features.mask, length=length),
        )


class Connector(nn.Module):
    """One text connector: replaces padding by registers, then applies transformer blocks and an RMS norm."""

    def __init__(
        self,
        config: ConnectorConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.config = config
        options: LayerOptions = {"dtype": dtype, "device": device}
        self.learnable_registers = nn.Parameter(torch.zeros(config.num_registers, config.dim, **options))
        self.transformer_1d_blocks = nn.ModuleList(
            ConnectorBlock(config, operations=operations, **options) for _ in range(config.num_layers)
        )

    def forward(self, features: Tensor, mask: Tensor, *, length: int, rope: Rope | None = None) -> Tensor:
        """Convert text features (B, T, W) to the context (B, S, W) that the transformer attends to.

        B prompts of T tokens of width W; ``mask`` (B, T) is 1 on tokens of the text and 0 on padding. S is
        ``length``, or more for longer prompts, see :meth:`TextConnectors.forward`. ``rope`` is the result of
        :meth:`rope` for S tokens, if the caller has it already; None computes it.
        """
        if features.shape[-1] != self.config.dim:
            raise ValueError(
                f"text features are {features.shape[-1]} wide, the connector takes {self.config.dim}: "
                "they come from another checkpoint's projection"
            )
        # Registers take the place of padding, as in training, so that no position is masked.
        x = fill_with_registers(features, mask, self.learnable_registers, length=length)
        rope = self.rope(x.shape[1], x.device) if rope is None else rope
        # Computed in float32 and cast once, since positions beyond 256 are not whole in bfloat16.
        rope = rope.to(x.dtype, x.device)
        for block in self.transformer_1d_blocks:
            x = block(x, rope)
        return rms_norm(x, self.config.norm_eps)

    def rope(self, length: int, device: torch.device) -> Rope:
        """Compute the table of the rotary embedding, in float32 on ``device``, for positions 0 to length - 1.

        ``length`` is the number of tokens of a prompt together with the registers that replace its padding.
        """
        config = self.config
        # Positions are those of the context with registers, not of the prompt's tokens.
        points = torch.arange(length, dtype=torch.float32, device=device)[None, None]
        return rope_table(points, (config.max_pos,), width=config.dim, heads=config.heads, config=config.rope)


class ConnectorBlock(nn.Module):
    """A transformer block: self-attention and feed-forward.

    Each follows an RMS norm without weights and has a skip connection.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        options: NetworkOptions = {"dtype": dtype, "device": device, "operations": operations}
        self.norm_eps = config.norm_eps
        self.attn1 = Attention(
            config.dim,
            config.dim,
            heads=config.heads,
            head_dim=config.head_dim,
            gated=config.gated_attention,
            qk_norm_eps=config.qk_norm_eps,
            **options,
        )
        self.ff = FeedForward(config.dim, bias=config.ff_bias, **options)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Apply the block to B prompts x (B, S, W) of S tokens of width W; the shape does not change.

        ``rope`` is the table of the rotary embedding for S tokens, which rotates queries and keys.
        """
        x = x + self.attn1(rms_norm(x, self.norm_eps), rope=rope)
        result: Tensor = x + self.ff(rms_norm(x, self.norm_eps))
        return result


def fill_with_registers(features: Tensor, mask: Tensor, registers: Tensor, *, length: int) -> Tensor:
    """Move valid tokens to the front, in order, and fill every later position p with register p mod R.

    features (B, T, W), mask (B, T) 1 on valid tokens, registers (R, W) -> (B, S, W). S is ``length``; if a
    prompt has more valid tokens, S is their number rounded up to a multiple of R. Raises ValueError if
    ``length`` is not a multiple of R.
    """
    count = registers.shape[0]
    if length % count:
        raise ValueError(f"context length must be a multiple of the {count} registers; got {length}")
    valid = mask.to(features.device).bool()
    lengths = valid.sum(dim=1)
    total = length
    # Reading lengths synchronises with the GPU, so it is done only if a prompt can be longer.
    if mask.shape[1] > length:
        total = max(length, ceil(int(lengths.max()) / count) * count)
    # A stable sort moves the valid tokens to the front without changing their order.
    order = torch.argsort(~valid, dim=1, stable=True)[:, :total]
    text = features.gather(1, order.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
    # More positions than tokens are filled with registers below, so that zeros never reach the network.
    text = F.pad(text, (0, 0, 0, total - text.shape[1]))
    positions = torch.arange(total, device=features.device)
    # Register p mod R at position p: the registers repeat until the end of the context.
    fill = registers.to(device=features.device, dtype=features.dtype)[positions % count]
    return torch.where((positions < lengths.unsqueeze(1)).unsqueeze(-1), text, fill)
