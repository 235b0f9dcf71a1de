"""Presets: the sampling settings of the published pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torch import Tensor

from .guidance import Guidance, StreamGuidance
from .schedules import FIXED_SIGMAS, MANY_TOKENS, ltxv_sigmas

LTXV: Final = "ltxv"
UNGUIDED: Final = StreamGuidance()


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sampling settings of a published pipeline.

    ``schedule`` is a name of ``FIXED_SIGMAS``, or "ltxv": the schedule of ``ltxv_sigmas`` for ``steps`` steps
    with ``max_shift``, ``base_shift`` and ``terminal``. ``sampler`` is a name of ``SAMPLERS``, ``eta`` its
    share of fresh noise (None: the sampler's default), ``video`` and ``audio`` the guidance of each stream.
    ``image_strength`` is how much of the first image is preserved; None leaves that to the model.
    """

    schedule: str
    steps: int
    sampler: str
    eta: float | None = None
    video: StreamGuidance = UNGUIDED
    audio: StreamGuidance = UNGUIDED
    max_shift: float = 2.05
    base_shift: float = 0.95
    terminal: float = 0.1
    image_strength: float | None = None

    def sigmas(self, tokens: int | None = None) -> Tensor:
        """The schedule (steps + 1,).

        That of "ltxv" depends on ``tokens``, the number of video tokens; None is 4096.
        """
        if self.schedule != LTXV:
            return FIXED_SIGMAS[self.schedule].clone()
        return ltxv_sigmas(
            self.steps,
            MANY_TOKENS if tokens is None else tokens,
            max_shift=self.max_shift,
            base_shift=self.base_shift,
            terminal=self.terminal,
        )

    def guidance(self, stg_blocks: tuple[int, ...]) -> Guidance:
        """The guidance of both streams; ``stg_blocks`` are the blocks that stg perturbs."""
        stg = self.video.stg or self.audio.stg
        return Guidance(video=self.video, audio=self.audio, stg_blocks=stg_blocks if stg else ())


PRESETS: Final[dict[str, Preset]] = {
    "distilled 8": Preset(schedule="distilled", steps=8, sampler="euler"),
    "distilled 3": Preset(schedule="distilled_stage2", steps=3, sampler="euler"),
    # The ComfyUI templates.
    "dev 20": Preset(
        schedule=LTXV,
        steps=20,
        sampler="euler",
        video=StreamGuidance(cfg=4.0),
        audio=StreamGuidance(cfg=4.0),
    ),
    # The official parameters for 2.3.
    "dev 30 guided": Preset(
        schedule=LTXV,
        steps=30,
        sampler="euler",
        video=StreamGuidance(cfg=3.0, stg=1.0, modality=3.0, rescale=0.7),
        audio=StreamGuidance(cfg=7.0, stg=1.0, modality=3.0, rescale=0.7),
    ),
    # The official HQ pipeline.
    "quality res_2s 15": Preset(
        schedule=LTXV,
        steps=15,
        sampler="res_2s",
        eta=0.5,
        video=StreamGuidance(cfg=3.0, modality=3.0, rescale=0.45),
        audio=StreamGuidance(cfg=7.0, modality=3.0, rescale=1.0),
    ),
    # The official first stage of distilled LTX-2.5.
    "distilled 8 ancestral": Preset(schedule="distilled", steps=8, sampler="euler_ancestral", eta=1.0),
    # The second stage of the ComfyUI templates for 2.5; the official one is "distilled 3".
    "distilled 3 ancestral": Preset(schedule="stage2_2.3", steps=3, sampler="euler_ancestral", eta=1.0),
    # The guide of LTX-Video 2B, for text and for an image.
    "text euler 25": Preset(
        schedule=LTXV,
        steps=25,
        sampler="euler",
        video=StreamGuidance(cfg=3.0),
        audio=StreamGuidance(cfg=3.0),
    ),
    "image res_2s 25": Preset(
        schedule=LTXV,
        steps=25,
        sampler="res_2s",
        video=StreamGuidance(cfg=4.0),
        audio=StreamGuidance(cfg=4.0),
        image_strength=0.6,
    ),
}
"""Those whose name begins with "distilled" are for distilled weights or a distilled LoRA; of these, the ones
with 3 steps are second stages."""
