"""Distributed guidance: the passes of a step divided among several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..types import AVLatent
from .guidance import Pass

_TOGETHER = (Pass.CONDITIONAL, Pass.PERTURBED)
"""One process evaluates both, since the perturbed pass reuses blocks of the conditional one."""


@dataclass(frozen=True)
class PassGroup:
    """Divides the guidance passes of a step among processes.

    ``group`` is a process group of torch.distributed; None is all processes.
    """

    group: Any = None

    def mine(self, passes: Sequence[Pass]) -> list[Pass]:
        """Those of ``passes`` that this process evaluates."""
        rank = dist.get_rank(self.group)
        return [which for which, owner in self._owners(passes).items() if owner == rank]

    def share(
        self, own: Mapping[Pass, AVLatent], passes: Sequence[Pass], x: AVLatent
    ) -> dict[Pass, AVLatent]:
        """Exchange results: from the latents of this process's ``own`` passes to those of all ``passes``.

        All latents have the shape and dtype of ``x``. Every process of the group has to call this.
        """
        shared: dict[Pass, AVLatent] = {}
        for which, owner in self._owners(passes).items():
            # Each process takes part in each broadcast, in the same order; otherwise all of them would block.
            source = owner if self.group is None else dist.get_global_rank(self.group, owner)
            mine = own.get(which)

            def broadcast(stream: Tensor | None, like: Tensor | None, source: int = source) -> Tensor | None:
                if like is None:
                    return None
                tensor = torch.empty_like(like) if stream is None else stream.contiguous()
                dist.broadcast(tensor, source, group=self.group)
                return tensor

            shared[which] = AVLatent(
                broadcast(None if mine is None else mine.video, x.video),
                broadcast(None if mine is None else mine.audio, x.audio),
            )
        return shared

    def _owners(self, passes: Sequence[Pass]) -> dict[Pass, int]:
        """For each pass the rank of the process that evaluates it; all processes get the same answer."""
        count = dist.get_world_size(self.group)
        ordered = [which for which in Pass if which in passes]
        units = dict.fromkeys(_TOGETHER[0] if which in _TOGETHER else which for which in ordered)
        # Round-robin in the fixed order of ``Pass``: all processes derive the same owners without a message.
        ranks = {unit: number % count for number, unit in enumerate(units)}
        return {which: ranks[_TOGETHER[0] if which in _TOGETHER else which] for which in ordered}
