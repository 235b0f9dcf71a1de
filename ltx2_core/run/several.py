"""Samples several clips with one load of the networks; all prompts are encoded before the first clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from ..loading import Component
from ..text.prompt import Prompt, PromptEmbeds
from .generation import Generation
from .progress import OnStep, Run, Stop
from .prompt_embeds import TEXT_PARTS, TextModels, encode_prompts
from .request import Request
from .stages import Stage


class Sampler(TextModels, Protocol):
    """A pipeline that can sample several clips, such as :class:`~ltx2_core.LTX2Pipeline`."""

    def resolve(self, request: Request) -> Request: ...

    def stages(self, request: Request) -> tuple[Stage, ...]: ...

    def __call__(
        self, prompt: Request, *, on_step: OnStep | None = None, stop: Stop | None = None
    ) -> Generation: ...


def sample_each(
    pipeline: Sampler, requests: Sequence[Request], on_step: OnStep | None, stop: Stop | None
) -> Iterator[Generation]:
    """Encode the prompts of all ``requests``, then sample the requests in their order and yield each clip.

    ``on_step`` receives the progress; None reports nothing. ``stop`` ends the work with :class:`Stopped` when
    it returns True; None never does.
    """
    made: dict[tuple[Prompt, bool, float | None], PromptEmbeds] = {}
    with pipeline.networks.holding(Component.TEXT_ENCODER, *TEXT_PARTS):
        # Whether a negative prompt is needed belongs to the key, because encoding it takes as long as the
        # prompt.
        keys = [
            (pipeline.resolve(one).text, _reads_negative(pipeline, one), _seconds(pipeline, one))
            for one in requests
        ]
        for text, negative, seconds in keys:
            if text.embeds is None and (text, negative, seconds) not in made:
                run = Run(on_step, stop)
                made[text, negative, seconds] = encode_prompts(
                    pipeline, text, seconds=seconds, negative=negative, run=run
                )
    # The text encoder is freed before, because both together exceed the memory of most GPUs.
    with pipeline.networks.holding(Component.TRANSFORMER, Component.UPSAMPLER, Component.VIDEO_ENCODER):
        for number, (request, key) in enumerate(zip(requests, keys, strict=True), start=1):
            own = request if key not in made else request.changed(prompt_embeds=made[key])
            step = None if on_step is None else _numbered(on_step, number, len(requests))
            yield pipeline(own, on_step=step, stop=stop)


def _reads_negative(pipeline: Sampler, request: Request) -> bool:
    return any(stage.needs_negative for stage in pipeline.stages(request))


def _seconds(pipeline: Sampler, request: Request) -> float | None:
    # Of other clips the length does not matter, and they share the encoded prompt.
    return None if request.text.at is None else pipeline.stages(request)[0].clip.seconds


def _numbered(on_step: OnStep, number: int, count: int) -> OnStep:
    """Wrap ``on_step`` so that the stage of each report begins with "clip ``number`` of ``count``: "."""
    return lambda progress: on_step(replace(progress, stage=f"clip {number} of {count}: {progress.stage}"))
