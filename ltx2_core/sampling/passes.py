"""The guidance passes of a step as forward passes of the network, batched and sharing blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..out_of_memory import attempt
from ..transformer import Hidden, Modality, Network, OnBlock, Perturbations, RopeMemory, TextMemory
from ..transformer.tiles import TileMemory, evaluate_tiles
from ..types import AVLatent
from .guidance import Guidance, Pass
from .inputs import ClipInputs
from .model_calls import ModelCalls
from .pass_plan import Batching, PassCall, StepPlan


class Passes:
    """Evaluates the guidance passes of one clip with ``model``.

    ``calls`` says how many passes may share a forward pass. In float32 on the CPU a forward pass always
    evaluates one guidance pass, whatever ``calls`` allow: kernels round batches of different sizes
    differently, and there the result has to be the same bit for bit. Passes whose texts differ in length are
    evaluated one by one, too. With tiles, passes share no blocks. Keys and values of the text are cached only
    where they are the same at every step.
    """

    def __init__(self, model: Network, clip: ClipInputs, calls: ModelCalls) -> None:
        self._model, self._clip, self._on_block = model, clip, calls.on_block
        exact = clip.device.type == "cpu" and clip.dtype == torch.float32
        size = 1 if exact or not clip.joinable else calls.passes_per_call
        self.batching = Batching(size=size, forks=calls.tiles is None, group=calls.pass_group)
        self._rope = RopeMemory()
        self._tiles, self._tile_memory = calls.tiles, TileMemory()
        self._texts = TextMemory(keys=calls.text_keys)

    def velocities(
        self, x: AVLatent, sigma: float, plan: StepPlan, on_block: OnBlock | None = None
    ) -> dict[Pass, AVLatent]:
        """Velocities of ``x`` at noise level ``sigma`` for each guidance pass of ``plan``.

        ``on_block`` is called with its number before each block, after the callback of ``ModelCalls``.
        """

        def forward(
            passes: Sequence[Pass], until: int | None = None, resume: tuple[int, Hidden] | None = None
        ) -> Hidden:
            perturbations = self._perturbations(plan.guidance, passes)

            def evaluate(video: Modality | None, audio: Modality | None) -> Hidden:
                hidden: Hidden = self._model(
                    video,
                    audio,
                    perturbations,
                    rope=self._rope.tables(self._model, video, audio),
                    texts=self._texts,
                    on_block=_both(self._on_block, on_block),
                    until=until,
                    resume=resume,
                )
                return hidden

            video, audio = self._clip.modalities(x, sigma, passes)
            # Only the video is cut, since audio has no space.
            if video is not None and self._tiles is not None:
                return evaluate_tiles(evaluate, self._tiles, video, audio, self._tile_memory)
            return evaluate(video, audio)

        def evaluated() -> dict[Pass, AVLatent]:
            velocities: dict[Pass, AVLatent] = {}
            saved: Hidden | None = None
            for call in plan.calls:
                if call.fork:
                    tokens, saved = self._forked(forward, call, saved)
                else:
                    tokens = forward(call.passes)
                latents = self._clip.latents(x, *tokens)
                for number, which in enumerate(call.passes):
                    velocities[which] = _chunk(latents, number, len(call.passes))
            return velocities

        # Processes that compute one step together would block on one that repeats it.
        alone = getattr(self._model, "shards", None) is None
        velocities = attempt("sampling", evaluated, again=alone)
        group = self.batching.group
        return velocities if group is None else group.share(velocities, plan.passes, x)

    def _perturbations(self, guidance: Guidance, passes: Sequence[Pass]) -> Perturbations:
        # Passes are the slower axis of the batch, as in the concatenated contexts: all samples of one pass,
        # then all of the next.
        return Perturbations(
            tuple(guidance.perturbation(which) for which in passes for _ in range(self._clip.batch))
        )

    def _forked(
        self, forward: _Forward, call: PassCall, saved: Hidden | None
    ) -> tuple[Hidden, Hidden | None]:
        """Run guidance passes of which the perturbed one starts from hidden states of the positive pass.

        ``call`` names the passes that are run together. ``forward`` runs the network on some of them;
        ``saved`` are the hidden states of the positive pass, None before it has run. Returns the tokens of
        all passes of ``call``, and the hidden states to pass as ``saved`` to the next ones.
        """
        hidden = forward(call.whole, until=call.fork) if call.whole else (None, None)
        if call.saves:
            # Blocks write into their input, so a copy is saved.
            saved = _map(lambda t: t[: self._clip.batch].clone(), hidden)
        if call.whole != call.passes:
            assert saved is not None
            hidden = _cat(hidden, saved) if call.whole else saved
        return forward(call.passes, resume=(call.fork, hidden)), saved


class _Forward(Protocol):
    def __call__(
        self, passes: Sequence[Pass], until: int | None = None, resume: tuple[int, Hidden] | None = None
    ) -> Hidden: ...


def _map(fn: Callable[[Tensor], Tensor], hidden: Hidden) -> Hidden:
    x, y = (None if t is None else fn(t) for t in hidden)
    return x, y


def _cat(first: Hidden, second: Hidden) -> Hidden:
    x, y = (None if a is None or b is None else torch.cat((a, b)) for a, b in zip(first, second, strict=True))
    return x, y


def _chunk(x: AVLatent, number: int, chunks: int) -> AVLatent:
    return x.map(lambda t: t.chunk(chunks)[number])


def _both(first: OnBlock | None, second: OnBlock | None) -> OnBlock | None:
    """One callback that calls ``first``, then ``second``; None stands for no callback."""
    if first is None or second is None:
        return first or second
    a, b = first, second

    def on_block(number: int) -> None:
        a(number)
        b(number)

    return on_block
