"""Guidance: which evaluations of the model a step needs, and how their clean estimates become one.

For each stream, with the estimates c conditional, n negative prompt, p perturbed self-attention, q the two
streams apart and r without the reference sound:
``x0 = c + (cfg - 1) (c - n) + stg (c - p) + (modality - 1) (c - q) + identity (c - r)``.
A scale at its neutral value needs no evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Protocol

from torch import Tensor

from ..transformer import Perturbation
from ..types import AVLatent


class Pass(Enum):
    """One evaluation of the model within a step."""

    CONDITIONAL = "conditional"
    NEGATIVE = "negative"
    PERTURBED = "perturbed"
    APART = "apart"
    UNREFERENCED = "unreferenced"


@dataclass(frozen=True, kw_only=True)
class StreamGuidance:
    """Scales of one stream. Neutral: ``cfg`` 1, ``stg`` 0, ``modality`` 1, ``identity`` 0, ``rescale`` 0."""

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    identity: float = 0.0
    """How strongly to sound like the reference, where there is a reference sound."""
    rescale: float = 0.0
    """From 0 to 1: how far to bring the deviation of the result back to that of the conditional estimate."""
    cfg_star: bool = False
    """Scale the negative estimate to fit the conditional one best before it is subtracted (CFG-Zero*)."""
    apg_eta: float = 1.0
    """Adaptive projected guidance: how much the part of the update along the estimate counts; 1 is all."""
    apg_threshold: float = 0.0
    """Adaptive projected guidance: the longest update (norm of c - n) of a sample; 0 is no limit."""
    skip_steps: int = 0
    """How many steps after each evaluated one take its estimate again; 0 evaluates every step."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value):
                raise ValueError(f"{field.name}={value} must be a finite number")
        if self.cfg < 0:
            raise ValueError(f"cfg={self.cfg:g} must be at least 0; 1 is no guidance")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale={self.rescale:g} must be in [0, 1]; 0 is off")
        if self.apg_threshold < 0:
            raise ValueError(f"apg_threshold={self.apg_threshold:g} must be at least 0, which is no limit")
        if self.skip_steps < 0 or self.skip_steps != int(self.skip_steps):
            raise ValueError(
                f"skip_steps={self.skip_steps:g} must be a whole number from 0, which skips none"
            )

    @property
    def weights(self) -> dict[Pass, float]:
        """Of the difference to each further pass; neutral ones are left out."""
        weights = {
            Pass.NEGATIVE: self.cfg - 1,
            Pass.PERTURBED: self.stg,
            Pass.APART: self.modality - 1,
            Pass.UNREFERENCED: self.identity,
        }
        return {which: weight for which, weight in weights.items() if weight != 0}

    def combine(self, x0: Mapping[Pass, Tensor]) -> Tensor:
        """One estimate (B, ...) from those of the passes; passes that are not there add nothing."""
        conditional = result = x0[Pass.CONDITIONAL]
        for which, weight in self.weights.items():
            if which in x0:
                update = self._negative_update(conditional, x0[which]) if which is Pass.NEGATIVE else None
                result = result + weight * (conditional - x0[which] if update is None else update)
        if self.rescale and result is not conditional:
            ratio = _deviation(conditional) / _deviation(result)
            result = result * (self.rescale * ratio + 1 - self.rescale)
        return result

    def _negative_update(self, conditional: Tensor, negative: Tensor) -> Tensor:
        """What the negative prompt's estimate adds at weight 1, plain, fitted or projected."""
        if self.cfg_star:
            negative = negative * (_dot(conditional, negative) / _dot(negative, negative).clamp_min(1e-8))
        update = conditional - negative
        if self.apg_threshold:
            update = update * (self.apg_threshold / _dot(update, update).sqrt().clamp_min(1e-8)).clamp_max(1)
        if self.apg_eta != 1:
            along = _dot(update, conditional) / _dot(conditional, conditional).clamp_min(1e-8)
            update = update + (self.apg_eta - 1) * along * conditional
        return update


class GuidanceAt(Protocol):
    """Guidance that may differ from step to step."""

    def at(self, sigma: float) -> Guidance:
        """The guidance of a step at ``sigma``."""

    def passes(self, *, video: bool = True, audio: bool = True) -> tuple[Pass, ...]:
        """Every evaluation that some step needs when ``video`` and ``audio`` are generated."""

    @property
    def skips(self) -> bool:
        """Whether some step may be skipped."""

    @property
    def perturbed_blocks(self) -> frozenset[int]:
        """Every block that some step perturbs."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance of both streams; the default is none, one evaluation a step."""

    video: StreamGuidance = StreamGuidance()
    audio: StreamGuidance = StreamGuidance()
    stg_blocks: tuple[int, ...] = ()
    """Blocks whose self-attention the perturbed pass leaves out: (29,) for LTX-2.0, (28,) for 2.3."""
    from_sigma: float = 1.0
    to_sigma: float = 0.0
    """Steps at a sigma above ``from_sigma`` or below ``to_sigma`` are not guided and cost one evaluation."""

    def __post_init__(self) -> None:
        if (self.video.stg or self.audio.stg) and not self.stg_blocks:
            raise ValueError("stg is on but stg_blocks is empty: name the blocks, such as (29,) for LTX-2.0")
        if not 0 <= self.to_sigma <= self.from_sigma <= 1:
            raise ValueError(
                f"the guided steps must lie in 0 <= to_sigma <= from_sigma <= 1; got to_sigma="
                f"{self.to_sigma:g}, from_sigma={self.from_sigma:g}"
            )

    def at(self, sigma: float) -> Guidance:
        """This guidance where it is on at ``sigma``, else none."""
        # Float32 schedules hold 0.909375 a little beside what a user writes.
        return self if self.to_sigma - 1e-6 <= sigma <= self.from_sigma + 1e-6 else Guidance()

    def passes(self, *, video: bool = True, audio: bool = True) -> tuple[Pass, ...]:
        """The evaluations of a step when ``video`` and ``audio`` are generated, the conditional one first."""
        wanted = {**(self.video.weights if video else {}), **(self.audio.weights if audio else {})}
        return (Pass.CONDITIONAL, *(which for which in Pass if which in wanted))

    @property
    def skips(self) -> bool:
        return bool(self.video.skip_steps or self.audio.skip_steps)

    @property
    def perturbed_blocks(self) -> frozenset[int]:
        return frozenset(self.stg_blocks)

    def skipped(self, step: int) -> tuple[bool, bool]:
        """Whether video and audio take their last estimate again at ``step`` of a run, counted from 0."""
        return step % (self.video.skip_steps + 1) > 0, step % (self.audio.skip_steps + 1) > 0

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


@dataclass(frozen=True)
class GuidanceSchedule:
    """Another guidance for each range of sigma: entries (sigma, guidance), good up to that sigma.

    A step takes the entry with the smallest sigma that is not below its own; above all of them, the highest.
    """

    entries: tuple[tuple[float, Guidance], ...]

    def __post_init__(self) -> None:
        sigmas = [sigma for sigma, _ in self.entries]
        if not sigmas or len(set(sigmas)) < len(sigmas) or not all(0 <= sigma <= 1 for sigma in sigmas):
            raise ValueError(f"a guidance schedule needs entries at different sigmas in [0, 1]; got {sigmas}")

    def at(self, sigma: float) -> Guidance:
        """The guidance of a step at ``sigma``."""
        entries = sorted(self.entries, key=lambda entry: entry[0])
        entry = next((entry for entry in entries if entry[0] >= sigma - 1e-6), entries[-1])
        return entry[1].at(sigma)

    def passes(self, *, video: bool = True, audio: bool = True) -> tuple[Pass, ...]:
        """Every evaluation that some step needs when ``video`` and ``audio`` are generated."""
        wanted = {which for _, entry in self.entries for which in entry.passes(video=video, audio=audio)}
        return tuple(which for which in Pass if which in wanted)

    @property
    def skips(self) -> bool:
        return any(entry.skips for _, entry in self.entries)

    @property
    def perturbed_blocks(self) -> frozenset[int]:
        return frozenset(block for _, entry in self.entries for block in entry.stg_blocks)


@dataclass(frozen=True, kw_only=True)
class Nag:
    """Normalized attention guidance (Chen et al. 2025, arXiv 2505.21179): a negative prompt without a pass.

    ``scale`` 1 is neutral. ``tau`` bounds how much longer than before a token may get, ``alpha`` in [0, 1] is
    the share of the result. It costs a second text attention in each block.
    """

    scale: float = 11.0
    alpha: float = 0.25
    tau: float = 2.5

    def __post_init__(self) -> None:
        if not (self.scale >= 1 and 0 <= self.alpha <= 1 and self.tau > 0):
            raise ValueError(
                f"nag needs scale >= 1, alpha in [0, 1] and tau above 0; got scale={self.scale:g}, "
                f"alpha={self.alpha:g}, tau={self.tau:g}"
            )


def CFG(*, video: float = 1.0, audio: float = 1.0, rescale: float = 0.0) -> Guidance:
    """Classifier-free guidance alone, with a scale for each stream; 1 and 1 need no negative prompt."""
    return Guidance(
        video=StreamGuidance(cfg=video, rescale=rescale), audio=StreamGuidance(cfg=audio, rescale=rescale)
    )


def stg_blocks_of(layers: int, generation: str) -> tuple[int, ...]:
    """The block that the perturbed pass leaves out: 29 of 48 for LTX-2.0, 28 later; else in proportion."""
    block = 29 if generation == "2.0" else 28
    return (min(round(block * layers / 48), layers - 1),)


def _deviation(x: Tensor) -> Tensor:
    """Per sample, so that a sample does not depend on the others of its batch."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Per sample, with axes of length 1."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)
