"""Operations of the network that a guidance pass skips, sample by sample and block by block.

Spatio-temporal guidance skips the self-attention of some blocks; modality guidance skips the attention
between the streams.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Blocks = Collection[int] | Literal["all"]
"""Zero-based block numbers."""

Samples = tuple[bool, ...] | None
"""Per sample whether an operation runs; None where it runs for every sample."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """The blocks in which one sample skips an operation: a collection of numbers from 0, or "all".

    Where a self-attention is skipped, the values of a token take the place of what it would attend to; head
    gates, output projection and branch gate still apply. Attention between the streams (``a2v`` updates the
    video, ``v2a`` the audio) adds nothing where it is skipped.
    """

    video_self_attention: Blocks = ()
    audio_self_attention: Blocks = ()
    a2v: Blocks = ()
    v2a: Blocks = ()


@dataclass(frozen=True)
class StreamSwitches:
    """For which samples one stream attends to itself and to the other stream; None is all samples."""

    self_attention: Samples = None
    cross_attention: Samples = None


@dataclass(frozen=True)
class Switches:
    """Which attentions one block runs for which samples of the batch, for each stream."""

    video: StreamSwitches = StreamSwitches()
    audio: StreamSwitches = StreamSwitches()


ALL_ON = Switches()


@dataclass(frozen=True)
class Perturbations:
    """The operations that a forward pass skips: one :class:`Perturbation` for each sample of the batch."""

    samples: tuple[Perturbation, ...]

    def at(self, block: int) -> Switches:
        """For each attention of block number ``block``, the samples for which it runs."""

        def runs(skipped: list[Blocks]) -> Samples:
            # None is the usual case, in which branches need no mask of samples.
            samples = tuple(blocks != "all" and block not in blocks for blocks in skipped)
            return None if all(samples) else samples

        return Switches(
            StreamSwitches(
                runs([s.video_self_attention for s in self.samples]), runs([s.a2v for s in self.samples])
            ),
            StreamSwitches(
                runs([s.audio_self_attention for s in self.samples]), runs([s.v2a for s in self.samples])
            ),
        )

    def skip_nothing(self, blocks: int) -> bool:
        """Whether no sample skips anything in the first ``blocks`` blocks."""
        return all(self.at(number) == ALL_ON for number in range(blocks))


@lru_cache(maxsize=64)
def sample_mask(samples: tuple[bool, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor (B, 1, 1) on ``device``: 1 or True for each sample that takes part, 0 or False for the others.

    It is made once for each combination: a new one would make the CPU wait for a GPU, twice a block.
    """
    # Cached tensors are used in training too, where autograd refuses those of inference mode.
    with torch.inference_mode(False):
        return torch.tensor(samples, dtype=dtype, device=device)[:, None, None]
