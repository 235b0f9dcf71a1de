"""Guidance: which guidance passes a step needs, and how their clean estimates are combined.

For each stream, with the estimates c of the prompt, n of the negative prompt, p with perturbed
self-attention, q with both streams apart and r without the reference audio:
``x0 = c + (cfg - 1) (c - n) + stg (c - p) + (modality - 1) (c - q) + identity (c - r)``.
A scale at its neutral value needs no pass. This is the formula of the official pipelines; cfg is from Ho and
Salimans 2022 (arXiv 2207.12598), stg from Hyung et al. 2024 (arXiv 2411.18664).
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
    """A guidance pass: one evaluation of the model within a step, for a clean estimate of its own.

    ``CONDITIONAL`` has the positive prompt, ``NEGATIVE`` the negative one. The others have the positive
    prompt and ``PERTURBED`` skips self-attention of some blocks, ``APART`` the attention between video and
    audio, and ``UNREFERENCED`` leaves the reference audio out.
    """

    CONDITIONAL = "conditional"
    NEGATIVE = "negative"
    PERTURBED = "perturbed"
    APART = "apart"
    UNREFERENCED = "unreferenced"


@dataclass(frozen=True, kw_only=True)
class StreamGuidance:
    """Guidance scales of one stream (video or audio). The defaults are neutral: one pass, without guidance.

    Each scale pushes the result away from another estimate: ``cfg`` from that of the negative prompt, ``stg``
    from one with some self-attention skipped, ``modality`` from one without attention between video and
    audio, ``identity`` from one without the reference audio. ``cfg`` and ``modality`` are neutral at 1,
    ``stg`` and ``identity`` at 0.
    """

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    identity: float = 0.0
    """How strongly to follow the reference audio, such as a voice."""
    rescale: float = 0.0
    """From 0 to 1: how far to scale the standard deviation of the result to that of c (Lin et al. 2023,
    arXiv 2305.08891, section 3.4)."""
    cfg_star: bool = False
    """Scale n to the least squares fit of c before it is subtracted (CFG-Zero*, arXiv 2503.18886)."""
    apg_eta: float = 1.0
    """Weight of the part of the update that is parallel to c; 1 is plain guidance (adaptive projected
    guidance, arXiv 2410.02416)."""
    apg_threshold: float = 0.0
    """Adaptive projected guidance: the largest norm of the update c - n of a sample; 0 is no limit."""
    skip_steps: int = 0
    """How many steps after each evaluated one repeat its estimate; 0 evaluates every step."""

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
        """For each guidance pass the weight of its difference in the guided estimate.

        The difference is the conditional estimate minus that of the pass. Passes of weight 0 are left out.
        """
        weights = {
            Pass.NEGATIVE: self.cfg - 1,
            Pass.PERTURBED: self.stg,
            Pass.APART: self.modality - 1,
            Pass.UNREFERENCED: self.identity,
        }
        return {which: weight for which, weight in weights.items() if weight != 0}

    def combine(self, x0: Mapping[Pass, Tensor]) -> Tensor:
        """The guided estimate of x0 (B, ...) of one stream from those of the passes, all of that shape.

        The conditional pass must be among them; another one that is missing adds nothing.
        """
        # Differences of estimates and not of velocities: the official pipelines guide x0. Both agree up to
        # rounding unless a nonlinear step such as rescaling follows.
        conditional = result = x0[Pass.CONDITIONAL]
        for which, weight in self.weights.items():
            if which in x0:
                update = self._negative_update(conditional, x0[which]) if which is Pass.NEGATIVE else None
                result = result + weight * (conditional - x0[which] if update is None else update)
        # Without any pass but c the ratio would be 1 up to rounding.
        if self.rescale and result is not conditional:
            ratio = _deviation(conditional) / _deviation(result)
            result = result * (self.rescale * ratio + 1 - self.rescale)
        return result

    def _negative_update(self, conditional: Tensor, negative: Tensor) -> Tensor:
        """The difference that ``cfg`` - 1 multiplies: the conditional minus the negative estimate, (B, ...).

        With ``cfg_star`` the negative estimate is first scaled to the least squares fit of the conditional
        one. With ``apg_threshold`` the norm of the difference is limited, and its part parallel to the
        conditional estimate is multiplied by ``apg_eta`` (adaptive projected guidance).
        """
        if self.cfg_star:
            # A latent of zeros has no direction, and its product would be undefined.
            negative = negative * (_dot(conditional, negative) / _dot(negative, negative).clamp_min(1e-8))
        update = conditional - negative
        # The order is that of the paper: limit the length first, then weight the parallel part of what is
        # left.
        if self.apg_threshold:
            update = update * (self.apg_threshold / _dot(update, update).sqrt().clamp_min(1e-8)).clamp_max(1)
        if self.apg_eta != 1:
            parallel = _dot(update, conditional) / _dot(conditional, conditional).clamp_min(1e-8)
            update = update + (self.apg_eta - 1) * parallel * conditional
        return update


class GuidanceAt(Protocol):
    """What a denoiser needs of guidance, be it the same in all steps or different by sigma."""

    def at(self, sigma: float) -> Guidance:
        """The guidance of the step at noise level ``sigma``."""

    def passes(self, *, video: bool = True, audio: bool = True) -> tuple[Pass, ...]:
        """Every pass that some step needs for the streams that are generated, ``video`` and ``audio``."""

    @property
    def skips(self) -> bool:
        """Whether some steps may not evaluate a stream, but repeat its last estimate."""

    @property
    def perturbed_blocks(self) -> frozenset[int]:
        """The number of every block whose self-attention the perturbed pass of some step skips."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance scales of both streams; the default is no guidance, which takes one pass per step.

    ``stg_blocks`` are the numbers of the transformer blocks whose self-attention is skipped for the perturbed
    estimate of spatio-temporal guidance (``stg``). Steps at a sigma above ``from_sigma`` or below
    ``to_sigma`` are not guided. Raises ValueError if a stream has ``stg`` but ``stg_blocks`` is empty, or
    unless 0 <= to_sigma <= from_sigma <= 1.
    """

    video: StreamGuidance = StreamGuidance()
    audio: StreamGuidance = StreamGuidance()
    stg_blocks: tuple[int, ...] = ()
    """Blocks whose self-attention the perturbed pass skips: (29,) for LTX-2.0, (28,) for 2.3."""
    from_sigma: float = 1.0
    to_sigma: float = 0.0
    """Steps at a noise level (sigma) above ``from_sigma`` or below ``to_sigma`` are not guided: one pass."""

    def __post_init__(self) -> None:
        if (self.video.stg or self.audio.stg) and not self.stg_blocks:
            raise ValueError("stg is on but stg_blocks is empty: name the blocks, such as (29,) for LTX-2.0")
        if not 0 <= self.to_sigma <= self.from_sigma <= 1:
            raise ValueError(
                f"the guided steps must lie in 0 <= to_sigma <= from_sigma <= 1; got to_sigma="
                f"{self.to_sigma:g}, from_sigma={self.from_sigma:g}"
            )

    def at(self, sigma: float) -> Guidance:
        """This guidance if ``sigma`` is from ``to_sigma`` to ``from_sigma``, else one without effect."""
        # In a float32 schedule 0.909375 differs a little from the float that a user passes.
        return self if self.to_sigma - 1e-6 <= sigma <= self.from_sigma + 1e-6 else Guidance()

    def passes(self, *, video: bool = True, audio: bool = True) -> tuple[Pass, ...]:
        """The passes of a step that generates ``video``, ``audio`` or both, the conditional one first."""
        needed = {**(self.video.weights if video else {}), **(self.audio.weights if audio else {})}
        # Both streams share each pass, so that it runs once if either needs it.
        return (Pass.CONDITIONAL, *(which for which in Pass if which in needed))

    @property
    def skips(self) -> bool:
        return bool(self.video.skip_steps or self.audio.skip_steps)

    @property
    def perturbed_blocks(self) -> frozenset[int]:
        return frozenset(self.stg_blocks)

    def skipped(self, step: int) -> tuple[bool, bool]:
        """Whether video and whether audio repeat their last estimate at step number ``step``, from 0."""
        # The first step of a run is always evaluated, since there is nothing to repeat yet.
        return step % (self.video.skip_steps + 1) > 0, step % (self.audio.skip_steps + 1) > 0

    def perturbation(self, which: Pass) -> Perturbation:
        """The operations that the model skips in guidance pass ``which``."""
        if which is Pass.PERTURBED:
            return Perturbation(
                # A stream without stg attends as usual in this pass, of which only the other stream's
                # estimate is read.
                video_self_attention=self.stg_blocks if self.video.stg else (),
                audio_self_attention=self.stg_blocks if self.audio.stg else (),
            )
        if which is Pass.APART:
            # In all blocks, as in the official pipelines.
            return Perturbation(a2v="all", v2a="all")
        return Perturbation()

    def combine(self, x0: Mapping[Pass, AVLatent]) -> AVLatent:
        """The guided x0 of both streams from the x0 of each pass; each stream has its own scales."""
        video = {which: latent.video for which, latent in x0.items() if latent.video is not None}
        audio = {which: latent.audio for which, latent in x0.items() if latent.audio is not None}
        return AVLatent(
            self.video.combine(video) if video else None, self.audio.combine(audio) if audio else None
        )


@dataclass(frozen=True)
class GuidanceSchedule:
    """Different guidance by range of sigma.

    ``entries`` are pairs of a sigma and the guidance of steps up to that sigma: a step uses the entry with
    the smallest sigma that is not below its own. A step above all entries uses the highest one. Raises
    ValueError for no entry, and for sigmas that are equal or outside of [0, 1].
    """

    entries: tuple[tuple[float, Guidance], ...]

    def __post_init__(self) -> None:
        sigmas = [sigma for sigma, _ in self.entries]
        if not sigmas or len(set(sigmas)) < len(sigmas) or not all(0 <= sigma <= 1 for sigma in sigmas):
            raise ValueError(f"a guidance schedule needs entries at different sigmas in [0, 1]; got {sigmas}")

    def at(self, sigma: float) -> Guidance:
        """The guidance of a step at noise level ``sigma``: that of the lowest entry not below ``sigma``.

        Above all entries it is that of the highest one. Each has its own ``from_sigma`` and ``to_sigma``, and
        no effect outside of these.
        """
        entries = sorted(self.entries, key=lambda entry: entry[0])
        # The same tolerance as in ``Guidance.at``.
        entry = next((entry for entry in entries if entry[0] >= sigma - 1e-6), entries[-1])
        return entry[1].at(sigma)

    def passes(self, *, video: bool = True, audio: bool = True) -> tuple[Pass, ...]:
        """Every pass that some entry needs for the streams that are generated, ``video`` and ``audio``."""
        needed = {which for _, entry in self.entries for which in entry.passes(video=video, audio=audio)}
        return tuple(which for which in Pass if which in needed)

    @property
    def skips(self) -> bool:
        return any(entry.skips for _, entry in self.entries)

    @property
    def perturbed_blocks(self) -> frozenset[int]:
        return frozenset(block for _, entry in self.entries for block in entry.stg_blocks)


@dataclass(frozen=True, kw_only=True)
class Nag:
    """Normalized attention guidance (Chen et al. 2025, arXiv 2505.21179): a negative prompt without a pass.

    The text attention of the positive prompt is extrapolated away from that of the negative prompt, which
    costs a second text attention in each block. ``scale`` 1 is neutral. ``tau`` limits the L1 norm of a
    token's extrapolated attention to that many times the norm of the positive one. ``alpha`` in [0, 1] is the
    share of the extrapolated attention in the result, the rest is the positive one.
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


def CFG(*, video: float = 1.0, audio: float = 1.0, rescale: float = 0.0) -> Guidance:  # noqa: N802 the word of the field
    """Classifier-free guidance alone, with a scale for each stream; at 1 no negative prompt is needed.

    ``rescale`` from 0 to 1 is how far the standard deviation of the result is scaled to that of the
    conditional estimate.
    """
    return Guidance(
        video=StreamGuidance(cfg=video, rescale=rescale), audio=StreamGuidance(cfg=audio, rescale=rescale)
    )


def check_blocks(guidance: GuidanceAt, layers: int) -> None:
    """Raise ValueError if the guidance perturbs a block that a transformer of ``layers`` blocks lacks."""
    blocks = guidance.perturbed_blocks
    if not all(0 <= block < layers for block in blocks):
        raise ValueError(
            f"stg_blocks {sorted(blocks)} are not all among the {layers} blocks of this model: "
            f"use numbers from 0 to {layers - 1}"
        )


def stg_blocks_of(layers: int, generation: str) -> tuple[int, ...]:
    """The number of the block whose self-attention the perturbed pass skips, as a tuple of one.

    ``layers`` is the number of blocks of the transformer, ``generation`` its release, such as "2.0" or "2.3".
    Of 48 blocks it is number 29 in generation 2.0 and 28 later; with fewer blocks it is the one at the same
    relative depth.
    """
    # A smaller model, such as the tiny set, has its block at the same depth.
    block = 29 if generation == "2.0" else 28
    return (min(round(block * layers / 48), layers - 1),)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation over all but the batch axis, (B, ...) -> (B, 1, ...)."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot product of each sample of a and b, (B, ...) -> (B, 1, ...)."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)
