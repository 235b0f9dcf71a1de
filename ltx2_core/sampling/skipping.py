"""Steps without an evaluation: streams that take their last estimate again."""

from __future__ import annotations

from ..types import AVLatent
from .guidance import Guidance


class Skipping:
    """The estimates of one run after another; the first step of a run is always evaluated."""

    def __init__(self) -> None:
        self._last: tuple[AVLatent, ...] | None = None

    def streams(self, guidance: Guidance, step: int) -> tuple[bool, bool]:
        """Whether video and audio are skipped at ``step``, counted from 0."""
        return (False, False) if self._last is None else guidance.skipped(step)

    def join(self, made: tuple[AVLatent, ...] | None, skipped: tuple[bool, bool]) -> tuple[AVLatent, ...]:
        """``made``, None where nothing was evaluated, with the last estimates of ``skipped`` streams."""
        if self._last is not None and made is None:
            return self._last
        assert made is not None
        if self._last is not None and any(skipped):
            made = tuple(_take(new, old, skipped) for new, old in zip(made, self._last, strict=True))
        self._last = made
        return made


def _take(new: AVLatent, old: AVLatent, skipped: tuple[bool, bool]) -> AVLatent:
    return AVLatent(old.video if skipped[0] else new.video, old.audio if skipped[1] else new.audio)
