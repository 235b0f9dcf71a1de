"""Runs the stages of the DFR pipeline with the networks of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..conditioning.items import Conditioning
from ..conditioning.slots import generated_keyframes
from ..conditioning.state import drop_guides
from ..loading import Lora
from ..sampling.caching import Evaluations
from ..types import AVLatent
from .dfr import StageResult
from .prompt_embeds import Contexts
from .stage_sampler import StageSampler
from .stages import Stage


class DfrModels(Protocol):
    """The methods of a pipeline that :class:`DfrStages` uses: its LoRAs and both upscalers."""

    def stage_loras(self, index: int) -> tuple[Lora, ...]: ...

    def upsample(self, latents: AVLatent) -> AVLatent: ...

    def double_frames(self, video: Tensor) -> Tensor: ...


class DfrStages:
    """Runs the networks of the library for one :class:`DfrRun`, as its :class:`DfrNetworks`.

    ``models`` has the LoRAs and the upscalers, ``sampler`` samples a stage, and ``contexts`` are the encoded
    prompts of each stage. The attribute ``calls`` is a list with the forward passes of each sampled stage.
    """

    def __init__(self, models: DfrModels, sampler: StageSampler, contexts: Sequence[Contexts]) -> None:
        self.models = models
        self.sampler = sampler
        self.contexts = contexts
        self.calls: list[Evaluations] = []

    def sample(
        self, index: int, stage: Stage, start: AVLatent | None, items: Sequence[Conditioning]
    ) -> StageResult:
        state = self.sampler.state(stage, start)
        for item in items:
            state = item.apply(state)
        loras, contexts = self.models.stage_loras(index), self.contexts[index]
        latents, used = self.sampler.sample(index, stage, state, contexts, loras)
        self.calls.append(used)
        keyframes = generated_keyframes(latents, state)
        assert keyframes is not None
        return StageResult(drop_guides(latents, state), keyframes)

    def enlarge(self, video: Tensor) -> Tensor:
        larger = self.models.upsample(AVLatent(video, None)).video
        assert larger is not None
        return larger

    def double_frames(self, video: Tensor) -> Tensor:
        return self.models.double_frames(video)

    def report(self, what: str) -> None:
        self.sampler.run.report(what, 0, 1)
