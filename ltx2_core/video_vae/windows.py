"""Windows of the convolutions by one kernel each, on a GPU with Triton: kept frames, norm, SiLU and padding.

B batch, C channels, T frames of a piece, H W rows and columns; tensors are (B, C, T, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import norm_activate
from ..kernels.language import problem
from ..kernels.trial import Kernel, Trials

_NORM_ACTIVATE = Kernel("norm_activate", norm_activate.norm_activate, norm_activate.formula)


class Windows:
    """Makes windows by a kernel; where it fails its trial, or without ``kernels``, by its plain formula."""

    def __init__(self, *, kernels: bool = True) -> None:
        self._trials = Trials(kernels=kernels)

    @property
    def problem(self) -> str | None:
        """Why the kernel is not used, as a trial failed; None as long as none has failed."""
        return self._trials.problem

    def takes(self, x: Tensor) -> bool:
        """Whether windows of a clip like ``x`` are made here: on a GPU, float32 or less, no gradients."""
        there = x.device.type != "cpu" and problem(x.device) is None
        return there and x.dtype != torch.float64 and not torch.is_grad_enabled()

    def make(
        self,
        x: Tensor,
        kept: Tensor | None,
        before: int,
        after: int,
        *,
        keep: int,
        reflect: bool,
        eps: float | None,
    ) -> tuple[Tensor, Tensor]:
        """The window of the piece x (B, C, T, H, W), and its last ``keep`` frames, for the next piece.

        It is ``kept``, frames of the piece before (None if there are none), and x; the first frame is
        repeated ``before`` times ahead of it, the last ``after`` times behind. With ``reflect`` a row or
        column is added at every side by reflection. If ``eps`` is not None, the window is RMS-normalised over
        its channels and goes through SiLU, and the frames that are returned for the next piece do not. Both
        results have their channels next to each other in memory.
        """
        window, held = self._trials.run(
            _NORM_ACTIVATE,
            x.movedim(1, -1),
            None if kept is None else kept.movedim(1, -1),
            before,
            after,
            eps or 0.0,
            keep=keep,
            edge=int(reflect),
            activate=eps is not None,
        )
        return window.movedim(-1, 1), held.movedim(-1, 1)
