"""The passes of a step as calls of the model: several at once or one by one, and no block twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..transformer import Hidden, Modality, Network, OnBlock, Perturbations, RopeMemory, TextMemory
from ..transformer.tiles import Tiles, evaluate_tiles
from ..types import AVLatent
from .guidance import Guidance, Pass
from .inputs import ClipInputs
from .pass_group import PassGroup


class Passes:
    """Evaluates ``model`` on one clip.

    ``per_call`` is how many passes one call may evaluate. In float32 on the CPU it is always one: kernels
    round a batch of another size otherwise, and there the result is to be the same bit for bit. So do passes
    whose texts differ in length go one by one.

    The perturbed pass is the conditional one up to the first block that it perturbs, and starts there. With
    ``tiles`` the model sees a large frame in parts, and passes share nothing. The processes of ``group`` each
    evaluate some of the passes. ``text_keys`` keeps the keys and values of the text where they do not change.
    """

    def __init__(
        self,
        model: Network,
        clip: ClipInputs,
        *,
        per_call: int,
        tiles: Tiles | None = None,
        group: PassGroup | None = None,
        text_keys: bool = False,
        on_block: OnBlock | None,
    ) -> None:
        self._model, self._clip, self._on_block = model, clip, on_block
        exact = clip.device.type == "cpu" and clip.dtype == torch.float32
        self._per_call = 1 if exact or not clip.joinable else per_call
        self._rope = RopeMemory()
        self._tiles, self._texts, self._group = tiles, TextMemory(keys=text_keys), group

    def velocities(
        self,
        x: AVLatent,
        sigma: float,
        guidance: Guidance,
        passes: Sequence[Pass],
        watch: OnBlock | None = None,
    ) -> dict[Pass, AVLatent]:
        """Velocities of ``x`` for each pass; ``watch`` hears of the blocks as ``on_block`` does."""

        def run(
            which: Sequence[Pass], until: int | None = None, resume: tuple[int, Hidden] | None = None
        ) -> Hidden:
            perturbations = [guidance.perturbation(one) for one in which for _ in range(self._clip.batch)]

            def evaluate(video: Modality | None, audio: Modality | None) -> Hidden:
                made: Hidden = self._model(
                    video,
                    audio,
                    Perturbations(tuple(perturbations)),
                    rope=self._rope.tables(self._model, video, audio),
                    texts=self._texts,
                    on_block=_both(self._on_block, watch),
                    until=until,
                    resume=resume,
                )
                return made

            video, audio = self._clip.modalities(x, sigma, which)
            if video is not None and self._tiles is not None:
                return evaluate_tiles(evaluate, self._tiles, video, audio)
            return evaluate(video, audio)

        every, passes = passes, passes if self._group is None else self._group.mine(passes)
        # The one that starts late comes last, behind the one that it goes on from.
        order = sorted(passes, key=lambda which: which is Pass.PERTURBED)
        alone = [[which] for which in order if which is Pass.UNREFERENCED]
        order = [which for which in order if which is not Pass.UNREFERENCED]
        fork = min(guidance.stg_blocks) if {Pass.CONDITIONAL, Pass.PERTURBED} <= {*order} else 0
        fork = 0 if self._tiles is not None else fork
        size = self._per_call
        found: dict[Pass, AVLatent] = {}
        kept: Hidden | None = None
        for which in [order[i : i + size] for i in range(0, len(order), size)] + alone:
            streams, kept = (run(which), None) if fork == 0 else self._forked(run, fork, which, kept)
            latents = self._clip.latents(x, *streams)
            found.update((one, _chunk(latents, i, len(which))) for i, one in enumerate(which))
        return found if self._group is None else self._group.share(found, every, x)

    def _forked(
        self, run: _Run, fork: int, which: Sequence[Pass], kept: Hidden | None
    ) -> tuple[Hidden, Hidden | None]:
        """One call, in which the perturbed pass joins at block ``fork`` as what the conditional one is there.

        ``kept`` is that, once the conditional pass has come by, and given back for the calls that follow.
        """
        whole = [one for one in which if one is not Pass.PERTURBED]
        if Pass.CONDITIONAL not in which and len(whole) == len(which):
            return run(which), kept
        hidden = run(whole, until=fork) if whole else (None, None)
        if Pass.CONDITIONAL in which:
            # A copy, since blocks write into what they are given.
            kept = _map(lambda t: t[: self._clip.batch].clone(), hidden)
        if len(whole) < len(which):
            assert kept is not None
            hidden = _cat(hidden, kept) if whole else kept
        return run(which, resume=(fork, hidden)), kept


class _Run(Protocol):
    def __call__(
        self, which: Sequence[Pass], until: int | None = None, resume: tuple[int, Hidden] | None = None
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
    """One callback for two; the first is asked first."""
    if first is None or second is None:
        return first or second
    a, b = first, second

    def on_block(number: int) -> None:
        a(number)
        b(number)

    return on_block
