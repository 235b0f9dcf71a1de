"""Samples several clips with one load of the networks; all prompts are encoded first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from ..loading import Component, Lora
from ..text.prompt import Prompt, PromptEmbeds
from ..types import TextContext
from .components import Components
from .generation import Generation
from .progress import OnStep, Run, Stop
from .request import Request
from .stages import Stage

TEXT_PARTS: Final = frozenset({Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION})
"""What encodes text, with the text encoder."""


class Sampler(Protocol):
    """The methods that these functions call to sample; :class:`~ltx2_core.LTX2Pipeline` has them."""

    @property
    def networks(self) -> Components: ...

    @property
    def second_text(self) -> bool:
        """Whether the LoRAs of stage 2 change the text networks, so that it needs its own text contexts."""
        ...

    def stage_loras(self, index: int) -> tuple[Lora, ...]: ...

    def resolve(self, request: Request) -> Request: ...

    def stages(self, request: Request) -> tuple[Stage, ...]: ...

    def encode_text(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        loras: tuple[Lora, ...] | None = None,
        run: Run | None = None,
    ) -> tuple[TextContext, TextContext | None]: ...

    def __call__(
        self, prompt: Request, *, on_step: OnStep | None = None, stop: Stop | None = None
    ) -> Generation: ...


def sample_each(
    pipeline: Sampler, requests: Sequence[Request], on_step: OnStep | None, stop: Stop | None
) -> Iterator[Generation]:
    """Encode the prompts of all ``requests``, then sample the requests in their order and yield each clip.

    ``on_step`` receives progress; ``stop`` ends the work when it returns True.
    """
    made: dict[tuple[Prompt, bool], PromptEmbeds] = {}
    with pipeline.networks.holding(Component.TEXT_ENCODER, *TEXT_PARTS):
        # Whether a negative prompt is needed belongs to the key, because encoding it takes as long as the
        # prompt.
        keys = [(pipeline.resolve(one).text, _reads_negative(pipeline, one)) for one in requests]
        for text, negative in keys:
            if text.embeds is None and (text, negative) not in made:
                run = Run(on_step, stop)
                made[text, negative] = encode_prompts(pipeline, text, negative=negative, run=run)
    # The text encoder is freed before, because both together exceed the memory of most GPUs.
    with pipeline.networks.holding(Component.TRANSFORMER, Component.UPSAMPLER, Component.VIDEO_ENCODER):
        for number, (request, key) in enumerate(zip(requests, keys, strict=True), start=1):
            own = request if key not in made else request.changed(prompt_embeds=made[key])
            step = None if on_step is None else _numbered(on_step, number, len(requests))
            yield pipeline(own, on_step=step, stop=stop)


def encode_prompts(
    pipeline: Sampler, text: Prompt, *, negative: bool = True, run: Run | None = None
) -> PromptEmbeds:
    """Encode a prompt, and its negative prompt if ``negative``, for every stage."""
    texts = text.prompt, (text.negative or "") if negative else None
    stages = [pipeline.encode_text(*texts, loras=pipeline.stage_loras(0), run=run)]
    if pipeline.second_text:
        stages.append(pipeline.encode_text(*texts, loras=pipeline.stage_loras(1), run=run))
    return PromptEmbeds(
        prompt=text.prompt,
        negative_prompt=text.negative,
        stages=tuple(stages),
        models=_text_models(pipeline),
    )


def check_embeds(pipeline: Sampler, embeds: PromptEmbeds) -> None:
    """Raise ValueError if other text networks, LoRAs or dtypes than those of ``pipeline`` made ``embeds``."""
    now = _text_models(pipeline)
    changed = [name for name in now if now[name] != embeds.models.get(name)]
    if changed:
        raise ValueError(
            f"prompt_embeds were made with other {', '.join(changed)}: encode the prompt again with "
            "encode_prompt of this pipeline"
        )


def _text_models(pipeline: Sampler) -> dict[str, Any]:
    """JSON values that identify what encodes text: networks, LoRAs, number format and numerics."""
    networks = pipeline.networks.identity()
    files = pipeline.networks.digests()
    parts = {str(component) for component in (*TEXT_PARTS, Component.TEXT_ENCODER)}
    loras = [
        [lora.settings for lora in pipeline.stage_loras(index) if TEXT_PARTS & lora.components]
        for index in (0, 1)
    ]
    return {
        "text networks": {name: digest for name, digest in files.items() if name in parts},
        "LoRAs": loras,
        "number format": networks["dtype"],
        "numerics": networks["numerics"],
    }


def _reads_negative(pipeline: Sampler, request: Request) -> bool:
    return any(stage.needs_negative for stage in pipeline.stages(request))


def _numbered(on_step: OnStep, number: int, count: int) -> OnStep:
    """Wrap ``on_step``: the names of stages begin with "clip ``number`` of ``count``: "."""
    return lambda progress: on_step(replace(progress, stage=f"clip {number} of {count}: {progress.stage}"))
