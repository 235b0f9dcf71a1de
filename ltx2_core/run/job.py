"""Computes from progress reports which fraction of a job (text, stages, decoding, encoding) is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..shapes import ClipPlan
from .progress import Progress
from .stages import Stage

DECODE = "decode, encode"
"""The name of the part that decodes a clip and encodes its file."""

_TEXT_PASSES, _DECODE_PASSES = 2.0, 5.0
"""The time of encoding the text and of decoding, in forward passes of the transformer over the same tokens.

Estimates: they only decide how soon the predicted end of a job is right.
"""


@dataclass(frozen=True)
class Part:
    """A part of a job: its name in progress reports, and its expected share of the time.

    Shares are relative to each other, in any unit.
    """

    name: str
    share: float


def job_parts(stages: Sequence[Stage], *, windows: int = 1) -> tuple[Part, ...]:
    """The parts of a job with these sampling ``stages``, in order: text, each stage, decoding and encoding.

    ``windows`` is the number of windows of a long clip, for each of which the stages are repeated.
    """
    # Attention is quadratic and the rest linear in the tokens; at usual sizes linear is close enough for a
    # bar.
    sampling = [
        # Tiles follow one another under the name of their stage.
        Part(f"stage {index}", _passes(stage) * _tokens(stage.sampled) / tiles)
        for index, stage in enumerate(stages, start=1)
        for tiles in (stage.split**3,)
        for _ in range(tiles)
    ]
    return (
        Part("text", _TEXT_PASSES * _tokens(stages[0].clip)),
        *sampling * windows,
        Part(DECODE, _DECODE_PASSES * _tokens(stages[-1].finished) * windows),
    )


def _passes(stage: Stage) -> int:
    return (len(stage.sigmas) - 1) * len(stage.guidance.passes())


def _tokens(clip: ClipPlan) -> int:
    return clip.video_tokens + clip.audio_tokens


class Job:
    """Computes which fraction of a job is done, from 0 to 1, from reports on its ``parts``, in their order.

    The fraction never falls, whatever is reported.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._total = sum(part.share for part in parts)
        self._index = 0
        self._step = 0
        self._done = 0.0

    def advance(self, progress: Progress) -> float:
        """Return the fraction of the job that is done after the report ``progress``.

        A report of a part that the job does not have changes nothing.
        """
        index = self._find(progress)
        if index is None:
            return self._done
        self._index, self._step = index, progress.step
        return self._set(index, progress.step / max(1, progress.steps))

    def reach(self, index: int) -> float:
        """Return the fraction of the job that is done when parts 0 to ``index`` - 1 are finished."""
        if index > self._index:
            self._index, self._step = index, 0
        return self._set(index, 0.0)

    def _find(self, progress: Progress) -> int | None:
        """The index of the part that ``progress`` reports on, by its name, from the current part on.

        If the steps of the current part begin again, it is the next part of the same name. None if there is
        no such part.
        """
        for index in range(self._index, len(self._parts)):
            again = index == self._index and progress.step < self._step
            if self._parts[index].name == progress.stage and not again:
                return index
        return None

    def _set(self, index: int, within: float) -> float:
        before = sum(part.share for part in self._parts[:index])
        now = before + (self._parts[index].share * within if index < len(self._parts) else 0.0)
        # A bar that falls back makes its remaining time useless.
        self._done = max(self._done, now / self._total)
        return self._done
