"""The sampling part of a request: schedule, sampler, guidance, cache and seed, and a second stage."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from torch import Tensor

from ..transformer.tiles import Tiles
from .caching import StepCache
from .guidance import Guidance, GuidanceSchedule, Nag
from .samplers import get_sampler
from .schedules import finished

ScheduleOf: TypeAlias = Literal["clip", "4096"]
SCHEDULES: Final[tuple[ScheduleOf, ...]] = ("4096", "clip")
"""Whose number of tokens shifts the schedule: always 4096, or that of the clip."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the first sampling stage of a run is sampled; a second one may follow at a larger size.

    A value of None is that of the checkpoint's recipe (its usual settings), or is off. ``sigmas`` takes the
    place of ``steps``, ``guidance`` that of ``cfg`` and ``audio_cfg``. ``schedule`` is the number of tokens
    for which the schedule is made: "4096" or that of the "clip"; None is "4096" if the run reproduces the
    official pipelines, "clip" if it reproduces ComfyUI. ``denoise`` below 1 runs only that share of the
    steps, the last ones, and needs latents to start from. ``eta`` is the sampler's share of fresh noise,
    ``distilled`` samples as for a distilled model. ``nag`` avoids a negative prompt within attention.
    ``cache`` reuses velocities between steps, ``tiles`` evaluates large frames in parts.
    ``generated_keyframes`` are the pixel frames, or how many of them spread evenly, that the model also
    generates as single images next to the clip (LTX-2.5). A ``seed`` of None or -1 is drawn; ``noise_device``
    is the device whose generator draws the noise.
    """

    steps: int | None = None
    sigmas: Sequence[float] | None = None
    schedule: ScheduleOf | None = None
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
    generated_keyframes: Sequence[int] | int | None = None
    seed: int | None = 0
    noise_device: str = "cpu"

    def __post_init__(self) -> None:
        """Draw a missing seed. Raises ValueError for values outside their range and for unknown samplers."""
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", plain_sigmas(self.sigmas))
        if self.sampler is not None:
            get_sampler(self.sampler, eta=self.eta)
        for name in ("cfg", "audio_cfg"):
            scale = getattr(self, name)
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"{name} must be a number from 0 (1 is no guidance); got {scale}")
        if self.schedule not in (None, *SCHEDULES):
            raise ValueError(f"schedule is one of {', '.join(SCHEDULES)}; got {self.schedule!r}")
        object.__setattr__(self, "seed", _seed(self.seed))


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How many sampling stages a run has (``count``), and how the second one samples the upscaled latent.

    ``sigmas`` of None are those of the checkpoint's recipe (its usual settings); a ``sampler`` of None is
    Euler after a guided first stage, else that of the first stage. ``audio_stage`` is the number of the
    stage, 1 or 2, that the audio is taken from; None is 1 with guidance and 2 without, as in the official
    pipelines, and always 2 if the run reproduces ComfyUI. ``pipeline`` "dfr" samples by the DFR pipeline of
    LTX-2.5, with ``temporal_rounds`` rounds that each double the frame rate; None samples ``count`` stages.
    ``tiles`` is how many tiles the second stage is divided into along time, height and width each, as the
    official pipeline for HDR clips does; 1 samples it whole.
    """

    count: Literal[1, 2] = 1
    sigmas: Sequence[float] | None = None
    sampler: str | None = None
    audio_stage: Literal[1, 2] | None = None
    pipeline: Literal["dfr"] | None = None
    temporal_rounds: int = 0
    tiles: int = 1

    def __post_init__(self) -> None:
        """Append a missing final 0 to ``sigmas``. Raises ValueError for an unknown sampler."""
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", plain_sigmas(self.sigmas))
        if self.sampler is not None:
            get_sampler(self.sampler)


def _seed(seed: Any) -> int:
    """``seed`` itself, or a drawn one for None and -1. Raises ValueError for a number out of range."""
    if seed is None or seed == -1:
        # Short enough to be typed again.
        return secrets.randbelow(2**32)
    # The range of torch's generators, and of the seed widget of ComfyUI.
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be 0 ... 2**64 - 1, or -1 to draw one; got {seed}")
    return int(seed)


def plain_sigmas(sigmas: Sequence[float] | Tensor) -> tuple[float, ...]:
    """Sigmas as a tuple of floats, for comparisons and JSON; a missing final 0 is appended."""
    plain = [float(sigma) for sigma in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas)]
    return tuple(finished(plain))
