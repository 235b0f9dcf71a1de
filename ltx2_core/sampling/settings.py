"""The sampling part of a request: schedule, sampler, guidance, cache and seed, and a second stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..transformer.tiles import Tiles
from .caching import StepCache
from .guidance import Guidance, GuidanceSchedule, Nag
from .samplers import get_sampler


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the first stage is sampled; None is left to the recipe of the checkpoint, or is off.

    ``guidance`` takes the place of ``cfg`` and ``audio_cfg``; ``sigmas`` takes the place of ``steps``.
    ``denoise`` below 1 runs only that share of the steps, the last ones, and needs latents to start from.
    """

    steps: int | None = None
    sigmas: Sequence[float] | None = None
    denoise: float = 1.0
    sampler: str | None = None
    eta: float | None = None
    distilled: bool = False
    cfg: float | None = None
    audio_cfg: float | None = None
    guidance: Guidance | GuidanceSchedule | None = None
    nag: Nag | None = None
    cache: StepCache | None = None
    tiles: Tiles | None = None
    seed: int = 0
    noise_device: str = "cpu"

    def __post_init__(self) -> None:
        """Raises ValueError for values outside their range and for unknown samplers."""
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", plain_sigmas(self.sigmas))
        if self.sampler is not None:
            get_sampler(self.sampler, eta=self.eta)
        for name in ("cfg", "audio_cfg"):
            scale = getattr(self, name)
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"{name} must be a number from 0 (1 is no guidance); got {scale}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 ... 2**64 - 1; got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How many stages a run has, and how the second one is sampled.

    ``audio_stage`` is the stage that the audio is taken from; by default 1 with guidance and 2 without, as in
    the official pipelines, and always 2 in the comfy numerics.
    """

    count: Literal[1, 2] = 1
    sigmas: Sequence[float] | None = None
    sampler: str | None = None
    audio_stage: Literal[1, 2] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown sampler."""
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", plain_sigmas(self.sigmas))
        if self.sampler is not None:
            get_sampler(self.sampler)


def plain_sigmas(sigmas: Sequence[float] | Tensor) -> tuple[float, ...]:
    """Sigmas as a tuple of floats, which can be compared and written to JSON."""
    return tuple(float(sigma) for sigma in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas))
