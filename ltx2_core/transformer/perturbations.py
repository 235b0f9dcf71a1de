"""What a guidance pass leaves out of the network.

Spatio-temporal guidance skips the self-attention of some blocks; modality guidance cuts the streams apart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Blocks = Collection[int] | Literal["all"]
"""Zero-based block numbers."""

Keep = tuple[bool, ...] | None
"""Per sample whether an operation runs; None where it runs for every sample."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """The blocks in which one sample skips an operation.

    A skipped self-attention passes its values through: head gates, output projection and gate still apply. A
    skipped cross-modal attention (``a2v`` writes to video, ``v2a`` to audio) adds nothing.
    """

    video_self_attention: Blocks = ()
    audio_self_attention: Blocks = ()
    a2v: Blocks = ()
    v2a: Blocks = ()


@dataclass(frozen=True)
class BlockKeep:
    """What one block runs, sample by sample."""

    video_self_attention: Keep = None
    audio_self_attention: Keep = None
    a2v: Keep = None
    v2a: Keep = None


KEEP_ALL = BlockKeep()


@dataclass(frozen=True)
class Perturbations:
    """One perturbation for each sample of the batch."""

    samples: tuple[Perturbation, ...]

    def at(self, block: int) -> BlockKeep:
        """What block number ``block`` runs."""
        return BlockKeep(
            _keep(block, [s.video_self_attention for s in self.samples]),
            _keep(block, [s.audio_self_attention for s in self.samples]),
            _keep(block, [s.a2v for s in self.samples]),
            _keep(block, [s.v2a for s in self.samples]),
        )


def _keep(block: int, skipped: list[Blocks]) -> Keep:
    keep = tuple(blocks != "all" and block not in blocks for blocks in skipped)
    return None if all(keep) else keep
