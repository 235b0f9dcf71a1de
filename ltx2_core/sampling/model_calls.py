"""How the denoiser of a run calls the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..transformer import OnBlock
from ..transformer.tiles import Tiles
from .caching import StepCache
from .pass_group import PassGroup


@dataclass(frozen=True, kw_only=True)
class ModelCalls:
    """How the model of a run is called: in which dtype, with how many passes, and what is reused.

    Attributes:
        dtype: in which the model computes.
        passes_per_call: how many guidance passes one forward pass may evaluate. More need more memory; the
            result is the same, bit for bit in float32 on the CPU.
        pass_group: the processes among which the passes of a step are divided; None is this process alone.
        cache: reuses velocities between steps; None evaluates every step.
        tiles: evaluates a large frame in overlapping tiles; None evaluates it whole.
        text_keys: caches the attention keys and values of the text in every block, which takes memory.
        on_block: called with its number before each block of the model; it may raise to stop within a step.

    Raises ValueError for ``passes_per_call`` below 1, and for a ``cache`` together with ``tiles``.
    """

    dtype: torch.dtype = torch.float32
    passes_per_call: int = 1
    pass_group: PassGroup | None = None
    cache: StepCache | None = None
    tiles: Tiles | None = None
    text_keys: bool = False
    on_block: OnBlock | None = None

    def __post_init__(self) -> None:
        if self.cache is not None and self.tiles is not None:
            raise ValueError("the step cache does not support tiles: use one of the two")
        if self.passes_per_call < 1:
            raise ValueError(
                f"passes_per_call={self.passes_per_call} must be at least 1, which is one by one"
            )


ONE_BY_ONE = ModelCalls()
"""Each pass in a call of its own, in float32, with nothing reused."""
