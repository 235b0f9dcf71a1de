"""A stream's tokens on their way through one block, and how branches are applied to them.

This is the plain way: every branch on all tokens, out of place, with gradients. ``in_place.py`` and
``fused_tokens.py`` need less memory or time.

Letters: B batch, N tokens, W stream width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from .branches import Attend, Branch, Projections, SelfAttention
from .guided import attend
from .layers import Attention, rms_norm
from .modulation import Modulation, ShiftScale, ShiftScaleGate, Ungated, plus_tables
from .rope import Rope
from .texts import KeysValues


class Tokens:
    """Hidden tokens ``x`` (B, N, W) of one stream, which the branches of a block read and update.

    A branch reads them normalised and modulated; its result is added to them.
    """

    projections = Projections()

    def __init__(self, x: Tensor, eps: float) -> None:
        """Store the tokens x (B, N, W) of a stream; ``eps`` is the epsilon of RMS and layer norms."""
        self._x, self._eps = x, eps

    @property
    def x(self) -> Tensor:
        return self._x

    def leave(self) -> Tensor:
        """The tokens x for the next block, which passes them on as they are."""
        return self.x

    def add(self, branch: Branch, by: ShiftScaleGate | Ungated) -> None:
        """Replace x by x + gate * branch(norm(x) * scale + shift); ``by`` has gate, scale and shift."""
        update = branch(self.hidden(by))
        # Only a branch that is told where to add it returns none.
        assert update is not None
        self._x = by.add(self.x, update)

    def add_self_attention(self, branch: SelfAttention, by: ShiftScaleGate) -> None:
        """As :meth:`add`, for self-attention: keys and values are computed from these same tokens.

        ``by`` has gate, scale and shift.
        """
        self.add(branch, by)

    def keys_values(
        self,
        attention: Attention,
        by: ShiftScale,
        rope: Rope | None,
        queries: ShiftScale | None = None,  # noqa: ARG002 read by tokens that compute both at once
    ) -> KeysValues:
        """Keys and values (B, H, N, D) of all tokens, for another stream that attends to them.

        Tokens are normalised and modulated by ``by`` first; ``rope`` rotates the keys, None does not. The
        branch that reads these same tokens next, if that is known, is modulated by ``queries``.
        """
        return self.projections.keys_values(attention, self.hidden(by), rope)

    def project(self, layer: nn.Module, by: ShiftScale) -> Tensor:
        """The output head: returns layer(layer_norm(x) * scale + shift), the velocities (B, N, C).

        ``by`` has scale and shift.
        """
        velocity: Tensor = layer(by.modulate(F.layer_norm(self.x, self.x.shape[-1:], eps=self._eps)))
        return velocity

    def hidden(self, by: ShiftScale | Ungated) -> Tensor:
        """The input of a branch: norm(x) * scale + shift, (B, N, W); ``by`` has scale and shift."""
        return by.modulate(self._normed(self.x, by))

    def _normed(self, x: Tensor, by: ShiftScale | Ungated) -> Tensor:
        return rms_norm(x, self._eps) if by.normed else x


PlusTables = Callable[[Sequence[tuple[Modulation, Tensor]]], list[Tensor]]
"""Modulations and the learned table of a block for each -> what :meth:`Modulation.plus` returns for each."""


@dataclass(frozen=True)
class Execution:
    """How the branches of a stream are computed.

    ``tokens(x, eps)`` makes the :class:`Tokens` of hidden tokens x (B, N, W). ``attend_self``,
    ``attend_other`` and ``attend_text`` are the functions that compute attention to the stream itself, to the
    other stream and to the text. ``plus_tables`` adds the learned tables of a block to the modulation.
    """

    tokens: Callable[[Tensor, float], Tokens] = Tokens
    attend_self: Attend = attend
    attend_other: Attend = attend
    attend_text: Attend = attend
    plus_tables: PlusTables = plus_tables


PLAIN = Execution()
