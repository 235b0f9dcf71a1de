"""Step caching: a step reuses the velocities of the previous one where little has changed since.

An approximation, off by default. Reusing a velocity is the same as a longer Euler step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..transformer import Hidden, Network, OnBlock
from ..types import AVLatent
from .guidance import Pass

MAX_THRESHOLD = 100.0
"""Largest threshold that is accepted; no relative difference of two steps is as large."""

Velocities = Mapping[Pass, AVLatent]


@dataclass(frozen=True, kw_only=True)
class StepCache:
    """Step caching: in which sampling steps the last velocities are reused instead of running the model.

    ``kind`` is one of two ways to decide. ``threshold``, above 0, is how much change is allowed; a higher one
    reuses more.

    - ``timestep``: velocities are reused until the embedding of the noise level has changed by ``threshold``
      in all (relative L1) since the last evaluation, as in TeaCache (Liu et al. 2024, arXiv 2411.19108).
      Deciding takes no time and does not depend on the prompt.
    - ``first_block``: velocities are reused if what the first block adds to the hidden states differs by less
      than ``threshold`` (relative L1) from the last full evaluation, as in the First Block Cache of
      ParaAttention. Deciding takes the time of that block and depends on the content.
    """

    kind: Literal["timestep", "first_block"] = "first_block"
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("timestep", "first_block"):
            raise ValueError(f"step cache {self.kind!r} is unknown; use timestep or first_block")
        if not 0 < self.threshold <= MAX_THRESHOLD:
            raise ValueError(
                f"threshold={self.threshold} must be above 0 and at most {MAX_THRESHOLD:g}; leave "
                "the cache out for none"
            )


class Evaluations(NamedTuple):
    """How many guidance passes of a run the model evaluated, and how many reused an earlier result."""

    run: int
    reused: int


class Reuse:
    """The cached velocities of one run of ``model``; ``cache`` decides at each step whether they are reused.

    A step reuses the velocities of all its guidance passes or of none.
    """

    def __init__(self, cache: StepCache, model: Network) -> None:
        self._cache, self._model = cache, model
        self._last: dict[Pass, AVLatent] = {}
        self._embedding: Tensor | None = None
        self._change = 0.0
        self._residual: Sequence[Tensor] | None = None

    def __call__(
        self,
        sigma: float,
        passes: tuple[Pass, ...],
        evaluate: Callable[[OnBlock | None], dict[Pass, AVLatent]],
    ) -> tuple[Velocities, int]:
        """Velocities of ``passes`` at noise level ``sigma``, and how many passes were evaluated: all or 0.

        ``evaluate(on_block)`` computes the velocities of all passes. It has to call ``on_block``, if that is
        not None, with the number of each block of the model before that block, and let an exception from it
        through.
        """
        # A pass that was not evaluated before has nothing to reuse, so that all are evaluated.
        cached = all(which in self._last for which in passes)
        if self._cache.kind == "timestep":
            self._accumulate_change(sigma)
            if cached and self._change < self._cache.threshold:
                return self._last, 0
            # The change counts from the last evaluation, so that small ones add up.
            self._change = 0.0
            self._last = evaluate(None)
            return self._last, len(passes)
        with _Watch(self._model, self._residual if cached else None, self._cache.threshold) as watch:
            try:
                self._last = evaluate(watch.on_block)
            except _Unchanged:
                return self._last, 0
        self._residual = watch.residual
        return self._last, len(passes)

    def _accumulate_change(self, sigma: float) -> None:
        """Add how far the embedding of noise level ``sigma`` is from that of the previous step (relative L1).

        The sum, which is compared with the threshold, starts at 0 after each evaluation of the model.
        """
        # That of the video stands for both streams, as each is a function of the noise level alone.
        embed = self._model.get_submodule("adaln_single")
        # A quantised weight has an integer dtype, in which no embedding can be computed.
        weight = next(embed.parameters())
        scale = self._model.config.timestep_scale
        with torch.inference_mode():
            # The embedding of sigma alone: tokens with a mask have other timesteps, but they follow sigma in
            # proportion, so that its change stands for theirs.
            level = torch.full((1,), sigma * scale, device=weight.device)
            embedding = embed(level, weight.dtype if weight.is_floating_point() else torch.float32)[0].float()
        if self._embedding is not None:
            # The sum and not the distance to the last evaluated step, as in TeaCache.
            self._change += _distance((embedding, self._embedding))
        self._embedding = embedding


class _Unchanged(Exception):
    """Raised to end a forward pass whose first block adds about as before; the last velocities are reused."""


class _Watch:
    """Context manager that records what the first block of ``model`` adds to the hidden states: its residual.

    Only the first forward pass inside is recorded. ``last`` is the residual of the last full evaluation, one
    tensor per stream, or None. If the new residual differs from ``last`` by less than ``threshold`` (relative
    L1), :meth:`on_block` ends the forward pass by an exception; without ``last`` it never does.
    """

    def __init__(self, model: Network, last: Sequence[Tensor] | None, threshold: float) -> None:
        self.residual: Sequence[Tensor] | None = None
        self._block = model.transformer_blocks[0]
        self._last, self._threshold = last, threshold
        self._input: list[Tensor | None] = []

    def __enter__(self) -> _Watch:
        # A forward pass returns velocities and not what its first block adds, so that hooks read it. While
        # they are registered, the runner records no graphs, which would not call them.
        self._hooks = (
            self._block.register_forward_pre_hook(self._record_input),
            self._block.register_forward_hook(self._record_residual),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Removed even after an error, since the model outlives the run.
        for hook in self._hooks:
            hook.remove()

    def on_block(self, number: int) -> None:
        """Called before block ``number``: raises before block 1 if block 0 added about the same as before.

        What block 0 added is compared with its residual in the last full evaluation, by the threshold.
        """
        if number != 1 or self._last is None or self.residual is None:
            return
        # Taken, so that later forward passes of the step are not compared.
        last, self._last = self._last, None
        pairs = zip(self.residual, last, strict=True)
        if _distance(*pairs) < self._threshold:
            # An exception is the only way out of the forward pass before its last block.
            raise _Unchanged

    def _record_input(self, _block: nn.Module, args: tuple[Tensor | None, ...]) -> None:
        if self.residual is None:
            # A block may write into its input.
            self._input = [None if t is None else t.clone() for t in args[:2]]

    def _record_residual(self, _block: nn.Module, _args: tuple[Tensor | None, ...], result: Hidden) -> None:
        if self.residual is None:
            pairs = zip(self._input, result, strict=True)
            self.residual = [
                after - before for before, after in pairs if before is not None and after is not None
            ]
            self._input = []


def _distance(*pairs: tuple[Tensor, Tensor]) -> float:
    """The largest mean L1 distance of (now, last), relative to last; infinite where their shapes differ."""
    if any(now.shape != last.shape for now, last in pairs):
        return float("inf")
    # The bound guards against a residual of 0, as in a network whose first block adds nothing.
    apart = [(now - last).abs().mean() / last.abs().mean().clamp_min(1e-12) for now, last in pairs]
    # Read once, since the CPU waits for a GPU.
    return float(torch.stack(apart).max())
