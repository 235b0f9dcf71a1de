"""Hidden tokens of a stream that a block's branches overwrite, computed for a part of the tokens at a time.

Letters: B batch, N tokens, W stream width, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .branches import Branch, SelfAttention, Target
from .chunks import Chunks
from .layers import Attention
from .modulation import ShiftScale, ShiftScaleGate, Ungated
from .rope import Rope
from .texts import KeysValues
from .tokens import Tokens


class InPlaceTokens(Tokens):
    """Hidden tokens ``x`` (B, N, W) of a stream that branches overwrite, with gradients off.

    Branches are computed for a few tokens at a time, as ``chunks`` says. Only keys and values, those of
    self-attention and those that the other stream attends to, are in memory for all tokens. The update of a
    chunk is added when all of it is computed, so that a chunk that runs out of memory can be computed again
    in halves. ``eps`` is the epsilon of the norms.
    """

    def __init__(self, chunks: Chunks, x: Tensor, eps: float) -> None:
        super().__init__(x, eps)
        self._chunks = chunks

    def add(self, branch: Branch, by: ShiftScaleGate | Ungated) -> None:
        def step(part: slice | None) -> None:
            # The whole branch is called as it is, since not every kind of branch can be cut.
            own = branch if part is None else branch.part(part)
            self._write(by, own(self.hidden(by, part), self._target(by, part)), part)

        self._chunks.each(self._x.shape[1], step)

    def add_self_attention(self, branch: SelfAttention, by: ShiftScaleGate) -> None:
        def whole(_part: slice | None) -> None:
            self._write(by, branch(self.hidden(by), self._target(by, None)), None)

        # Where memory runs out this is an error, as the branch cannot run on fewer tokens.
        # The bias of weighted guides is laid out for all queries and cannot be cut.
        if not branch.divisible:
            whole(None)
        elif not self._chunks.whole(self._x.shape[1], whole):
            keys, values = self.keys_values(branch.attention, by, branch.rope)
            self.add(branch.on(keys, values), by)

    def keys_values(
        self, attention: Attention, by: ShiftScale, rope: Rope | None, queries: ShiftScale | None = None
    ) -> KeysValues:
        whole: list[Tensor] = []

        def step(part: slice | None) -> None:
            own = rope if rope is None or part is None else rope.part(part)
            pieces = self.projections.keys_values(attention, self._hidden_of_keys(by, queries, part), own)
            if part is None:
                whole[:] = pieces
                return
            if not whole:
                # Allocated at the first piece, which alone says the dtype and the head layout.
                whole[:] = [_room(piece, self._x.shape[1]) for piece in pieces]
            for room, piece in zip(whole, pieces, strict=True):
                room[:, :, part] = piece

        self._chunks.each(self._x.shape[1], step)
        return whole[0], whole[1]

    def project(self, layer: nn.Module, by: ShiftScale) -> Tensor:
        velocities: list[Tensor] = []

        def step(part: slice | None) -> None:
            x = self._part(part)
            # The head removes the mean, unlike the norms of the blocks.
            hidden = F.layer_norm(x, x.shape[-1:], eps=self._eps)
            velocities.append(layer(by.modulate(hidden, start=_start(part), in_place=True)))

        self._chunks.each(self._x.shape[1], step)
        return velocities[0] if len(velocities) == 1 else torch.cat(velocities, dim=1)

    def hidden(self, by: ShiftScale | Ungated, part: slice | None = None) -> Tensor:
        return by.modulate(self._normed(self._part(part), by), start=_start(part), in_place=True)

    def _hidden_of_keys(
        self,
        by: ShiftScale,
        queries: ShiftScale | None,  # noqa: ARG002 read by the fused tokens
        part: slice | None,
    ) -> Tensor:
        return self.hidden(by, part)

    def _target(
        self,
        by: ShiftScaleGate | Ungated,  # noqa: ARG002 read by the fused tokens
        part: slice | None,  # noqa: ARG002
    ) -> Target | None:
        """Where the last product of a branch may add its update, as the last that it does; None: nowhere.

        It is called when the input of the branch has been computed.
        """
        return None

    def _write(self, by: ShiftScaleGate | Ungated, update: Tensor | None, part: slice | None) -> None:
        """Add the ``update`` of a branch; None was added by its last product."""
        if update is not None:
            by.add(self._part(part), update, start=_start(part), in_place=True)

    def _part(self, part: slice | None) -> Tensor:
        return self.x if part is None else self.x[:, part]


def _start(part: slice | None) -> int:
    return 0 if part is None else part.start


def _room(piece: Tensor, tokens: int) -> Tensor:
    """An uninitialised tensor (B, H, tokens, D), into which pieces (B, H, n, D) like ``piece`` are written.

    All heads of a token are next to each other in memory, so that the tensor is not contiguous.
    """
    batch, heads, _, width = piece.shape
    # This layout is the one in which the projections return their pieces, so that copies are contiguous.
    return piece.new_empty(batch, tokens, heads, width).transpose(1, 2)
