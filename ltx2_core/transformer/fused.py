"""Elementwise operations of a block joined into one kernel: update, norm and modulation; norm and rotation.

The plain formulas stay the reference: what cannot be compiled on this machine runs uncompiled.

Letters: B batch, N tokens, W width, H heads, D head width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..out_of_memory import is_out_of_memory
from .rope import Rope, rotate_heads

_log = logging.getLogger(__name__)


class Fused:
    """Kernels that join elementwise operations; each is compiled by ``torch.compile`` when first used.

    ``backend`` is that of ``torch.compile``. If compiling fails, ``problem`` says why (None until then), and
    the same formulas run uncompiled from then on.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.problem: str | None = None
        self._backend = backend
        self._compiled: dict[Callable[..., Any], Any] = {}

    def norm_modulate(self, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        """RMS-normalise x (B, N, W), multiply by ``scale`` and add ``shift``, both (B, 1, W).

        ``eps`` is the epsilon of the norm.
        """
        result: Tensor = self.run(_norm_modulate, x, scale, shift, eps)
        return result

    def add_norm_modulate(
        self, x: Tensor, update: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float
    ) -> Tensor:
        """Add ``update * gate`` to x (B, N, W) in place; returns :meth:`norm_modulate` of the new x.

        ``update`` is (B, N, W); gate, scale and shift are (B, 1, W); ``eps`` is the epsilon of the norm. x is
        written last, so that it is unchanged if memory runs out.
        """
        result: Tensor = self.run(_add_norm_modulate, x, update, gate, scale, shift, eps)
        return result

    def norm_rotate(self, x: Tensor, norm: nn.Module, rope: Rope, heads: int) -> Tensor:
        """RMS-normalise x (B, N, H D) over all heads together, then rotate it by ``rope``.

        H = ``heads``; weight and epsilon are those of ``norm``. Returns (B, H, N, D).
        """
        result: Tensor = self.run(
            _norm_rotate, x, norm.weight, norm.eps, rope.cos, rope.sin, rope.rope_type, heads
        )
        return result

    def run(self, formula: Callable[..., Any], *arguments: Any) -> Any:
        """The result of ``formula(*arguments)``, compiled as one kernel where that is possible.

        If compiling fails, the formula runs uncompiled. Out-of-memory errors are raised.
        """
        if self.problem is None:
            try:
                if formula not in self._compiled:
                    # Sizes are dynamic, so that clips of other sizes do not compile the kernels again.
                    self._compiled[formula] = torch.compile(formula, backend=self._backend, dynamic=True)
                return self._compiled[formula](*arguments)
            # There may be no C compiler, no Triton or no support for the device, each with errors of its own.
            # None may stop a run that the plain formulas can finish.
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self.problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                _log.warning("fused kernels are off, as they cannot be compiled here: %s", self.problem)
        return formula(*arguments)


def can_fuse(norm: nn.Module) -> bool:
    """Whether :meth:`Fused.norm_rotate` may be used with ``norm``.

    It has to be torch's own RMSNorm with a weight, and gradients have to be off.
    """
    return type(norm) is nn.RMSNorm and norm.weight is not None and not torch.is_grad_enabled()


def _norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    return torch.addcmul(shift, F.rms_norm(x, x.shape[-1:], eps=eps), scale)


def _add_norm_modulate(
    x: Tensor, update: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    added = torch.addcmul(x, update, gate)
    hidden = _norm_modulate(added, scale, shift, eps)
    # The write comes last, so that a failed allocation leaves the stream as it was.
    x.copy_(added)
    return hidden


def _norm_rotate(
    x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor, rope_type: Any, heads: int
) -> Tensor:
    normed = F.rms_norm(x, x.shape[-1:], weight, eps)
    return rotate_heads(normed, Rope(cos, sin, rope_type), heads)
