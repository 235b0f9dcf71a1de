"""Step caching: velocities of the step before in place of an evaluation, where little has changed since.

An approximation, off by default. A velocity that is taken again is an Euler step that goes on for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..transformer import Network, OnBlock
from ..types import AVLatent
from .guidance import Pass

Velocities = Mapping[Pass, AVLatent]


@dataclass(frozen=True, kw_only=True)
class StepCache:
    """When to take the velocities again.

    - ``timestep``: as long as the embedding of the noise level has moved by less than ``threshold`` in all
      (relative L1) since the last evaluation, as TeaCache does (Liu et al. 2024, arXiv 2411.19108). Free, and
      the same at every prompt.
    - ``first_block``: if what the first block adds differs by less than ``threshold`` (relative L1) from the
      last full evaluation. Costs that block, and follows the content.
    """

    kind: Literal["timestep", "first_block"] = "first_block"
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("timestep", "first_block"):
            raise ValueError(f"step cache {self.kind!r} is unknown; use timestep or first_block")
        if not self.threshold > 0:
            raise ValueError(f"threshold={self.threshold} must be above 0; leave the cache out for none")


class Evaluations(NamedTuple):
    """Passes that the model evaluated, and passes that were reused in their place."""

    run: int
    reused: int


class Reuse:
    """The cache of one run: decides on the first call of a step, and then for all of its passes."""

    def __init__(self, cache: StepCache, model: Network) -> None:
        self._cache, self._model = cache, model
        self._last: dict[Pass, AVLatent] = {}
        self._embedding: Tensor | None = None
        self._moved = 0.0
        self._added: Sequence[Tensor] | None = None

    def __call__(
        self,
        sigma: float,
        passes: tuple[Pass, ...],
        evaluate: Callable[[OnBlock | None], dict[Pass, AVLatent]],
    ) -> tuple[Velocities, int]:
        """Velocities of the passes and how many of them were evaluated."""
        known = all(which in self._last for which in passes)
        if self._cache.kind == "timestep":
            self._move(sigma)
            if known and self._moved < self._cache.threshold:
                return self._last, 0
            self._moved = 0.0
            self._last = evaluate(None)
            return self._last, len(passes)
        with _Watch(self._model, self._added if known else None, self._cache.threshold) as watch:
            try:
                self._last = evaluate(watch.on_block)
            except _Unchanged:
                return self._last, 0
        self._added = watch.added
        return self._last, len(passes)

    def _move(self, sigma: float) -> None:
        """Add how far the embedding of the noise level has moved."""
        embed = self._model.get_submodule("adaln_single")
        weight = next(embed.parameters())
        scale = self._model.config.timestep_scale
        with torch.inference_mode():
            level = torch.tensor([sigma * scale], device=weight.device)
            embedding = embed(level, weight.dtype if weight.is_floating_point() else torch.float32)[0].float()
        if self._embedding is not None:
            self._moved += _distance(embedding, self._embedding)
        self._embedding = embedding


class _Unchanged(Exception):
    """The first block says that there is no need to go on."""


class _Watch:
    """Sees what the first block adds in the first call of a step, and stops there if it is what it was."""

    def __init__(self, model: Network, before: Sequence[Tensor] | None, threshold: float) -> None:
        self.added: Sequence[Tensor] | None = None
        self._block = model.transformer_blocks[0]
        self._before, self._threshold = before, threshold
        self._start: list[Tensor | None] = []

    def __enter__(self) -> _Watch:
        self._hooks = (
            self._block.register_forward_pre_hook(self._see_input),
            self._block.register_forward_hook(self._see),
        )
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def on_block(self, number: int) -> None:
        """Raises if the block before number 1 has added what it did at the last full evaluation."""
        if number != 1 or self._before is None or self.added is None:
            return
        before, self._before = self._before, None
        pairs = zip(self.added, before, strict=True)
        if all(_distance(now, then) < self._threshold for now, then in pairs):
            raise _Unchanged

    def _see_input(self, block: Any, args: tuple[Any, ...]) -> None:
        if self.added is None:
            # A block may write into its input.
            self._start = [None if t is None else t.clone() for t in args[:2]]

    def _see(self, block: Any, args: tuple[Any, ...], result: tuple[Tensor | None, Tensor | None]) -> None:
        if self.added is None:
            pairs = zip(self._start, result, strict=True)
            self.added = [after - start for start, after in pairs if start is not None and after is not None]
            self._start = []


def _distance(now: Tensor, before: Tensor) -> float:
    """Relative L1 distance; infinite between different shapes, as after a change of the passes in a call."""
    if now.shape != before.shape:
        return float("inf")
    return float((now - before).abs().mean() / before.abs().mean().clamp_min(1e-12))
