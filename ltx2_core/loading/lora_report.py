"""The report on how a LoRA fits a model: matching layers of each stream, and its base model's generation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..storage.files import ParsedJson
from .detect import Component
from .lora_dialects import few

Stream = Literal["video", "audio", "cross", "text"]
Status = Literal["matched", "unmatched", "mismatched", "elsewhere"]

STREAMS: tuple[Stream, ...] = ("video", "audio", "cross", "text")
_BLOCK = re.compile(r"^transformer_blocks[._]\d+[._]")


@dataclass(frozen=True)
class LoraEntry:
    """How one layer of a LoRA fits the model.

    ``status`` is "matched", "unmatched" (the model has no such module), "mismatched" (of another shape) or
    "elsewhere" (for a component that was not compared). ``detail`` has both shapes if they differ.
    """

    module: str
    """The model's name of the module if it has one, otherwise the LoRA's."""
    component: Component
    status: Status
    detail: str = ""

    @property
    def stream(self) -> Stream:
        return stream_of(self.component, self.module)

    def __str__(self) -> str:
        return self.module + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """Which layers of a LoRA fit a model or one component of it; ``str()`` gives a readable report."""

    file: str
    video_strength: float
    audio_strength: float
    entries: tuple[LoraEntry, ...]
    note: str = ""
    """A sentence about the generation of its base model, or ""."""
    wrong_generation: bool = False

    @property
    def matched(self) -> tuple[str, ...]:
        return self._named("matched")

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The LoRA's layers for modules that this model does not have."""
        return self._named("unmatched")

    @property
    def shape_mismatched(self) -> tuple[str, ...]:
        """The LoRA's layers whose shape differs from the model's; each text has both shapes."""
        return self._named("mismatched")

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The LoRA's layers for components of the model that were not compared."""
        return self._named("elsewhere")

    @property
    def is_clean(self) -> bool:
        """Whether every compared layer fits, and the LoRA is not known to be for another model generation."""
        return not (self.unmatched or self.shape_mismatched or self.wrong_generation)

    def count(self, stream: Stream, status: Status) -> int:
        return sum(entry.stream == stream and entry.status == status for entry in self.entries)

    def require_match(self) -> None:
        """Raise ValueError if the LoRA has layers for the compared components but none of them fits."""
        if not self.matched and (self.unmatched or self.shape_mismatched):
            raise ValueError(f"{self}\nThis LoRA was made for another model or another LTX-2 generation")

    def __str__(self) -> str:
        compared = len(self.entries) - len(self.elsewhere)
        lines = [f"{self.file}: {len(self.matched)} of {compared} layers at {self._strengths()}"]
        for stream in STREAMS:
            counts: tuple[tuple[Status, str], ...] = (
                ("matched", "matched"),
                ("unmatched", "not in this model"),
                ("mismatched", "of another shape"),
            )
            present = [f"{n} {what}" for status, what in counts if (n := self.count(stream, status))]
            if present:
                lines.append(f"{stream}: {', '.join(present)}")
        for names, what in (
            (self.unmatched, "not in this model"),
            (self.shape_mismatched, "of another shape"),
        ):
            if names:
                lines.append(f"{what}: {few(names)}")
        if self.elsewhere:
            parts = dict.fromkeys(str(e.component) for e in self.entries if e.status == "elsewhere")
            lines.append(f"for other components ({', '.join(parts)}): {len(self.elsewhere)}")
        return "\n  ".join([*lines, *([self.note] if self.note else [])])

    def _strengths(self) -> str:
        if self.video_strength == self.audio_strength:
            return f"strength {self.video_strength:g}"
        return f"strength {self.video_strength:g}, audio {self.audio_strength:g}"

    def _named(self, status: Status) -> tuple[str, ...]:
        return tuple(str(entry) for entry in self.entries if entry.status == status)


def stream_of(component: Component, module: str) -> Stream:
    """The part of the model that a module belongs to: "video", "audio", "cross" or "text".

    ``module`` is the module's official name. "cross" means cross-modal attention and its modulation.
    """
    name = _BLOCK.sub("", module)
    if component is not Component.TRANSFORMER or name.removeprefix("audio_").startswith("caption_projection"):
        return "text"
    if name.startswith(("audio_to_video_attn", "video_to_audio_attn", "av_ca_", "av_cross_attn_")):
        return "cross"
    return "audio" if name.startswith("audio_") else "video"


def updated_stream(module: str) -> Literal["video", "audio"] | None:
    """The stream that a module changes, "video" or "audio", which decides the strength of its LoRA layer.

    None if the module changes both. ``module`` is the module's official name.
    """
    name = _BLOCK.sub("", module)
    # The one projection of 2.0 serves both streams.
    if name.startswith("aggregate_embed"):
        return None
    # The name begins with the stream that is read, and not with the one that changes.
    if name.startswith("audio_to_video_attn"):
        return "video"
    if name.startswith(("audio_", "video_to_audio_attn", "av_ca_audio", "av_ca_v2a")):
        return "audio"
    return "video"


Shape = tuple[int, ...]


def describe_generation(
    layers: Mapping[tuple[Component, str], Shape], metadata: ParsedJson, model: str | None
) -> tuple[str, bool]:
    """Compare the base model of a LoRA with ``model``, the generation of the model that it is used with.

    ``model`` is, for example, "2.3", or None if unknown. Returns a sentence about the LoRA's generation, ""
    if there is nothing to say, and whether it certainly differs from ``model``. ``layers`` are the shapes of
    the LoRA's weight changes by (component, module name in it); ``metadata`` is that of the LoRA's file. A
    LoRA for 2.3 has the same layers as one for 2.5, so these two are not distinguished.
    """
    base, why = _generation_by_layers(layers)
    if base is None:
        base, why = _generation_by_metadata(metadata)
    # A LoRA without audio may have only layers that LTX-Video has, too.
    silent = all(stream_of(*target) != "audio" for target in layers)
    if model is None:
        family = "LTX-Video or LTX-2.0" if base == "2.0" and silent else _family(base)
        return (f"made for {family}: it has {why}" if base else ""), False
    if model == "0.9" and silent and base in (None, "0.9", "2.0"):
        return "", False
    if base is None:
        return (
            f"whether it was made for LTX-{model} is unknown: LTX-2.0, 2.3 and 2.5 have all of its layers "
            "in the same sizes"
        ), False
    # A LoRA for 2.3 has the same layers as one for 2.5, so both count as 2.3 here.
    if model == "2.5" and base == "2.3" and _STATES_23.search(why):
        return "made for LTX-2.3, as most LoRAs that are used with LTX-2.5 are", False
    if base == ("2.0" if model == "2.0" else "2.3"):
        return "", False
    this = "LTX-Video" if model == "0.9" else f"LTX-{model}"
    return f"WRONG GENERATION: made for {_family(base)} ({why}), this model is {this}", True


_STATES_23 = re.compile(r"^metadata .*2[._]3\b")
_MODULATION = re.compile(r"^(audio_)?adaln_single[._]linear$")
_LATE = re.compile(
    r"[._]to_gate_logits$|^(audio_)?prompt_adaln_single[._]|^(video|audio)_aggregate_embed$"
    r"|_connector[._]transformer_1d_blocks[._][2-7][._]"
)
# Layers, an axis of their weight, and its size in LTX-Video alone: the width of its 2B, and that of its T5.
_LTX_VIDEO = (
    (re.compile(r"[._]attn1[._]to_q$"), 1, 2048),
    (re.compile(r"^caption_projection[._]linear_1$"), 1, 4096),
)
_EARLY = re.compile(r"^(audio_)?caption_projection[._]|^aggregate_embed$")


def _generation_by_layers(layers: Mapping[tuple[Component, str], Shape]) -> tuple[str | None, str]:
    for (component, name), shape in layers.items():
        # Layers of the language model say nothing about the transformer.
        if component is Component.TEXT_ENCODER:
            continue
        if len(shape) == 2 and any(axis.search(name) and shape[at] == n for axis, at, n in _LTX_VIDEO):
            return "0.9", f"the width {shape[1]} of {name}"
        if _EARLY.search(name):
            return "2.0", f"its layer {name}"
        if _LATE.search(name):
            return "2.3", f"its layer {name}"
        # Two branches of a block are modulated in 2.0, and since 2.3 a third: attention to the text.
        if _MODULATION.search(name) and len(shape) == 2 and shape[0] in (6 * shape[1], 9 * shape[1]):
            parameters = shape[0] // shape[1]
            return ("2.0" if parameters == 6 else "2.3"), f"the {parameters} modulation parameters of {name}"
    return None, ""


def _generation_by_metadata(metadata: ParsedJson) -> tuple[str | None, str]:
    for key in ("model_version", "ss_base_model_version", "modelspec.architecture"):
        found = re.search(r"2[._](0|3|5)\b", str(metadata.get(key, "")))
        if found:
            return ("2.0" if found[1] == "0" else "2.3"), f"metadata {key} = {metadata[key]!r}"
    return None, ""


def _family(generation: str | None) -> str:
    return {"0.9": "LTX-Video", "2.0": "LTX-2.0"}.get(str(generation), "LTX-2.3 or 2.5")
