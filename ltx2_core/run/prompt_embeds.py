"""Encodes prompts once for several runs, and checks that encoded prompts fit the networks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from ..loading import Component, Lora
from ..storage.files import JsonObject
from ..text.prompt import Prompt, PromptEmbeds
from ..types import TextContext, TextsByTime
from .components import Components
from .progress import Run
from .stages import Stage

TEXT_PARTS: Final = frozenset({Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION})
"""The components that encode text together with the text encoder."""

Contexts = tuple[TextContext, TextContext | None]
"""The encoded prompt and the encoded negative prompt (None without one), as the transformer reads them."""


class TextModels(Protocol):
    """What the functions of this file use of a :class:`~ltx2_core.LTX2Pipeline`: networks and LoRAs."""

    @property
    def networks(self) -> Components: ...

    @property
    def second_text(self) -> bool:
        """Whether the second stage encodes the prompts again, because its LoRAs change the text networks."""
        ...

    def stage_loras(self, index: int) -> tuple[Lora, ...]: ...

    def count_tokens(self, prompts: Sequence[str]) -> list[int]: ...

    def encode_text(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        loras: tuple[Lora, ...] | None = None,
        run: Run | None = None,
    ) -> Contexts: ...


def stage_contexts(models: TextModels, text: Prompt, stages: Sequence[Stage], run: Run) -> list[Contexts]:
    """Return (encoded prompt, encoded negative prompt) for each of ``stages``, as the transformer reads them.

    ``text`` are the prompts of a request; ``models`` encode them, unless ``text`` has them encoded already.
    The negative prompt is None if no stage needs it. All stages have the same encoded prompts, except a
    second stage whose LoRAs change the text networks. ``run`` receives the progress.
    """
    needed = any(stage.needs_negative for stage in stages)
    if text.embeds is not None:
        each = [text.embeds.of_stage(int(index == 1)) for index in range(len(stages))]
        return [(positive, negative if needed else None) for positive, negative in each]
    negative = text.negative if needed else None
    contexts: list[Contexts] = []
    for index in range(len(stages)):
        # Stages after the second, those of temporal rounds, have the LoRAs of the first.
        if index == 0 or (index == 1 and models.second_text):
            loras = models.stage_loras(index)
            contexts.append(_encoded(models, text, negative, stages[0].clip.seconds, loras, run))
        else:
            contexts.append(contexts[0])
    return contexts


def _encoded(
    models: TextModels,
    text: Prompt,
    negative: str | None,
    seconds: float | None,
    loras: tuple[Lora, ...],
    run: Run | None,
) -> Contexts:
    """Encode the prompt of ``text``, those by time of a clip of ``seconds``, and the ``negative`` one."""
    parts = text.by_time(seconds)
    if len(parts) == 1:
        # A single text is a plain run with that text.
        return models.encode_text(parts[0][1], negative, loras=loras, run=run)
    if parts and text.method != "separate":
        whole, relay = text.relayed(seconds, models.count_tokens)
        context, other = models.encode_text(whole, negative, loras=loras, run=run)
        return replace(context, by_time=relay), other
    # Without a text for the whole clip, what is outside of its time attends to the first part.
    whole = text.prompt if text.prompt.strip() or not parts else parts[0][1]
    context, other = models.encode_text(whole, negative, loras=loras, run=run)
    if not parts:
        return context, other
    made = {whole: context}
    for _, part in parts:
        if part not in made:
            made[part] = models.encode_text(part, loras=loras, run=run)[0]
    by_time = TextsByTime(tuple((start, made[part]) for start, part in parts), text.fade_s)
    return replace(context, by_time=by_time), other


def encode_prompts(
    models: TextModels,
    text: Prompt,
    *,
    seconds: float | None = None,
    negative: bool = True,
    run: Run | None = None,
) -> PromptEmbeds:
    """Encode the prompt of ``text`` for every stage, and with ``negative`` its negative prompt too.

    ``seconds`` is the length of the clip, which prompts by time may need. ``run`` receives the progress; None
    reports nothing.
    """
    other = (text.negative or "") if negative else None
    stages = [_encoded(models, text, other, seconds, models.stage_loras(0), run)]
    if models.second_text:
        stages.append(_encoded(models, text, other, seconds, models.stage_loras(1), run))
    return PromptEmbeds(
        prompt=text.prompt,
        negative_prompt=text.negative,
        stages=tuple(stages),
        models=_identity_of(models),
        at=text.at,
        method=text.method,
    )


def check_embeds(models: TextModels, embeds: PromptEmbeds) -> None:
    """Raise ValueError if ``embeds`` were made with other text networks, LoRAs or dtypes than ``models``."""
    now = _identity_of(models)
    changed = [name for name in now if now[name] != embeds.models.get(name)]
    if changed:
        raise ValueError(
            f"prompt_embeds were made with other {', '.join(changed)}: encode the prompt again with "
            "encode_prompt of this pipeline"
        )


def _identity_of(models: TextModels) -> JsonObject:
    """JSON values that identify what encoded prompts depend on; encoded prompts store them for comparison.

    They are digests of the text networks, their LoRAs, the number format and the numerics.
    """
    networks = models.networks.identity()
    files = models.networks.digests()
    parts = {str(component) for component in (*TEXT_PARTS, Component.TEXT_ENCODER)}
    loras = [
        [lora.settings for lora in models.stage_loras(index) if TEXT_PARTS & lora.components]
        for index in (0, 1)
    ]
    return {
        "text networks": {name: digest for name, digest in files.items() if name in parts},
        "LoRAs": loras,
        "number format": networks["dtype"],
        "numerics": networks["numerics"],
    }
