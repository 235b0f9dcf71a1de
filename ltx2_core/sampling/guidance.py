"""Guidance: which evaluations of the model a step needs, and how their clean estimates become one.

For each stream, with the estimates c conditional, n negative prompt, p perturbed self-attention and q the two
streams apart: ``x0 = c + (cfg - 1) (c - n) + stg (c - p) + (modality - 1) (c - q)``. A scale at its neutral
value needs no evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from ..transformer import Perturbation
from ..types import AVLatent


class Pass(Enum):
    """One evaluation of the model within a step."""

    CONDITIONAL = "conditional"
    NEGATIVE = "negative"
    PERTURBED = "perturbed"
    APART = "apart"


@dataclass(frozen=True, kw_only=True)
class StreamGuidance:
    """Scales of one stream. Neutral: ``cfg`` 1, ``stg`` 0, ``modality`` 1, ``rescale`` 0."""

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0
    """From 0 to 1: how far to bring the deviation of the result back to that of the conditional estimate."""

    @property
    def weights(self) -> dict[Pass, float]:
        """Of the difference to each further pass; neutral ones are left out."""
        weights = {Pass.NEGATIVE: self.cfg - 1, Pass.PERTURBED: self.stg, Pass.APART: self.modality - 1}
        return {which: weight for which, weight in weights.items() if weight != 0}

    def combine(self, x0: Mapping[Pass, Tensor]) -> Tensor:
        """One estimate (B, ...) from those of the passes; passes that are not there add nothing."""
        conditional = result = x0[Pass.CONDITIONAL]
        for which, weight in self.weights.items():
            if which in x0:
                result = result + weight * (conditional - x0[which])
        if self.rescale and result is not conditional:
            ratio = _deviation(conditional) / _deviation(result)
            result = result * (self.rescale * ratio + 1 - self.rescale)
        return result


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance of both streams; the default is none, one evaluation a step."""

    video: StreamGuidance = StreamGuidance()
    audio: StreamGuidance = StreamGuidance()
    stg_blocks: tuple[int, ...] = ()
    """Blocks whose self-attention the perturbed pass leaves out: (29,) for LTX-2.0, (28,) for 2.3."""

    def __post_init__(self) -> None:
        if (self.video.stg or self.audio.stg) and not self.stg_blocks:
            raise ValueError("stg is on but stg_blocks is empty: name the blocks, such as (29,) for LTX-2.0")

    def passes(self, *, video: bool = True, audio: bool = True) -> tuple[Pass, ...]:
        """The evaluations of a step when ``video`` and ``audio`` are generated, the conditional one first."""
        wanted = {**(self.video.weights if video else {}), **(self.audio.weights if audio else {})}
        return (Pass.CONDITIONAL, *(which for which in Pass if which in wanted))

    def perturbation(self, which: Pass) -> Perturbation:
        """What the model leaves out in a pass."""
        if which is Pass.PERTURBED:
            return Perturbation(
                video_self_attention=self.stg_blocks if self.video.stg else (),
                audio_self_attention=self.stg_blocks if self.audio.stg else (),
            )
        if which is Pass.APART:
            return Perturbation(a2v="all", v2a="all")
        return Perturbation()

    def combine(self, x0: Mapping[Pass, AVLatent]) -> AVLatent:
        """One estimate from those of the passes, each stream by its own scales."""
        video = {which: latent.video for which, latent in x0.items() if latent.video is not None}
        audio = {which: latent.audio for which, latent in x0.items() if latent.audio is not None}
        return AVLatent(
            self.video.combine(video) if video else None, self.audio.combine(audio) if audio else None
        )


def CFG(*, video: float = 1.0, audio: float = 1.0, rescale: float = 0.0) -> Guidance:
    """Classifier-free guidance alone, with a scale for each stream; 1 and 1 need no negative prompt."""
    return Guidance(
        video=StreamGuidance(cfg=video, rescale=rescale), audio=StreamGuidance(cfg=audio, rescale=rescale)
    )


def _deviation(x: Tensor) -> Tensor:
    """Per sample, so that a sample does not depend on the others of its batch."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)
