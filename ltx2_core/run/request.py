"""The request of a run: an immutable value, made from flat keywords and stored in nested parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, TypedDict, cast

from ..conditioning.inputs import AudioSource, Inputs, SourceClip
from ..sampling.guidance import Guidance, GuidanceSchedule
from ..sampling.ltx_video import guidance_13b
from ..sampling.settings import SamplingSettings, StageSettings
from ..shapes import ClipSize
from ..storage.files import JsonObject
from ..text.prompt import TRIGGER, Prompt, PromptEmbeds
from .flat_options import FIELDS, RequestFields, RequestOptions, check_names
from .options import check_keywords
from .recipe_guidance import guidance_of
from .recipes import DEFAULT, NEGATIVE_PROMPT, Recipe, of_kind
from .request_check import check_parts
from .request_json import from_json, schema, to_json
from .request_values import checked_values

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NEGATIVE_PROMPT", "AudioSource", "Request", "RequestOptions"]


class RequestParts(TypedDict):
    """The parts of a request: prompts, size and length, inputs, settings of the first and of later stages."""

    text: Prompt
    size: ClipSize
    inputs: Inputs
    sampling: SamplingSettings
    staging: StageSettings


PIPELINES: Mapping[str, RequestOptions] = {
    # Every stage of it runs distilled weights; audio is that of the first, as no later one refines it.
    "dfr": {
        "stages": 2,
        "distilled": True,
        "sampler": "euler",
        "stage2_sampler": "euler",
        "audio_stage": 1,
    }
}
"""Name of a pipeline -> the values of a request that it decides."""


@dataclass(frozen=True, kw_only=True, init=False)
class Request:
    """All settings of a run.

    It is made with keywords, ``Request(prompt="a ball", width=768)``, and read by the same names,
    ``request.width``; the values are stored in the five parts. A keyword that is None is decided by the
    recipe (default settings) of the checkpoint, or turns the feature off where the recipe has no such value.

    Args:
        prompt, negative_prompt: description of the clip and its audio; what to avoid.
        trigger: trigger word of a LoRA, which takes the place of ``[trigger]`` in the prompt.
        prompts_at, prompt_fade: prompts for parts of the clip, each after ``prompt``, such as "0: it rolls;
            2: it stops"; seconds around the start of a part in which it is mixed with the one before.
        prompt_method: "separate" encodes each part by itself, "relay" all of them in one text, to which each
            moment attends by its time; "relay_wdc" is that with the times of the pack WhatDreamsCost.
        prompt_embeds: both prompts as ``pipeline.encode_prompt`` made them, in place of encoding them.
        width, height: size of the finished clip in pixels; a multiple of 32, of 64 with two stages.
        num_frames, seconds: length of the clip, one of the two; 8k + 1 frames. seconds="auto" predicts it
            from the prompt, by the duration head of LTX-2.5.
        fps, snap: frames per second; how a size or length that is not on the latent grid is rounded: "floor",
            "nearest" or "ceil", or "error" to refuse it.
        video: False generates audio alone, in one stage.
        image: image, or clip (N, 3, H, W) in [0, 1], that the video starts with; fitted as ``fit`` says.
        image_strength, stage2_image_strength: how much of it the first and the second stage preserve: 1 all,
            0 nothing.
        image_crf: strength of the H.264 round trip that a single image goes through, 0 is off.
        images: images that guide the clip at frames: :class:`ImageAt` values, or (image, frame) and (image,
            frame, strength); frame -1 is the last.
        references: control videos or references of IC-LoRAs: :class:`VideoReference` values, or videos.
        fit: how images and references of another shape are brought to that of the clip: "crop" around the
            centre, "pad" with black borders, or "stretch". The last two resize by Lanczos.
        background: CSS colour that replaces transparent pixels of images and references.
        audio, audio_start_s: audio of the clip, from that second on; cut, or followed by silence.
        audio_noise_db: RMS, in dB of full scale, of white noise added to ``audio`` before it is encoded.
        audio_regions: pairs (start, end) in seconds in which audio is generated in place of ``audio``.
        reference_audio, reference_s: audio to imitate, such as a voice, and how many seconds of it.
        identity: guidance scale towards ``reference_audio``; costs one more guidance pass a step.
        latents, denoise: latents to start from, those of a clip or what ``pipeline.encode_video`` returns;
            noise is added to them up to the first sigma. ``denoise`` is the part of the schedule that is
            sampled: 1 is all of it, 0.3 only the last steps, which preserve most of the latents.
        noise: latents (AVLatent) of noise for the first stage, in place of noise from ``seed``.
        source_clip: the file and the regions of an edit, which are only recorded in the settings.
        hdr: colour space of EXR images and of the clip, which is then HDR: "srgb-linear" (linear light of
            BT.709), "acescg" (linear) or "acescct" (its log codes). It is decoded in float32 and saved as EXR
            images and an HLG master.
        steps, sigmas: number of sampling steps of the first stage, or its noise levels; a final 0 is appended
            where it is missing.
        schedule: number of tokens for which the noise levels are computed: "4096", like the official
            pipelines, or "clip" for that of the clip, like diffusers and ai-toolkit. By default "4096" with
            official numerics, "clip" with those of ComfyUI.
        sampler, eta: a name of ``SAMPLERS``; the share of fresh noise in each step, for those that add noise.
        distilled: for distilled weights or a distilled LoRA: 8 fixed steps and no guidance.
        cfg, audio_cfg: scales of classifier-free guidance in the first stage; if only ``cfg`` is passed, it
            is used for the audio too.
        guidance: all guidance of the first stage, in place of ``cfg`` and ``audio_cfg``.
        nag: normalised attention guidance, which avoids the negative prompt without a guidance pass: at cfg 1
            and in the second stage.
        cache: reuses velocities between steps, which is faster and not exact.
        tiles: computes each step of a large frame in overlapping tiles.
        generated_keyframes: images that LTX-2.5 generates as extra tokens in the first stage, to which the
            clip attends: how many, spread evenly, or their frames, such as [24, 48, -1].
        seed, noise_device: seed of all noise, and the device that draws it. None or -1 draws a seed; noise
            drawn on "cpu" is the same on every machine.
        stages: 1, or 2: half size first, then the upscaler and a second stage at full size.
        stage2_sigmas, stage2_sampler: noise levels and sampler of the second stage; the sampler is by default
            Euler if the first stage has guidance, else ``sampler``.
        stage2_tiles: how many tiles the second stage is divided into along time, height and width each, as
            in HDR clips of ``to_hdr``; 1 samples it whole. It takes no images, keyframes or input audio.
        audio_stage: the stage, 1 or 2, that the audio is taken from; by default 1 if the first stage has
            guidance and the numerics are official, else 2.
        pipeline_kind, temporal_rounds: "dfr" samples by the DFR pipeline of LTX-2.5, which decides stages,
            schedule and guidance, with that many rounds that each double the frame rate (0, 1 or 2).

    Raises TypeError for unknown names, and ValueError for values out of range and for names that contradict
    each other, such as ``distilled=True`` with ``steps``.
    """

    text: Prompt
    size: ClipSize
    inputs: Inputs
    sampling: SamplingSettings
    staging: StageSettings

    def __init__(
        self,
        *,
        prompt: str | None = None,
        text: Prompt | None = None,
        size: ClipSize | None = None,
        inputs: Inputs | None = None,
        sampling: SamplingSettings | None = None,
        staging: StageSettings | None = None,
        **options: Unpack[RequestOptions],
    ) -> None:
        flat = cast(RequestFields, {**options})
        check_names(flat)
        embeds = flat.get("prompt_embeds")
        if text is None and prompt is None and isinstance(embeds, PromptEmbeds):
            prompt = embeds.prompt
        if text is None and prompt is None:
            raise TypeError("a request needs a prompt: give prompt=...")
        if prompt is not None:
            flat["prompt"] = prompt
        texts = f"{prompt} {flat.get('prompts_at')}"
        if flat.get("trigger") is not None and prompt is not None and TRIGGER not in texts:
            raise ValueError(
                f"trigger={flat['trigger']!r} has no effect without {TRIGGER} in the prompt: write it there"
            )
        self._fill(
            {
                "text": text or Prompt(prompt=prompt),  # type: ignore[arg-type]
                "size": size or ClipSize(),
                "inputs": inputs or Inputs(),
                "sampling": sampling or SamplingSettings(),
                "staging": staging or StageSettings(),
            },
            # What a pipeline decides is part of the request, but nothing that its caller has chosen.
            cast(RequestFields, {**flat, **PIPELINES.get(flat.get("pipeline_kind") or "", {})}),
        )
        held: dict[str, object] = {} if sampling is None else {"distilled": sampling.distilled}
        held |= {} if staging is None else {"pipeline_kind": staging.pipeline}
        present = {name for name in FIELDS if _is_present(getattr(self, name))}
        check_keywords(flat, present, held=held)

    def _fill(self, parts: RequestParts, flat: RequestFields) -> None:
        """Set the fields of this request to ``parts``, in which the keywords ``flat`` replace single values.

        Raises TypeError or ValueError for values that are wrong or do not fit each other.
        """
        source_clip = flat.get("source_clip")
        if isinstance(source_clip, Mapping):
            flat["source_clip"] = SourceClip(**source_clip)
        changes: dict[str, dict[str, object]] = {}
        for name, value in checked_values(flat).items():
            path, _, last = FIELDS[name].rpartition(".")
            changes.setdefault(path, {})[last] = value
        for name, part in parts.items():
            # The dataclass is frozen, which holds for its own constructor, too.
            object.__setattr__(self, name, _replaced(part, name, changes))
        check_parts(self.text, self.size, self.inputs, self.sampling, self.staging)

    def __getattr__(self, name: str) -> Any:
        """Read a value by its keyword: ``request.steps`` is ``request.sampling.steps``.

        Raises AttributeError for a name that is no keyword of a request.
        """
        if name not in FIELDS:
            raise AttributeError(f"a request has no {name!r}")
        value: Any = self
        for step in FIELDS[name].split("."):
            value = getattr(value, step)
        return value

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *FIELDS]

    def changed(self, *, prompt: str | None = None, **options: Unpack[RequestOptions]) -> Request:
        """Return a copy of this request in which the keywords that are passed have new values."""
        parts = self._parts()
        if prompt is not None:
            parts["text"] = replace(self.text, prompt=prompt)
        return Request(**parts, **options)

    def _parts(self) -> RequestParts:
        return {
            "text": self.text,
            "size": self.size,
            "inputs": self.inputs,
            "sampling": self.sampling,
            "staging": self.staging,
        }

    @classmethod
    def _unchecked(cls, parts: RequestParts, flat: RequestFields) -> Request:
        """Make a request without the check for keywords that contradict each other.

        ``parts`` are its parts, in which the keywords ``flat`` replace single values. The check is left out
        for values that no user chose together, such as the default settings of a model.
        """
        request = cls.__new__(cls)
        request._fill(parts, flat)
        return request

    def with_recipe(self, recipe: Recipe = DEFAULT) -> tuple[Request, tuple[str, ...]]:
        """Return a copy of this request with every open value filled in, and the names of those values.

        ``recipe``, a table of default settings, has the values. Values that the request has are never
        changed. The noise levels stay open, because :func:`plan_stages` computes them.
        """
        recipe = of_kind(recipe, distilled=self.sampling.distilled)
        sampling, staging = self.sampling, self.staging
        undecided = ["negative_prompt", "fps", "image_crf"]
        if self.inputs.latents is None or self.inputs.latents.video is None:
            undecided += ["width", "height"]
            if self.size.seconds is None:
                undecided.append("num_frames")
        undecided += self._strengths()
        if sampling.sigmas is None and recipe.sigmas is None:
            undecided.append("steps")
        if sampling.sampler is None:
            undecided.append("sampler")
            if recipe.eta is not None:
                undecided.append("eta")
            if staging.count == 2:
                undecided.append("stage2_sampler")
        if sampling.guidance is None and sampling.cfg is None:
            undecided.append("cfg")
            # An audio scale that is absent follows a cfg that is named.
            undecided.append("audio_cfg")
        chosen = {name: getattr(recipe, name) for name in undecided if getattr(self, name) is None}
        if sampling.guidance is None and recipe.guided:
            chosen["guidance"] = self._guidance(recipe)
        names = tuple(chosen)
        if self.text.embeds is not None and chosen.get("negative_prompt") != self.text.embeds.negative_prompt:
            # Embeddings bring their own, which is no choice of the recipe.
            chosen["negative_prompt"] = self.text.embeds.negative_prompt
            names = tuple(name for name in names if name != "negative_prompt")
        return self._unchecked(self._parts(), cast(RequestFields, chosen)), names

    def _strengths(self) -> tuple[str, ...]:
        """The names of the strengths of the first image: one for each stage, none without an image."""
        names = ("image_strength", "stage2_image_strength")
        return names[: self.staging.count] if self.inputs.image.source is not None else ()

    def _guidance(self, recipe: Recipe) -> Guidance | GuidanceSchedule:
        """The guidance of ``recipe``, with the scales ``cfg`` and ``audio_cfg`` of this request, if set."""
        sampling, voice = self.sampling, self.inputs.reference_audio
        if recipe.by_step and sampling.cfg is None:
            return guidance_13b(recipe.by_step)
        return guidance_of(
            recipe,
            cfg=sampling.cfg,
            audio_cfg=sampling.audio_cfg,
            identity=0.0 if voice.source is None else voice.identity,
        )

    def settings(self) -> JsonObject:
        """The request as flat JSON values: files by their names, tensors as the text "<Tensor in memory>"."""
        return to_json(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Request:
        """Make a request from the JSON values of :meth:`settings`, which the tags of a clip's file hold.

        Raises ValueError for unknown names, for values of a wrong type, and for an image, audio or latents
        that were in memory and so are not in the settings.
        """
        flat = from_json(settings)
        return cls._unchecked(cls(prompt=flat["prompt"])._parts(), flat)

    @staticmethod
    def json_schema() -> JsonObject:
        """The JSON schema of the values that :meth:`settings` returns."""
        return schema()


def request_of(prompt: str | Request | None, options: RequestOptions) -> Request:
    """Make the request of a call from a prompt and the keywords in ``options``.

    If ``prompt`` is a whole request, the result is a copy of it that the keywords change. ``prompt`` may be
    None only with encoded prompts among the keywords.
    """
    if isinstance(prompt, Request):
        return prompt.changed(**options) if options else prompt
    return Request(prompt=prompt, **options)


def _is_present(value: Any) -> bool:
    # An array compares element by element, so that only tuples are compared.
    return value is not None and not (isinstance(value, tuple) and not value)


def _replaced(part: Any, path: str, changes: Mapping[str, Mapping[str, object]]) -> Any:
    """Return a copy of the dataclass ``part``, which is at ``path`` in a request, with new values.

    ``changes`` maps paths to new values by field: "inputs" for fields of the inputs, "inputs.image" for
    fields of the image in the inputs. Other paths than ``path`` and those directly below it have no effect.
    """
    values = {**changes.get(path, {})}
    for inner, new in changes.items():
        outer, _, name = inner.rpartition(".")
        if outer == path:
            values[name] = replace(getattr(part, name), **new)
    return replace(part, **values) if values else part


def _default(name: str) -> Any:
    """The value that the keyword ``name`` has in a request that is made without it."""
    return getattr(Request(prompt=""), name)


def flat_signature(*before: Parameter) -> Signature:
    """Make the signature that ``help`` displays: parameters ``before``, then every keyword of a request."""
    keywords = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=_default(name),
            # The text of a type that is written as text, as inspect writes those of functions.
            annotation=getattr(annotation, "__forward_arg__", annotation),
        )
        for name, annotation in RequestOptions.__annotations__.items()
    ]
    return Signature([*before, *keywords])


Request.__signature__ = flat_signature(  # type: ignore[attr-defined]
    Parameter("prompt", Parameter.KEYWORD_ONLY, annotation="str")
)


def __getattr__(name: str) -> Any:
    """Return ``Stage`` or ``plan_stages``, which were in this file in version 0.1, from their new file.

    Raises AttributeError for any other name.
    """
    if name in ("Stage", "plan_stages"):
        return getattr(import_module(".stages", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
